//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	binDir   string // holds weir, built for the race detector
	mediaDir string // holds what the scripts push; see media_test.go
)

// TestMain also stands in for the programs of client_test.go and hls_test.go,
// which scripts start with exec, in the background too.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){
		"publish":  program(publish),
		"wsget":    program(wsget),
		"hlsget":   program(hlsget),
		"moderate": program(moderate),
	})
}

func program(main func() error) func() {
	return func() {
		if err := main(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// A suite makes what the scripts need before the tests run.
type suite struct{ *testing.M }

func (s suite) Run() int {
	dir, err := os.MkdirTemp("", "weir-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binDir, mediaDir = filepath.Join(dir, "bin"), filepath.Join(dir, "media")
	if _, err := os.Stat("../web/dist/mpegts.js"); err != nil {
		fmt.Fprintln(os.Stderr, "the page has no players: run make tools")
		return 1
	}
	build := exec.Command("go", "build", "-race", "-o", binDir+string(filepath.Separator), "weir/cmd/weir")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build weir: %v\n%s", err, out)
		return 1
	}
	if err := makeMedia(mediaDir); err != nil {
		fmt.Fprintf(os.Stderr, "make the test media: %v\n", err)
		return 1
	}
	return s.M.Run()
}

// TestScripts runs each promise of the product, a script in testdata, against
// a weir of its own with the clients that people use.
func TestScripts(t *testing.T) {
	film, _ := filepath.Abs(envOr("WEIR_MEDIA", "../../shared/media/bbb.flv"))
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":      cmdServe,
			"signal":     cmdSignal,
			"stop-weir":  cmdStop,
			"await":      cmdAwait,
			"await-file": cmdAwaitFile,
			"expand":     cmdExpand,
			"sameframes": cmdSameFrames,
			"sametags":   cmdSameTags,
			"frames":     cmdFrames,
			"tap":        cmdTap,
			"answered":   cmdAnswered,
			"keypair":    cmdKeypair,
			"pictures":   cmdPictures,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "film":
				_, err := os.Stat(film)
				return err == nil, nil
			case "netns":
				return exec.Command("unshare", "--net", "--map-root-user", "ip", "link", "set", "lo", "up").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(env *testscript.Env) error {
			e2e, err := os.Getwd()
			if err != nil {
				return err
			}
			env.Values[serverKey{}] = new(*server)
			env.Values[tapsKey{}] = taps{}
			env.Setenv("PATH", binDir+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("E2E", e2e)
			env.Setenv("MEDIA", mediaDir)
			env.Setenv("FILM", film)
			if os.Getuid() == 0 { // VLC will not run as root
				env.Setenv("NOT_ROOT", "setpriv --reuid=65534 --regid=65534 --clear-groups")
			}
			env.Setenv("GORACE", "halt_on_error=0")
			for name, scheme := range map[string]string{
				"RTMP": "rtmp://", "RTMPS": "rtmps://", "HTTP": "http://", "HTTPS": "https://", "ADMIN": "http://",
			} {
				addr, err := freeAddr()
				if err != nil {
					return err
				}
				env.Setenv(name+"_ADDR", addr)
				env.Setenv(name, scheme+addr)
			}
			env.Setenv("WS", "ws://"+env.Getenv("HTTP_ADDR"))
			return nil
		},
	})
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

var given sync.Map // addresses that freeAddr has returned

// freeAddr returns an address to listen on. The host is a loopback address of
// this process alone, which clients never connect from, so the port is still
// free when the server comes to it.
func freeAddr() (string, error) {
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&0x7f, pid>>8&0xff, 1+pid&0x7f)
	for {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return "", err
		}
		addr := ln.Addr().String()
		ln.Close()
		if _, taken := given.LoadOrStore(addr, true); !taken {
			return addr, nil
		}
	}
}

// flags splits args into values of the flags named in known ("-min=" takes a
// value, "-decode" none) and the rest, which must be want in number.
func flags(ts *testscript.TestScript, args []string, want int, known ...string) (map[string]string, []string) {
	set := map[string]string{}
next:
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, value, _ := strings.Cut(args[0], "=")
		for _, k := range known {
			if strings.TrimSuffix(k, "=") == name && strings.HasSuffix(k, "=") == strings.Contains(args[0], "=") {
				set[name] = value
				args = args[1:]
				continue next
			}
		}
		ts.Fatalf("unknown flag %s: %v are known", args[0], known)
	}
	if want >= 0 && len(args) != want {
		ts.Fatalf("got %d arguments %q, want %d", len(args), args, want)
	}
	return set, args
}
