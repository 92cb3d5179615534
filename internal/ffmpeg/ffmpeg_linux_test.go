package ffmpeg

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the program that locks itself in, and the ffmpeg that is
// locked in: what its standard input says it shall do.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SandboxArg:
			sandbox := Sandbox
			if strings.HasSuffix(os.Args[3], unfiltered) {
				sandbox = weakSandbox
			}
			if err := sandbox(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(SandboxFailed)
			}
			os.Exit(0)
		case "server":
			serveHang(os.Args[2:])
			os.Exit(1)
		case "-hide_banner", "-nostdin":
			fake(os.Args[1:])
			os.Exit(0)
		}
	}
	environment = append(environment, "GORACE=atexit_sleep_ms=0") // or each child takes a second to end
	goleak.VerifyTestMain(m)
}

// unfiltered is the name of an ffmpeg that is locked in as on a kernel that has
// neither Landlock nor seccomp, without limits of resources: what it starts
// really runs.
const unfiltered = "unfiltered"

func weakSandbox(args []string) error {
	var s spec
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return err
	}
	if s.Report {
		return json.NewEncoder(os.Stdout).Encode(Layers{Namespaces: os.Getpid() == 1, User: os.Getuid() == nobody})
	}
	return syscall.Exec(s.Path, args[1:], os.Environ())
}

// fork starts a process in a session of its own that hangs, by way of another
// one, as daemons do. All of them hold what this one has open.
func fork(last bool) {
	next := map[bool]string{true: "orphan", false: "fork"}[last]
	_, err := syscall.ForkExec(os.Args[0], []string{os.Args[0], "-nostdin", next}, &syscall.ProcAttr{
		Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if !last {
		fmt.Println("fork:", err)
	}
}

// hang is select {} that no runtime takes for a deadlock.
func hang() { time.Sleep(math.MaxInt64) }

// fake is an ffmpeg that does what an evil or a broken one might.
func fake(args []string) {
	switch args[len(args)-1] {
	case "-version":
		fmt.Println("ffmpeg version 0-fake Copyright")
		return
	case "-encoders", "-decoders":
		fmt.Println(" -------\n V....D mjpeg  JPEG\n V....D h264  H.264")
		return
	case "fork":
		fork(true)
		return
	case "orphan":
		hang()
	}
	in := make([]byte, 512)
	n, _ := os.Stdin.Read(in)
	verb, arg, _ := strings.Cut(string(in[:n]), " ")
	switch verb {
	case "echo":
		fmt.Print(arg)
	case "args":
		fmt.Print(strings.Join(args, "\n"))
	case "crash":
		fmt.Fprintln(os.Stderr, "this goes wrong")
		syscall.Kill(os.Getpid(), syscall.SIGSEGV) // which is not even allowed
		os.Exit(3)
	case "hang":
		hang()
	case "fork":
		fork(false)
		if arg == "hang" {
			hang()
		}
	case "deaf": // to SIGTERM, as any process may be
		hang()
	case "flood":
		for {
			os.Stderr.Write(bytes.Repeat([]byte("flood "), 1000))
		}
	case "gigabyte":
		b := make([]byte, 1<<20)
		for range 1 << 10 {
			os.Stdout.Write(b)
		}
	case "memory":
		var all []byte
		for {
			all = append(all, bytes.Repeat([]byte{1}, 64<<20)...)
			if len(all) == 1 {
				return
			}
		}
	case "spin":
		for n := 1; n != 0; n += 2 {
		}
	case "probe":
		probe(arg)
	case "devices":
		for path := range strings.FieldsSeq(arg) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				fmt.Println(filepath.Base(path), "denied")
				continue
			}
			// A device that has no such call says so; a filter of calls says EPERM.
			_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, f.Fd(), 0x6400, 0)
			fmt.Println(filepath.Base(path), "opened,", e == syscall.ENOTTY)
		}
	}
}

// probe tries to get out.
func probe(outside string) {
	try := func(what string, err error) {
		if err == nil {
			fmt.Println(what, "SUCCEEDED")
		} else {
			fmt.Println(what, "denied")
		}
	}
	_, err := os.ReadFile(outside)
	try("open", err)
	_, err = os.ReadFile("/etc/passwd")
	try("passwd", err)
	try("write", os.WriteFile(filepath.Join(filepath.Dir(outside), "written"), []byte("x"), 0o600))
	try("write-tmp", os.WriteFile("/tmp/weir-written", []byte("x"), 0o600))
	try("mkdir", os.Mkdir("/tmp/weir-made", 0o700))
	_, err = net.Dial("tcp", "127.0.0.1:1")
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = nil // that it got so far is too far
	}
	try("connect", err)
	_, err = net.Listen("tcp", "127.0.0.1:0")
	try("listen", err)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	_ = fd
	try("unix-socket", err)
	_, err = syscall.ForkExec("/bin/true", []string{"true"}, nil)
	try("fork", err)
	try("exec", syscall.Exec("/bin/true", []string{"true"}, nil))
	try("ptrace", syscall.PtraceAttach(os.Getppid()))
	try("kill", syscall.Kill(os.Getppid(), 0))
	try("mount", syscall.Mount("none", "/tmp", "tmpfs", 0, ""))
	_, err = os.ReadDir("/proc/1")
	try("proc", err)
	_, _, e := syscall.RawSyscall(425, 8, 0, 0) // io_uring_setup
	try("io_uring", errno(e))
	_, _, e = syscall.RawSyscall(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER, 0, 0)
	try("unshare", errno(e))
	try("environment", map[bool]error{true: errors.New("none of the server's"), false: nil}[os.Getenv("WEIR_TEST_SECRET") == ""])
}

func errno(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// open returns a folder that another user can read.
func open(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// self is this program, where another user can run it.
func self(t testing.TB, name string) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(open(t), name)
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// newFake returns a Tool whose ffmpeg is fake.
func newFake(t testing.TB) *Tool { return newFakeNamed(t, "ffmpeg") }

func newFakeNamed(t testing.TB, name string) *Tool {
	t.Helper()
	tool := New(Options{Self: "/proc/self/exe", Path: self(t, name)})
	t.Cleanup(tool.Close)
	if err := tool.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	return tool
}

// job is one for the fake ffmpeg.
func job(l Limits) *Job {
	if l.Time == 0 {
		l.Time = 20 * time.Second
	}
	return &Job{Inputs: []Input{{Format: "h264"}}, Outputs: []Output{{Format: "mjpeg", Max: 1 << 20}}, Limits: l}
}

// The ffmpeg that is locked in can do nothing but compute.
func TestProbeFromInside(t *testing.T) {
	t.Setenv("WEIR_TEST_SECRET", "1")
	outside := filepath.Join(open(t), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool := newFake(t)
	l := tool.Health().Layers
	t.Logf("layers: %+v", l)
	if !l.Strong() {
		t.Skip("this kernel has no Landlock or no seccomp")
	}
	out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("probe "+outside))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), "denied"); n != 17 || strings.Contains(string(out), "SUCCEEDED") {
		t.Errorf("%d of 17 ways out are denied:\n%s", n, out)
	}
	for _, f := range []string{"/tmp/weir-written", "/tmp/weir-made", filepath.Join(filepath.Dir(outside), "written")} {
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s was made", f)
		}
	}
}

// A job has the devices that it is given, by their group if need be, and no others; one
// that is given none has none.
func TestDevices(t *testing.T) {
	tool := newFake(t)
	if !tool.Health().Layers.Strong() {
		t.Skip("this kernel has no Landlock or no seccomp")
	}
	dir := open(t)
	node := func(name string, gid int, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := syscall.Mknod(path, syscall.S_IFCHR, 1<<8|3); err != nil { // as /dev/null
			t.Skip("devices cannot be made here: ", err)
		}
		if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Skip("devices cannot be used here: ", err)
		} else {
			f.Close()
		}
		return path
	}
	render, other := node("render", 4242, 0o660), node("other", 4242, 0o660)
	open, roots := node("open", 4343, 0o666), node("roots", 0, 0o660)
	ask := func(devices ...string) string {
		j := job(Limits{})
		j.Devices = devices
		out, _, err := tool.Run(t.Context(), j, []byte("devices "+strings.Join([]string{render, other, open, roots}, " ")))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; ")
	}
	for _, tt := range []struct {
		devices []string
		want    string
	}{
		{nil, "render denied; other denied; open denied; roots denied"},
		{[]string{render}, "render opened, true; other denied; open denied; roots denied"},
		{[]string{open}, "render denied; other denied; open opened, true; roots denied"},
		{[]string{render, open, roots}, "render opened, true; other denied; open opened, true; roots denied"},
	} {
		if !tool.found.mode.nobody {
			t.Skip("jobs have the groups of the server here")
		}
		if got := ask(tt.devices...); got != tt.want {
			t.Errorf("with %q: %s, want %s", tt.devices, got, tt.want)
		}
	}
}

// nothingLeft checks that neither a process of tool's ffmpeg nor a control group
// of one is left. What was killed may need a moment to be gone.
func nothingLeft(t *testing.T, tool *Tool) {
	t.Helper()
	left := func() []string {
		list := processes(t, tool.found.path)
		if n := tool.Health().Running; n != 0 {
			list = append(list, fmt.Sprint(n, " that are said to run"))
		}
		return list
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); len(left()) > 0; <-tick.C {
		if time.Since(began) > 5*time.Second {
			t.Errorf("processes are left: %q", left())
			break
		}
	}
	if g := tool.found.groups; g != nil {
		if list := glob(t, filepath.Join(g.dir, fmt.Sprint(jobGroup, os.Getpid(), "-*"))); len(list) > 0 {
			t.Errorf("control groups are left: %q", list)
		}
	}
}

// processes returns those that are the program at path.
func processes(t *testing.T, path string) (list []string) {
	for _, dir := range glob(t, "/proc/[1-9]*") {
		b, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if first, _, _ := strings.Cut(string(b), "\x00"); first == path {
			list = append(list, filepath.Base(dir)+": "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return list
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// F44: who starts processes that leave its group and its session does not
// outlive its job with them, in whatever way this machine can lock it in. With
// all layers it cannot start any.
func TestForksEndWithTheJob(t *testing.T) {
	for _, name := range []string{"ffmpeg", unfiltered} {
		tool := newFakeNamed(t, name)
		f := tool.found
		for _, m := range modes() {
			for _, c := range []struct {
				verb string
				want Reason
			}{{"fork exit", 0}, {"fork hang", Killed}} {
				t.Run(fmt.Sprintf("%s/%+v/%s", name, m, c.verb), func(t *testing.T) {
					if name == unfiltered && !m.namespaces && f.groups == nil {
						t.Skip("without seccomp, namespaces and control groups nothing holds it")
					}
					p, err := tool.start(t.Context(), f, m, job(Limits{}))
					if err != nil {
						t.Skip(err)
					}
					defer p.Close()
					io.WriteString(p.Input(0), c.verb)
					r := bufio.NewReader(p.Output(0))
					out, err := r.ReadString('\n')
					if c.want == Killed && err == nil {
						p.Kill()
					}
					<-p.Done()
					if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
						t.Errorf("then it says %q, %v", rest, err)
					}
					var e *Error
					if errors.As(p.Err(), &e) && e.Reason == Failed && out == "" {
						t.Skip(p.Err()) // this mode is not allowed here
					}
					want := "fork: operation not permitted\n"
					if name == unfiltered {
						want = "fork: <nil>\n"
					}
					if out != want || err != nil {
						t.Errorf("it says %q, %v, want %q", out, err, want)
					}
					if (c.want != 0 || e != nil) && (e == nil || e.Reason != c.want) {
						t.Errorf("it ended with %v, want one that %v", p.Err(), c.want)
					}
					nothingLeft(t, tool)
				})
			}
		}
	}
}

// What a broken ffmpeg does costs its own job only, and leaves nothing.
func TestBrokenChildren(t *testing.T) {
	tool := newFake(t)
	t.Cleanup(func() { nothingLeft(t, tool) })
	for _, c := range []struct {
		what   string
		limits Limits
		want   Reason
	}{
		{"hang", Limits{Time: time.Second}, TimedOut},
		{"deaf", Limits{Time: 20 * time.Second, Stall: 300 * time.Millisecond}, Stalled},
		{"crash", Limits{}, Failed},
		{"flood", Limits{Time: time.Second}, TimedOut},
		{"gigabyte", Limits{}, Flooded},
		{"memory", Limits{Memory: 256 << 20}, Failed},
		{"spin", Limits{CPU: time.Second}, Failed},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			_, _, err := tool.Run(t.Context(), job(c.limits), []byte(c.what))
			var e *Error
			if !errors.As(err, &e) || e.Reason != c.want || len(e.Stderr) > ringSize {
				t.Errorf("%s: %.300v, want one that %v", c.what, err, c.want)
			}
		})
	}
	t.Run("echo", func(t *testing.T) {
		t.Parallel()
		if out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("echo me")); string(out) != "me" {
			t.Errorf("echo: %q, %v", out, err)
		}
	})
}

func TestContextEndsJob(t *testing.T) {
	tool := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := tool.Start(ctx, job(Limits{}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	io.WriteString(p.Input(0), "hang")
	cancel()
	<-p.Done()
	var e *Error
	if !errors.As(p.Err(), &e) || e.Reason != Killed {
		t.Errorf("err = %v, want one that was ended", p.Err())
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the group of the process is still there: %v", err)
	}
}

func TestManyPipes(t *testing.T) {
	tool := newFake(t)
	j := &Job{
		Inputs:   []Input{{Format: "flv"}, {Format: "png_pipe"}},
		Filters:  Graph{{In: []string{"0:v:0", "1:v:0"}, Filters: []Filter{{"overlay", []Arg{{"x", "W-w-10"}}}}, Out: []string{"v"}}},
		Outputs:  []Output{{Format: "flv", Options: []Option{Map("v"), Word("c:v", "libx264")}}, {Format: "mpegts", Options: []Option{Map("0:a:0?")}}},
		Progress: true,
		Limits:   Limits{Time: 20 * time.Second},
	}
	p, err := tool.Start(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	io.WriteString(p.Input(0), "args")
	out, err := io.ReadAll(p.Output(0))
	want := "-nostdin -hide_banner -nostats -loglevel error -stats_period 1 -progress pipe:5 " +
		"-protocol_whitelist pipe -f flv -i pipe:0 -protocol_whitelist pipe -f png_pipe -i pipe:3 -filter_complex [0:v:0][1:v:0]overlay=x=W-w-10[v] " +
		"-map [v] -c:v libx264 -f flv pipe:1 -map 0:a:0? -f mpegts pipe:4"
	if got := strings.ReplaceAll(string(out), "\n", " "); got != want || err != nil {
		t.Errorf("command line:\n%s\n%v\nwant:\n%s", got, err, want)
	}
	<-p.Done()
	if err := p.Err(); err != nil {
		t.Error(err)
	}
}

func TestUnavailable(t *testing.T) {
	for _, o := range []Options{
		{}, {Self: "/proc/self/exe", Path: filepath.Join(t.TempDir(), "none")}, {Self: filepath.Join(t.TempDir(), "none"), Path: self(t, "ffmpeg")},
	} {
		tool := New(o)
		defer tool.Close()
		if _, _, err := tool.Run(t.Context(), job(Limits{}), nil); !errors.Is(err, ErrUnavailable) || tool.Health().Error == "" {
			t.Errorf("%+v: err = %v, want ErrUnavailable", o, err)
		}
	}
	tool := newFake(t)
	tool.Close()
	if _, err := tool.Start(t.Context(), job(Limits{})); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after Close: %v, want ErrUnavailable", err)
	}
}

// An ffmpeg that is removed while the server runs is not there any more, and one
// that comes back is.
func TestFFmpegIsRemoved(t *testing.T) {
	tool := newFake(t)
	path := tool.found.path
	echo := func() error {
		_, _, err := tool.Run(t.Context(), job(Limits{}), []byte("echo"))
		return err
	}
	if err := echo(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := echo(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("without it: %v, want ErrUnavailable", err)
		}
	}
	if h := tool.Health(); h.Error == "" || h.Version != "" {
		t.Errorf("Health() = %+v of one that is gone", h)
	}
	if err := os.Rename(path+".old", path); err != nil {
		t.Fatal(err)
	}
	tool.mu.Lock()
	tool.checked = time.Time{} // a minute later
	tool.mu.Unlock()
	if err := echo(); err != nil {
		t.Errorf("with it again: %v", err)
	}
}

// The fork server, with the real ffmpeg, where both are there.
func TestForkServer(t *testing.T) {
	library := buildForkServer(t)
	key, err := os.ReadFile("testdata/key.h264")
	if err != nil {
		t.Fatal(err)
	}
	warm := New(Options{Self: "/proc/self/exe", ForkServer: library})
	defer warm.Close()
	cold := New(Options{Self: "/proc/self/exe"})
	defer cold.Close()
	if err := cold.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	j := &Job{
		Inputs:  []Input{{Format: "h264", Options: []Option{Int("threads", 1)}}},
		Outputs: []Output{{Format: "image2pipe", Options: []Option{Word("c:v", "mjpeg"), Int("frames:v", 1), Int("threads", 1)}, Max: 1 << 20}},
		Limits:  Limits{Time: 20 * time.Second, CPU: 10 * time.Second},
	}
	want, use, err := cold.Run(t.Context(), j, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("cold: %v", use.CPU)
	for range 3 {
		got, use, err := warm.Run(t.Context(), j, key)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("forked: %d bytes, %v, want %d", len(got), err, len(want))
		}
		t.Logf("warm: %v", use.CPU)
	}
	if !warm.Health().ForkServer || !warm.warm.broken.IsZero() || !warm.warm.whole.IsZero() {
		t.Error("it was not forked, or missed a library")
	}
	if _, _, err := warm.Run(t.Context(), j, []byte("no picture")); err == nil {
		t.Error("what is no picture gives no error")
	}
	whole := *j
	whole.Outputs = []Output{{Format: "image2pipe", Options: j.Outputs[0].Options}} // without a limit of its size
	if got, _, err := warm.Run(t.Context(), &whole, key); err != nil || !bytes.Equal(got, want) {
		t.Errorf("without a limit: %d bytes, %v, want %d", len(got), err, len(want))
	}
}

// What the children of the fork server do costs their own job only, too.
func TestBrokenForks(t *testing.T) {
	tool := New(Options{Self: "/proc/self/exe", Path: buildEvil(t, "ffmpeg"), ForkServer: buildForkServer(t)})
	defer tool.Close()
	if err := tool.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	if !tool.Health().ForkServer {
		t.Skip("there is no seccomp here, and so no fork server")
	}
	for _, c := range []struct {
		what   string
		limits Limits
		want   Reason
	}{
		{"hang", Limits{Time: 500 * time.Millisecond}, TimedOut},
		{"spin", Limits{Time: 20 * time.Second, CPU: time.Second}, Failed},
		{"crash", Limits{}, Failed},
		{"flood", Limits{Time: 500 * time.Millisecond}, TimedOut},
		{"gigabyte", Limits{}, Flooded},
		{"memory", Limits{Memory: 128 << 20}, Failed},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, _, err := tool.Run(t.Context(), job(c.limits), []byte(c.what))
			var e *Error
			if !errors.As(err, &e) || e.Reason != c.want || len(e.Stderr) > ringSize {
				t.Errorf("%s: %.300v, want one that %v", c.what, err, c.want)
			}
			if out, _, err := tool.Run(t.Context(), job(c.limits), []byte("echo")); string(out) != "echo\n" {
				t.Errorf("the next one: %q, %v", out, err)
			}
		})
	}
	out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("probe"))
	want := "fork 1\nexec 1\nopen 1\nwrite 1\nsocket 1\nkill 1\nlimits 1\nown limits 0\naffinity 1\nowner 1\nsignal 1\nasync 1\nblocking 0\ndeath 1\ncontrol 1\n"
	if string(out) != want || err != nil {
		t.Errorf("probe: %v, it says\n%s\nwant\n%s", err, out, want)
	}
	if !tool.warm.broken.IsZero() {
		t.Error("it was not forked")
	}
	tool.Close()
	nothingLeft(t, tool)
}

// A fork server that does not do its first job is not asked for the next one.
func TestForkServerOfNoUse(t *testing.T) {
	library := filepath.Join(open(t), "weir-forkserver.so")
	if err := os.WriteFile(library, []byte("no library"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool := New(Options{Self: "/proc/self/exe", Path: buildEvil(t, "ffmpeg"), ForkServer: library})
	defer tool.Close()
	if err := tool.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	if !tool.Health().ForkServer {
		t.Skip("there is no seccomp here, and so no fork server")
	}
	broken := tool.warm.broken
	for i := range 3 {
		if out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("echo")); string(out) != "echo\n" {
			t.Errorf("job %d: %q, %v", i, out, err)
		}
		if tool.warm.broken.IsZero() || i > 0 && tool.warm.broken != broken {
			t.Errorf("after job %d a fork server has failed at %v, before at %v", i, tool.warm.broken, broken)
		}
		broken = tool.warm.broken
	}
}

// H86: a job has so many threads and no more, in whatever way it is locked in; what it
// has does not keep the next job from having some.
func TestThreadsAreBounded(t *testing.T) {
	evil, library := buildEvil(t, "ffmpeg"), buildForkServer(t)
	for _, m := range modes() {
		t.Run(fmt.Sprintf("%+v", m), func(t *testing.T) {
			tool := newInMode(t, evil, library, m)
			tool.found.groups = nil // which hold them as well
			if os.Getuid() == 0 && !m.nobody {
				t.Skip("no limit of tasks holds root")
			}
			for _, what := range []string{"forked", "alone"} {
				if what == "alone" {
					tool.found.library = ""
				}
				out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("threads"))
				var n int
				if fmt.Sscanf(string(out), "%d threads: Resource temporarily unavailable", &n); err != nil || n == 0 || n > m.tasks() {
					t.Errorf("%s: %q, %v, want at most %d", what, out, err, m.tasks())
				}
				if out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("echo")); string(out) != "echo\n" || err != nil {
					t.Errorf("%s, the next one: %q, %v", what, out, err)
				}
			}
		})
	}
}

// newInMode returns a Tool that locks in the ffmpeg at path in mode m.
func newInMode(t testing.TB, path, library string, m mode) *Tool {
	tool := New(Options{Self: "/proc/self/exe", Path: path, ForkServer: library})
	t.Cleanup(tool.Close)
	if err := tool.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	if tool.found.library == "" {
		t.Skip("there is no seccomp here, and so no fork server")
	}
	if _, err := tool.ask(t.Context(), tool.found, m, func(s *spec) { s.Report = true }); err != nil {
		t.Skip(err)
	}
	tool.found.mode = m
	return tool
}

// No job outlives a server that is killed, in whatever way it is locked in.
func TestServerIsKilled(t *testing.T) {
	evil, library := buildEvil(t, "ffmpeg"), buildForkServer(t)
	for i, m := range modes() {
		t.Run(fmt.Sprintf("%+v", m), func(t *testing.T) {
			tool := newInMode(t, evil, library, m)
			server := exec.Command("/proc/self/exe", "server", fmt.Sprint(i), evil, library)
			server.Stderr = os.Stderr
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			kill := func() { server.Process.Kill(); server.Wait() }
			defer kill()
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for began := time.Now(); len(processes(t, evil)) < 2; <-tick.C { // the fork server and its child
				if time.Since(began) > 20*time.Second {
					t.Fatalf("processes of the server: %q", processes(t, evil))
				}
			}
			kill()
			nothingLeft(t, tool)
		})
	}
}

// serveHang is a server that has a job that does not end.
func serveHang(args []string) {
	tool := New(Options{Self: "/proc/self/exe", Path: args[1], ForkServer: args[2]})
	err := tool.Ready(context.Background())
	if err == nil {
		var i int
		fmt.Sscan(args[0], &i)
		tool.found.groups, tool.found.mode = nil, modes()[i]
		_, _, err = tool.Run(context.Background(), job(Limits{Time: time.Hour}), []byte("hang"))
	}
	fmt.Fprintln(os.Stderr, err)
}

// A job that dies of a library that children of the fork server are not given is
// made anew with all, and so are those after it.
func TestForkMissesLibrary(t *testing.T) {
	tool := New(Options{Self: "/proc/self/exe", Path: buildEvil(t, "ffmpeg"), ForkServer: buildForkServer(t)})
	defer tool.Close()
	if err := tool.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	if !tool.Health().ForkServer {
		t.Skip("there is no seccomp here, and so no fork server")
	}
	if _, _, err := tool.Run(t.Context(), job(Limits{}), []byte("crash")); err == nil || !tool.warm.slim() {
		t.Errorf("a crash: %v, for want of a library: %v", err, !tool.warm.slim())
	}
	if out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("miss")); string(out) != "alive\n" || err != nil || tool.warm.slim() {
		t.Errorf("what misses a library: %q, %v", out, err)
	}
	if out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("echo")); string(out) != "echo\n" || err != nil {
		t.Errorf("the next one: %q, %v", out, err)
	}
	idle := func(slim bool) {
		t.Helper()
		for l, list := range tool.warm.idle {
			for _, s := range list {
				if s.slim != slim {
					t.Errorf("a fork server is left whose children get too many libraries or too few, of %+v", l)
				}
			}
		}
	}
	idle(false)
	tool.warm.whole = time.Now() // an hour later
	for range 2 {                // the first one is the last of its fork server
		if out, _, err := tool.Run(t.Context(), job(Limits{}), []byte("echo")); string(out) != "echo\n" || err != nil {
			t.Errorf("an hour later: %q, %v", out, err)
		}
	}
	idle(true)
	tool.Close()
	nothingLeft(t, tool)
}

// buildEvil returns testdata/evil.c as a program of that name.
func buildEvil(t testing.TB, name string) string {
	path := filepath.Join(open(t), name)
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command("cc", "-O1", "-Wall", "-Werror", "-o", path, "testdata/evil.c").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	return path
}

func buildForkServer(t testing.TB) string {
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip(err)
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip(err)
	}
	library := filepath.Join(open(t), "weir-forkserver.so")
	if out, err := exec.Command(cc, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, "forkserver/forkserver.c").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	return library
}
