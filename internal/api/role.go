package api

import (
	"fmt"
	"slices"
)

// Role is what the holder of a token may do, in three steps: each may do what
// those before it may. Which endpoint takes which role stands in its route,
// and in the document as x-weir-role.
type Role string

const (
	// Anybody needs no token: for the document only.
	Anybody Role = ""
	// Viewer sees everything but secrets and tokens.
	Viewer Role = "viewer"
	// Operator also ends, forbids and resumes streams, records and replays.
	Operator Role = "operator"
	// Admin also changes policy, tokens and whatever else outlives a stream.
	Admin Role = "admin"
)

var roles = []Role{Anybody, Viewer, Operator, Admin}

// allows reports whether a holder of r may do what needs another role.
func (r Role) allows(needed Role) bool {
	return slices.Index(roles, r) >= slices.Index(roles, needed)
}

func (r *Role) UnmarshalText(b []byte) error {
	if v := Role(b); v != Anybody && slices.Contains(roles, v) {
		*r = v
		return nil
	}
	return fmt.Errorf("must be viewer, operator or admin")
}

// Scope is what an endpoint means to the token of one space.
type Scope string

const (
	// InSpace: its path names the space.
	InSpace Scope = "space"
	// Filtered: it shows what the caller may see of all spaces.
	Filtered Scope = "filtered"
	// Global: it is about the node, and not for tokens of one space.
	Global Scope = "global"
)
