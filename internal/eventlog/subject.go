package eventlog

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"weir/internal/bus"
	"weir/internal/event"
)

// The subject of a fact is
//
//	weir.facts.{space}.{app}.{shelf}.{type}
//
// and of one of a crowd weir.crowd and the same, with names as bus.Token has them; the dot of a type stays. JetStream keeps
// an account of every subject, so there must not be one for every stream that
// ever was: a stream has one of 1024 shelves, by its name. In facts of crowds an
// app has one, too: it may be any name that a client has asked for.
const (
	factsPrefix = "weir.facts."
	crowdPrefix = "weir.crowd."
)

const shelves = 1024

func shelf(name string) string {
	if name == "" {
		return "="
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return fmt.Sprintf("%03x", h.Sum32()%shelves)
}

// appToken stands for an app in a subject that begins with prefix.
func appToken(prefix, app string) string {
	if prefix == crowdPrefix {
		return shelf(app)
	}
	return bus.Token(app)
}

// subjectOf returns the subject of a fact. What clients ask for may not exist,
// so it gets no subject of its own.
func subjectOf(e *event.Event) string {
	space, app := e.Space, e.App
	if space == "" {
		app = ""
	}
	stream, prefix := e.Stream, factsPrefix
	if Crowd(e.Type) {
		prefix = crowdPrefix
	}
	if app == "" {
		stream = ""
	}
	return prefix + bus.Token(space) + "." + appToken(prefix, app) + "." + shelf(stream) + "." + string(e.Type)
}

// tellsOfPush reports whether facts of that subject begin or end pushes.
func tellsOfPush(subject string) bool {
	return strings.HasSuffix(subject, "."+string(event.TypePublishStarted)) || strings.HasSuffix(subject, "."+string(event.TypePublishEnded))
}

// Filter says which facts a reader wants; what is empty matches all.
type Filter struct {
	Space, App, Stream string

	// Types are all facts of crowds or none of them. Without Types a Filter
	// matches what is no fact of crowds, or with Crowd, what is one.
	Types []event.Type
	Crowd bool
}

// Crowd reports whether facts of type t are facts of crowds: clients who have
// no right to anything can cause as many as they like, or there is one for each
// player. They are kept apart, so that they never displace the others: with
// limits of their own, gathered for up to a second, and numbered by themselves.
func Crowd(t event.Type) bool {
	return t == event.TypePublishRequested || t == event.TypePublishRefused || t == event.TypePlayEnded
}

// crowd reports to which of the two kinds of facts the filter applies.
func (f *Filter) crowd() (bool, error) {
	if len(f.Types) == 0 {
		return f.Crowd, nil
	}
	crowd := Crowd(f.Types[0])
	for _, t := range f.Types {
		if !SameLog(t, f.Types[0]) {
			return false, fmt.Errorf("no reader reads both %s and %s: they are in different logs", f.Types[0], t)
		}
	}
	return crowd, nil
}

// subjects returns what JetStream is to filter by; match does the rest.
func (f *Filter) subjects(prefix string) []string {
	token := func(name, t string) string {
		if name == "" {
			return "*"
		}
		return t
	}
	base := prefix + token(f.Space, bus.Token(f.Space)) + "." + token(f.App, appToken(prefix, f.App)) + "." + token(f.Stream, shelf(f.Stream)) + "."
	if len(f.Types) == 0 {
		if f.Space == "" && f.App == "" && f.Stream == "" {
			return nil // all there is
		}
		return []string{base + ">"}
	}
	list := make([]string, 0, len(f.Types))
	for _, t := range f.Types {
		if s := base + string(t); !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func (f *Filter) match(e *event.Event) bool {
	return (f.Space == "" || f.Space == e.Space) && (f.App == "" || f.App == e.App) && (f.Stream == "" || f.Stream == e.Stream) &&
		(len(f.Types) == 0 || slices.Contains(f.Types, e.Type))
}
