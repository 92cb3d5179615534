package ffmpeg

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// lockIn finds out what this machine can lock a job in with.
func (t *Tool) lockIn(ctx context.Context, f *found) error {
	g, why := openGroups()
	if f.groups = g; g == nil {
		t.log.Debug("ffmpeg has no control group of its own", "err", why)
		return t.findMode(ctx, f)
	}
	err := t.findMode(ctx, f)
	if err != nil && ctx.Err() == nil { // a process may not be allowed to start in another group
		f.groups = nil
		err = t.findMode(ctx, f)
	}
	f.layers.Cgroup = f.groups.String()
	return err
}

// findMode finds the best mode that works.
func (t *Tool) findMode(ctx context.Context, f *found) error {
	last := errors.New("that can be done on Linux only")
	for _, m := range modes() {
		out, err := t.ask(ctx, f, m, func(s *spec) { s.Report = true })
		if err == nil {
			err = json.Unmarshal(out, &f.layers)
		}
		if err == nil {
			f.mode = m
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var e *Error
		if errors.As(err, &e) && e.Reason != Failed && e.Reason != NotStarted {
			return fmt.Errorf("lock it in: %w", err) // a busy machine; a weaker mode would be no better
		}
		last = err
	}
	return fmt.Errorf("lock it in: %w", last)
}

// probe asks ffmpeg for its version and its codecs.
func (t *Tool) probe(ctx context.Context, f *found) error {
	out, err := t.ask(ctx, f, f.mode, nil, "-hide_banner", "-version")
	if err != nil {
		return err
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	words := strings.Fields(string(line))
	if len(words) < 3 || words[0] != "ffmpeg" {
		return fmt.Errorf("%s is not an ffmpeg: it says %.80q", f.path, line)
	}
	f.version = words[2]
	for _, list := range []string{"-encoders", "-decoders"} {
		out, err := t.ask(ctx, f, f.mode, nil, "-hide_banner", list)
		if err != nil {
			return err
		}
		// " V....D libx264   what it is", after a line of dashes.
		_, out, _ = bytes.Cut(out, []byte("------\n"))
		for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
			if words := strings.Fields(sc.Text()); len(words) > 1 {
				f.codecs[words[1]] = true
			}
		}
	}
	return nil
}

// ask runs ffmpeg with arguments of ours and returns what it prints.
func (t *Tool) ask(ctx context.Context, f *found, m mode, change func(*spec), args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s := f.spec(m, &Limits{CPU: 20 * time.Second})
	if change != nil {
		change(s)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		w.Close()
		return nil, err
	}
	p := newProcess(t, &Limits{})
	p.cmd = m.command(t.opt.Self, append([]string{"weir", SandboxArg, s.marshal(), f.path}, args...))
	p.cmd.Stdout, p.cmd.Stderr = w, errW
	err = t.launch(ctx, f, p, &Limits{}, errR, nil)
	w.Close()
	errW.Close()
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		p.Kill()
	}
	<-p.done
	return out, errors.Join(err, p.Err())
}

// loaderOf returns the program that loads the libraries of the one at path, or "".
func loaderOf(path string) string {
	file, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err == nil {
				return strings.TrimRight(string(b), "\x00")
			}
		}
	}
	return ""
}

// follow reads what -progress writes: blocks of key=value that end with
// progress=continue.
func (p *Process) follow(r *os.File) {
	defer r.Close()
	var next Progress
	for sc := bufio.NewScanner(r); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), "=")
		value = strings.TrimSpace(value)
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "frame":
			next.Frames = n
		case "drop_frames":
			next.Dropped = n
		case "dup_frames":
			next.Doubled = n
		case "out_time_us":
			next.Out = time.Duration(n) * time.Microsecond
		case "speed":
			next.Speed, _ = strconv.ParseFloat(strings.TrimSuffix(value, "x"), 64)
		case "progress":
			next.At = time.Now()
			p.mu.Lock()
			p.progress = next
			p.mu.Unlock()
		}
	}
}
