package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"weir/internal/bus"
	"weir/internal/cluster"
	"weir/internal/policy"
)

// Secrets says by which keys the secrets of the policy are encrypted where they
// are stored.
type Secrets struct {
	KeyFile string `yaml:"key_file"` // empty: those of WEIR_SECRET_KEYS, or secrets.key in the data folder, which is made
}

// PolicySource says whose word the policy is.
type PolicySource string

const (
	// PolicyStore: the store's. The policy of the configuration file is what an
	// empty one begins with.
	PolicyStore PolicySource = "store"
	// PolicyFile: the configuration file's, which is read again when it changes.
	PolicyFile PolicySource = "file"
)

func (s *PolicySource) UnmarshalText(b []byte) error {
	switch v := PolicySource(b); v {
	case PolicyStore, PolicyFile:
		*s = v
		return nil
	}
	return errors.New("must be store or file")
}

// keys returns the keys of secrets.
func (n *Node) keys() (*cluster.Keyring, error) {
	text := os.Getenv("WEIR_SECRET_KEYS")
	switch file := n.cfg.Secrets.KeyFile; {
	case file != "":
		return cluster.ReadKeys(file, false)
	case text != "":
		keys, err := cluster.ParseKeys(bytes.ReplaceAll([]byte(text), []byte(","), []byte("\n")))
		if err != nil {
			return nil, fmt.Errorf("WEIR_SECRET_KEYS: %w", err)
		}
		return keys, nil
	}
	file := n.data.sub("secrets.key")
	if w := openKeyFile("the key of the policy's secrets", file); w != "" {
		n.log.Warn(w)
	}
	return cluster.ReadKeys(file, true)
}

// openPolicy opens the policy.
func (n *Node) openPolicy() error {
	keys, err := n.keys()
	if err != nil {
		return err
	}
	n.secrets = keys
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	n.policy, err = cluster.OpenPolicy(ctx, n.bus.JetStream(), cluster.Options{
		Log: n.log, Node: n.name, Replicas: n.bus.Replicas(), Keys: keys,
		Copy: n.data.sub("policy.json"), Bootstrap: n.cfg.Policy, FileRules: n.cfg.PolicySource == PolicyFile,
		Check: n.cfg.checkOpen, Facts: n.events, Lookup: net.DefaultResolver.LookupNetIP,
	})
	return err
}

// storeTime is how long the start waits for what is in the store. One that has
// not been there for the policy is not waited for again: the listeners are open,
// and clients wait, too.
func (n *Node) storeTime() time.Duration {
	if n.policy.Health().Away != "" {
		return 100 * time.Millisecond
	}
	return 5 * time.Second
}

// sharedKey is a key that all nodes share, and which this one has not yet.
type sharedKey struct {
	name string
	use  func(key []byte)
}

// useKey gives use the key of that name that all nodes share: now, or, if it is
// not to be had, when it is. Until then there is another one, and without says
// what that means.
func (n *Node) useKey(name, without string, use func(key []byte)) {
	ctx, cancel := context.WithTimeout(context.Background(), n.storeTime())
	defer cancel()
	key, err := n.policy.Key(ctx, name)
	if err != nil {
		n.log.Warn(without+", until the store is there", "err", err)
		n.awaited = append(n.awaited, sharedKey{name, use})
		return
	}
	use(key)
}

// awaitKeys asks for the keys that were not to be had at the start, until it has
// them or ctx ends.
func (n *Node) awaitKeys(ctx context.Context) {
	for _, k := range n.awaited {
		for {
			key, err := n.policy.Key(ctx, k.name)
			if err == nil {
				k.use(key)
				n.log.Info("the key that all nodes share is there", "key", k.name)
				break
			}
			if newer := (*bus.Newer)(nil); errors.As(err, &newer) { // which stays so
				break
			}
			select {
			case <-time.After(keyTime):
			case <-ctx.Done():
				return
			}
		}
	}
}

// keyTime is between two attempts to have a key.
const keyTime = 2 * time.Second

// Policy returns the policy in force.
func (n *Node) Policy() *policy.Set { return n.policy.Set() }

// obey does what a new policy wants of those who are here.
func (n *Node) obey(set *policy.Set) {
	n.buckets.Apply(set)
	n.sessions.Recheck()
	for _, p := range n.cfg.checkOpen(set) {
		n.log.Warn("policy." + p.Path + " " + p.Message)
	}
	if n.policy.FileRules() {
		return // what is weak in a file was said when it was read
	}
	for _, path := range set.Weak() {
		document, rest := set.Locate(path)
		n.log.Warn("a secret of the policy is easily guessed; take what this prints: openssl rand -hex 16", "document", document, "setting", rest)
	}
}

// comparePolicy says that the policy of the file is not the one in force, where
// somebody could think that it is.
func (n *Node) comparePolicy(cfg *Config) {
	if !cfg.HasPolicy || n.policy.FileRules() {
		return
	}
	e := policy.Encoding{Secret: policy.Clear}
	if !bytes.Equal(e.JSON(policy.NewSet(sorted(cfg.Policy))), e.JSON(policy.NewSet(sorted(n.Policy())))) {
		n.log.Warn("the policy of the configuration file is not the one in force: the file's is only what an empty store begins with. "+
			"To make it so, run: weir apply -f FILE; or set policy_source: file", "file", cfg.File)
	}
}

// sorted returns the documents of set by name.
func sorted(set *policy.Set) []policy.Document {
	list := set.Documents()
	slices.SortFunc(list, func(a, b policy.Document) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// mayRule is why the file, read again as cfg, does not become the policy of this
// node though nothing in it is wrong: it has lost what made it rule, or would let
// anybody publish at a listener that is open now, whatever it says of listeners.
func (n *Node) mayRule(cfg *Config) error {
	switch {
	case cfg.PolicySource != PolicyFile:
		return fmt.Errorf("%s: policy_source is not file any more; a restart lets the store rule", cfg.File)
	case n.cfg.HasPolicy && !cfg.HasPolicy:
		return fmt.Errorf("%s has no section policy any more; a restart does without", cfg.File)
	}
	if open := n.cfg.checkOpen(cfg.Policy); open != nil {
		return fmt.Errorf("%s: policy.%s: %s and restart", cfg.File, open[0].Path, open[0].Message)
	}
	return nil
}

// refuseOpen is why the node must not listen: by the policy that it has found
// anybody could publish. That of the file has been checked, but the store's may be
// of a time when only this machine could reach the listeners.
func (n *Node) refuseOpen() error {
	set := n.Policy()
	open := n.cfg.checkOpen(set)
	switch {
	case open == nil:
		return nil
	case n.policy.FileRules():
		return fmt.Errorf("policy.%s: %s", open[0].Path, open[0].Message)
	}
	var names []string
	for _, l := range n.cfg.exposed() {
		names = append(names, "listen."+l.name)
	}
	document, rest := set.Locate(open[0].Path)
	apply := "weir apply -f FILE"
	if n.cfg.HasPolicy {
		apply = "weir apply -f " + n.cfg.File
		if !slices.ContainsFunc(n.cfg.Policy.Documents(), func(d policy.Document) bool { return d.Name == document }) {
			apply += " --prune" // otherwise the document stays
		}
	}
	if n.cfg.Data != "" {
		apply += " --data " + n.data.path
	}
	return fmt.Errorf("the policy of the store, which rules: %s: %s: %s. To change the policy, start with %s on 127.0.0.1 or off, run %s, "+
		"and restart with the listeners as they are now; or let the configuration file rule: policy_source: file",
		document, rest, open[0].Message, strings.Join(names, " and "), apply)
}

// checkOpen finds domains of set at which anybody could publish, if others than
// this machine can reach a listener.
func (c *Config) checkOpen(set *policy.Set) []policy.Problem {
	for _, l := range c.exposed() {
		if path, name := openDomain(set); path != "" {
			return []policy.Problem{{Path: path, Message: fmt.Sprintf("anybody who can reach listen.%s at %s could publish: the domain %q has no authentication; "+
				"give it one below publish, or set allow_open_publish: true in the configuration file", l.name, l.addr, name)}}
		}
	}
	return nil
}

// exposed returns the listeners at which others than this machine could publish,
// unless that is allowed to anybody.
func (c *Config) exposed() (list []listener) {
	for _, l := range c.Listen.all() {
		if l.publish && l.addr.on() && !l.addr.loopback() && !c.AllowOpenPublish {
			list = append(list, l)
		}
	}
	return list
}
