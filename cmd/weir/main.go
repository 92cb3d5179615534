// Weir is a self-hosted live-streaming server: encoders push with RTMP, and
// players watch with RTMP, HTTP-FLV and HLS.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"weir/internal/bench"
	"weir/internal/ffmpeg"
	"weir/internal/node"
)

// version is that of the next release.
const version = "0.1.0"

// cli is the command line. Its help is for somebody who sees it first.
type cli struct {
	Serve     serve         `cmd:"" default:"withargs" help:"Run the server (the default). Without -c it listens on this machine only and takes any stream of the app live."`
	Check     check         `cmd:"" help:"Check a configuration file and say everything that is wrong with it."`
	Bench     bench.Command `cmd:"" help:"Put a server under load, ours or another's, and measure it."`
	Sink      sinkCommand   `cmd:"" help:"Receive callbacks on this machine, print and check them; for development."`
	Callbacks callbacks     `cmd:"" help:"Ask a running server what owners were told, and tell them again."`
	URL       urls          `cmd:"" help:"Print signed URLs to push to and play from, and say why a URL is accepted or not."`
	Apply     applyPolicy   `cmd:"" help:"Make the policy of a running server what a file says, all of it or nothing."`
	Diff      diffPolicy    `cmd:"" help:"Say in what the policy of a running server differs from a file; then the exit code is 1."`
	Get       getPolicy     `cmd:"" help:"Print a document of the policy of a running server, or list all of them."`
	Export    exportPolicy  `cmd:"" help:"Print the policy of a running server as weir apply takes it."`
	Version   showVersion   `cmd:"" help:"Print the version."`

	Streams    listStreams    `cmd:"" help:"List the streams on the air of a running server."`
	Stream     showStream     `cmd:"" help:"Describe a stream on the air."`
	Sessions   listSessions   `cmd:"" help:"List publishers and players."`
	Kick       kick           `cmd:"" help:"End the push of a stream, its players, or one session."`
	Forbid     forbid         `cmd:"" help:"Keep a stream, or all of an app, off the air, for a while or for ever."`
	Resume     resume         `cmd:"" help:"Let what is forbidden on the air again."`
	Forbidden  listForbidden  `cmd:"" help:"List what is forbidden."`
	Events     events         `cmd:"" help:"Print what happened at a running server, and with -f what happens."`
	History    history        `cmd:"" help:"List pushes that are over, or were refused."`
	Statistics statistics     `cmd:"" help:"Print bytes and players over time."`
	Recordings recordings     `cmd:"" help:"List recordings, start and stop them, print their URLs, delete them."`
	Clips      clips          `cmd:"" help:"Make clips of recordings, list them, print their URLs, delete them."`
	Snapshots  snapshots      `cmd:"" help:"List, take and save pictures of streams."`
	Renditions listTranscodes `cmd:"" help:"List renditions, and how they fare."`
	Encoders   listEncoders   `cmd:"" help:"List what a running server can encode renditions with, and what not and why."`
	Nodes      nodes          `cmd:"" help:"List the servers."`
	Token      tokens         `cmd:"" help:"Make, list and revoke tokens of a running server."`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == ffmpeg.SandboxArg {
		if err := ffmpeg.Sandbox(os.Args[2:]); err != nil { // otherwise it has become another program
			fmt.Fprintln(os.Stderr, message(err))
			os.Exit(ffmpeg.SandboxFailed)
		}
		return
	}
	// The first SIGTERM or interrupt asks to end in order, the second ends.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, message(err))
		code := 1
		if errors.As(err, new(trouble)) {
			code = 2
		}
		os.Exit(code)
	}
}

// run runs the command that args say.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("weir"),
		kong.Description("A live-streaming server: push with RTMP, watch with RTMP, HTTP-FLV and HLS."),
		kong.Vars{"stream": "SPACE/APP/STREAM; the space is default and the app live if not given"},
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(stdout, (*io.Writer)(nil)),
	)
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w\nTry: weir --help", err)
	}
	return command.Run()
}

// trouble is an error of a command whose exit code says something else.
type trouble struct{ error }

func (t trouble) Unwrap() error { return t.error }

// message is what is shown of err: problems of a file as they are, for editors
// that jump to them; others say who speaks.
func message(err error) string {
	var config *node.ConfigError
	if errors.As(err, &config) {
		return config.Error()
	}
	return "weir: " + err.Error()
}

type check struct {
	Config string `short:"c" required:"" placeholder:"FILE" help:"The configuration file."`
}

// Run checks the file.
func (c *check) Run(stdout io.Writer) error {
	cfg, err := node.Load(c.Config)
	if err != nil {
		return err
	}
	if err := cfg.Verify(); err != nil {
		return err
	}
	for _, w := range append(cfg.Warnings(), cfg.Lacks()...) {
		fmt.Fprintf(stdout, "%s: warning: %s\n", c.Config, w)
	}
	fmt.Fprintf(stdout, "%s: ok\n", c.Config)
	return nil
}

type showVersion struct{}

// Run prints the version of weir, of its source and of the compiler.
func (showVersion) Run(stdout io.Writer) error {
	line := "weir " + version
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				line += " (" + s.Value + ")"
			}
		}
		line += " " + info.GoVersion
	}
	fmt.Fprintln(stdout, line)
	return nil
}
