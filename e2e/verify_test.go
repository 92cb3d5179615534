package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weir/internal/callback"
	"weir/internal/policy"
)

// TestVerify runs the programs in docs/verify, as far as their languages are
// here, against what weir signs.
func TestVerify(t *testing.T) {
	const secret, id = "s3cret", "01j8x4"
	body := `{"Stream":"ä\"","PubParam":"{\"k\":\"1\"}"}`
	now := fmt.Sprint(time.Now().Unix())
	old := fmt.Sprint(time.Now().Add(-time.Hour).Unix())
	sign := func(stamp string) string { return callback.Sign(policy.NewSecret(secret), stamp, id, []byte(body)) }
	for _, argv := range [][]string{
		{"go", "run", "../docs/verify/verify.go"}, {"python3", "../docs/verify/verify.py"}, {"node", "../docs/verify/verify.js"},
		{"java", "../docs/verify/Verify.java"}, {"php", "../docs/verify/verify.php"},
	} {
		t.Run(argv[0], func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(argv[0]); err != nil {
				t.Skipf("%s is not installed", argv[0])
			}
			for _, tt := range []struct{ stamp, signature, body, want string }{
				{now, sign(now), body, "ok"}, {now, sign(now), body + " ", "wrong"}, {old, sign(old), body, "wrong"},
			} {
				cmd := exec.Command(argv[0], append(argv[1:], tt.stamp, id, tt.signature)...)
				cmd.Env = append(os.Environ(), "WEIR_CALLBACK_SECRET="+secret)
				cmd.Stdin = strings.NewReader(tt.body)
				out, _ := cmd.Output()
				if got := strings.TrimSpace(string(out)); got != tt.want {
					t.Errorf("%v: %s, want %s", cmd.Args, got, tt.want)
				}
			}
		})
	}
}
