package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"weir/internal/callback/sink"
	"weir/internal/policy"
)

// sinkCommand is "weir sink".
type sinkCommand struct {
	Listen     string `default:"127.0.0.1:8090" placeholder:"ADDRESS" help:"Where to listen (${default})."`
	SecretFile string `placeholder:"FILE" help:"File with the secret of callback_delivery, to check signatures; without one, the environment's WEIR_CALLBACK_SECRET is the secret."`
	Bodies     bool   `help:"Print the bodies, too."`
	Count      int    `placeholder:"N" help:"End after so many events; otherwise with SIGINT."`

	Fail      float64       `placeholder:"PART" help:"Fail so many of all calls, 0 to 1."`
	FailFirst int           `placeholder:"N" help:"Fail the first N attempts of each event."`
	Status    int           `placeholder:"CODE" help:"With --fail or --fail-first: the status to answer (500)."`
	Redirect  string        `placeholder:"URL" help:"With --fail or --fail-first: redirect there instead."`
	Hang      bool          `help:"With --fail or --fail-first: do not answer."`
	Drop      bool          `help:"With --fail or --fail-first: close the connection."`
	Slow      time.Duration `placeholder:"TIME" help:"Take so long for every answer."`
}

// Run receives until it has enough or ctx ends, and then says what it has seen.
// It fails if anything was wrong.
func (c *sinkCommand) Run(ctx context.Context, stdout io.Writer) error {
	secret := os.Getenv("WEIR_CALLBACK_SECRET")
	if c.SecretFile != "" {
		text, err := os.ReadFile(c.SecretFile)
		if err != nil {
			return fmt.Errorf("--secret-file: %w", err)
		}
		secret = strings.TrimSpace(string(text))
	}
	if c.FailFirst > 0 && c.Fail > 0 {
		return errors.New("--fail and --fail-first: choose one")
	}
	if c.Fail == 0 && c.FailFirst == 0 && (c.Status != 0 || c.Redirect != "" || c.Hang || c.Drop) {
		return errors.New("--status, --redirect, --hang and --drop say how calls fail; --fail or --fail-first says which")
	}
	s := &sink.Sink{
		Secret: policy.NewSecret(secret), Out: stdout, Bodies: c.Bodies,
		Fail: c.Fail, FailFirst: c.FailFirst, Status: c.Status, Redirect: c.Redirect, Hang: c.Hang, Drop: c.Drop, Slow: c.Slow,
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	fmt.Fprintf(stdout, "receives callbacks at http://%s/\n", ln.Addr())
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }() // ends with Close
	err = c.wait(ctx, s, served)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if srv.Shutdown(end) != nil { // which lets the last answers go
		srv.Close()
	}
	a, _ := s.Account()
	fmt.Fprintf(stdout, "%d calls, %d events, %d of them again, %d made to fail, %d streams on the air\n", a.Calls, a.Events, a.Again, a.Refused, len(a.Live))
	if err != nil {
		return err
	}
	if len(a.Problems) > 0 {
		return fmt.Errorf("%d problems:\n%s", len(a.Problems), strings.Join(a.Problems, "\n"))
	}
	return nil
}

func (c *sinkCommand) wait(ctx context.Context, s *sink.Sink, served <-chan error) error {
	for {
		a, more := s.Account()
		if c.Count > 0 && a.Events >= c.Count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return err
		case <-more:
		}
	}
}
