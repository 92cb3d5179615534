package node

import (
	"fmt"
	"strings"

	"weir/internal/policy"
)

// ConfigError is all that is wrong with a configuration file.
type ConfigError struct {
	File     string
	Problems []policy.DecodeProblem // in the order of the file
}

// Error has a line for each problem: weir.yaml:7:5: listen.rtmp: must be …
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, p.Line, p.Column)
		if p.Path != "" {
			b.WriteString(p.Path + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}
