# Tasks of this project; "make help" lists them. Every target installs what it
# needs and the machine lacks, as far as it may.

GO       ?= go
SOAK     ?= 10m
FUZZTIME ?= 30s
ARGS     ?=

E2E := $(GO) test -race -tags e2e

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## build and start weir serve (more flags: make run ARGS='-c weir.yaml')
	exec bin/weir serve $(ARGS)

.PHONY: build
build: go web bin/weir-forkserver.so ## build bin/weir
	$(GO) build -o bin/weir ./cmd/weir

# What makes a picture cost a tenth. Without a C compiler weir does without.
bin/weir-forkserver.so: internal/ffmpeg/forkserver/forkserver.c
	@mkdir -p bin
	@$${CC:-cc} -O2 -Wall -shared -fPIC -o $@ $< || echo "pictures will cost more CPU: there is no C compiler to build $@ with" >&2

.PHONY: test
test: lint tools ## everything a change must pass: lint, go test -race, real clients
	$(GO) test -race -timeout 20m ./...
	$(E2E) -count=1 -parallel 4 -timeout 30m ./e2e

.PHONY: lint
lint: go ## formatting, go vet, staticcheck
	@unformatted=$$(gofmt -l cmd internal web e2e); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w these files:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -tags e2e ./...
	$(GO) tool staticcheck -tags e2e ./...

.PHONY: bench
bench: go ## the Go benchmarks (whole servers under load: see docs/performance.md)
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: fuzz
fuzz: go ## run every fuzz target for FUZZTIME (30s) beyond its corpus
	@failed=; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || failed="$$failed $$package.$$target"; \
		done; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

.PHONY: soak
soak: tools ## publishers and players come and go for SOAK (10m); nothing may leak
	WEIR_SOAK=$(SOAK) $(E2E) -count=1 -timeout 0 -v -run '^TestSoak$$' ./e2e

# The real clients that the end-to-end tests use.
.PHONY: tools
tools: go web
	@e2e/setup

# The players of the page that weir serves. Without them, for want of npm or of
# a network, the page plays what the browser plays by itself.
.PHONY: web
web:
	@$(MAKE) -s web/dist/mpegts.js || echo "the page of weir will be without players: npm failed" >&2

web/dist/mpegts.js: web/package.json web/package-lock.json
	@cd web && npm ci && npm run -s build
	@touch $@

.PHONY: go
go:
	@command -v $(GO) >/dev/null || { echo "Go 1.26 or later is needed: https://go.dev/dl/" >&2; exit 1; }
