package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"weir/internal/bus"
	"weir/internal/durable"
)

// A token is weir_ID_SECRET: ID is 40 random bits and names it in lists and
// logs, SECRET is 256 and nobody but its holder has it. What is kept is the
// SHA-256 of SECRET, which is as good as any slower hash for that many bits.
const (
	tokenPrefix = "weir_"
	idLength    = 8
	secretBytes = 32
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is a right to call the API, without its secret. It never changes.
type Token struct {
	ID        string
	Name      string
	Role      Role
	Space     string // the only one that it is for; empty: all
	Created   time.Time
	CreatedBy string    // name of the token that made it
	Expires   time.Time // zero: never

	hash  [sha256.Size]byte
	local bool // of this machine only
}

// Expired reports whether t is not valid any more.
func (t *Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// storedToken is a Token in the store.
type storedToken struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	Space     string    `json:"space,omitempty"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
	SHA256    string    `json:"sha256"`
}

func (t *Token) encode() ([]byte, error) {
	return json.Marshal(storedToken{t.ID, t.Name, t.Role, t.Space, t.Created, t.CreatedBy, t.Expires, hex.EncodeToString(t.hash[:])})
}

func decodeToken(b []byte) (*Token, error) {
	var s storedToken
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	t := &Token{ID: s.ID, Name: s.Name, Role: s.Role, Space: s.Space, Created: s.Created, CreatedBy: s.CreatedBy, Expires: s.Expires}
	hash, err := hex.DecodeString(s.SHA256)
	if err != nil || len(hash) != len(t.hash) || t.Role == Anybody {
		return nil, errors.New("no token")
	}
	copy(t.hash[:], hash)
	return t, nil
}

const (
	tokenBucket = "weir_tokens"
	tokenSchema = 1
	tokenKey    = "token." // and the ID
	startedKey  = "started"
	maxTokens   = 10_000
	maxOfSpace  = 1000 // of these, for one space
)

// ErrNoToken is the error of what is done to a token that is not there.
var ErrNoToken = errors.New("no such token")

// ErrTooManyTokens is the error of making one too many.
var ErrTooManyTokens = errors.New("there are too many tokens; revoke some")

// Tokens are all tokens of the cluster. They live in a bucket of JetStream and
// are held in memory, so that to authenticate needs no store, and goes on
// while it is away. Methods may be called from any goroutine.
type Tokens struct {
	js       jetstream.JetStream
	replicas int
	log      *slog.Logger

	// Loaded is called by Run when the tokens have been read, until it succeeds;
	// nil: nothing is. It is set before Run.
	Loaded func(context.Context) error

	told bool // by First, which one goroutine calls

	making sync.Mutex // held by Create; before mu

	mu    sync.RWMutex
	kv    jetstream.KeyValue // nil until loaded
	watch jetstream.KeyWatcher
	byID  map[string]*held
	gone  map[string]bool // revoked here; what the store said of them before may still come
}

// held is a token in memory, with what it has left to ask.
type held struct {
	*Token
	limit *rate.Limiter
}

// NewTokens returns the tokens of a store, of which nothing is known until
// Load or Run; replicas is how many nodes keep them.
func NewTokens(js jetstream.JetStream, replicas int, log *slog.Logger) *Tokens {
	return &Tokens{js: js, replicas: replicas, log: log, byID: make(map[string]*held), gone: make(map[string]bool)}
}

// Load reads all tokens. It does nothing if they have been read.
func (t *Tokens) Load(ctx context.Context) error {
	if t.store() != nil {
		return nil
	}
	kv, err := bus.KV(ctx, t.js, jetstream.KeyValueConfig{
		Bucket: tokenBucket, Description: "who may call the API", History: 1, Replicas: max(1, t.replicas), Storage: jetstream.FileStorage,
	}, tokenSchema, nil)
	if err != nil {
		return fmt.Errorf("open the store of tokens: %w", err)
	}
	watch, err := kv.WatchAll(context.WithoutCancel(ctx)) // until it is stopped
	if err != nil {
		return fmt.Errorf("read the tokens: %w", err)
	}
	there := map[string]bool{}
	for {
		select {
		case e, ok := <-watch.Updates():
			if !ok {
				return errWatchEnded
			}
			if e != nil {
				t.apply(e)
				there[strings.TrimPrefix(e.Key(), tokenKey)] = true
				continue
			}
			t.mu.Lock() // that was all there is
			defer t.mu.Unlock()
			for id, h := range t.byID { // revoked while nobody watched
				if !h.local && !there[id] {
					delete(t.byID, id)
				}
			}
			t.kv, t.watch = kv, watch
			return nil
		case <-ctx.Done():
			watch.Stop()
			return fmt.Errorf("read the tokens: %w", ctx.Err())
		}
	}
}

// errWatchEnded is that the store will say nothing any more.
var errWatchEnded = errors.New("the watch of the tokens has ended")

// Close ends what Load has begun. It is for who does not call Run.
func (t *Tokens) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watch != nil {
		t.watch.Stop()
	}
}

// Run reads all tokens, if that has not been done, and learns what other nodes
// do to them, until ctx ends.
func (t *Tokens) Run(ctx context.Context) {
	for { // once at least: what Load has begun is stopped
		if t.follow(ctx); ctx.Err() != nil {
			return
		}
	}
}

// follow is Run until the watch ends.
func (t *Tokens) follow(ctx context.Context) {
	for said := false; t.store() == nil; said = true {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := t.Load(try)
		cancel()
		if err == nil {
			break
		}
		if !said && ctx.Err() == nil {
			t.log.Warn("tokens cannot be read yet", "err", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
	defer t.watch.Stop()
	again := make(<-chan time.Time)
	loaded := func() {
		if t.Loaded == nil {
			return
		}
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := t.Loaded(try); err == nil {
			t.Loaded = nil
		} else if again = time.After(time.Second); ctx.Err() == nil {
			t.log.Warn("the tokens have been read, and that goes no further", "err", err)
		}
	}
	loaded()
	for {
		select {
		case <-again:
			loaded()
		case e, ok := <-t.watch.Updates():
			if !ok {
				t.log.Warn("tokens are read again", "err", errWatchEnded)
				t.mu.Lock()
				t.kv = nil
				t.mu.Unlock()
				return
			}
			if e != nil {
				t.apply(e)
			}
		case <-ctx.Done():
			return
		}
	}
}

// store returns the bucket, nil until it is loaded.
func (t *Tokens) store() jetstream.KeyValue {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.kv
}

// errNotLoaded is the error of what cannot be done or known before Load.
var errNotLoaded = errors.New("the store of tokens has not been reached yet")

// apply takes over what the store says of one key.
func (t *Tokens) apply(e jetstream.KeyValueEntry) {
	id, ok := strings.CutPrefix(e.Key(), tokenKey)
	if !ok {
		return
	}
	if e.Operation() != jetstream.KeyValuePut {
		t.drop(id, false)
		return
	}
	tok, err := decodeToken(e.Value())
	if err != nil || tok.ID != id {
		t.log.Error("a token of the store cannot be read", "id", id)
		return
	}
	t.hold(tok)
}

func (t *Tokens) hold(tok *Token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[tok.ID] == nil && !t.gone[tok.ID] {
		t.byID[tok.ID] = &held{tok, rate.NewLimiter(askRate, askBurst)}
	}
}

// drop forgets a token; here says that it was revoked on this node, and the
// store is still to say so.
func (t *Tokens) drop(id string, here bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, id)
	if here {
		t.gone[id] = true
	} else {
		delete(t.gone, id)
	}
}

// newToken gives tok its ID and hash and returns its text.
func newToken(tok *Token) string {
	var b [5 + secretBytes]byte
	rand.Read(b[:])
	tok.ID = tokenEncoding.EncodeToString(b[:5])
	secret := tokenEncoding.EncodeToString(b[5:])
	tok.hash = sha256.Sum256([]byte(secret))
	return tokenPrefix + tok.ID + "_" + secret
}

// Create makes a token of the Name, Role, Space and Expires of tok, and
// returns it and its text, which nobody will learn again.
func (t *Tokens) Create(ctx context.Context, tok Token) (*Token, string, error) {
	t.making.Lock() // until it is counted
	defer t.making.Unlock()
	t.mu.RLock()
	n, kv, same := len(t.byID), t.kv, 0
	for _, h := range t.byID {
		if h.Space == tok.Space {
			same++
		}
	}
	t.mu.RUnlock()
	if kv == nil {
		return nil, "", errNotLoaded
	}
	if n >= maxTokens || tok.Space != "" && same >= maxOfSpace {
		return nil, "", ErrTooManyTokens
	}
	text := newToken(&tok)
	tok.Created = time.Now().UTC().Truncate(time.Second)
	b, err := tok.encode()
	if err != nil {
		return nil, "", err
	}
	if _, err := kv.Create(ctx, tokenKey+tok.ID, b); err != nil {
		return nil, "", fmt.Errorf("store a token: %w", err)
	}
	t.hold(&tok)
	return &tok, text, nil
}

// pending begins what the store says of the first token before it is told; then
// come when that began and the node that tells it. Afterwards only the time
// stands there.
const pending = "pending "

// tellTime is how long a node may take to tell the first token before another
// one does.
const tellTime = time.Minute

// First makes the first token of an admin if there has never been one, and
// calls tell with its text. A start that is killed before it has been told is
// none: that node makes and tells another one when it starts again, and so does
// any other after a while.
func (t *Tokens) First(ctx context.Context, node string, tell func(text string)) error {
	kv := t.store()
	if kv == nil {
		return errNotLoaded
	}
	if t.told { // and that could not be stored the last time
		return t.tellNoMore(ctx, kv)
	}
	revision := uint64(0)
	switch e, err := kv.Get(ctx, startedKey); {
	case err == nil:
		rest, waits := strings.CutPrefix(string(e.Value()), pending)
		at, who, _ := strings.Cut(rest, " ")
		if began, err := time.Parse(time.RFC3339, at); !waits || err == nil && who != node && time.Since(began) < tellTime {
			return nil
		}
		revision = e.Revision()
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("read whether there was a first token: %w", err)
	}
	now := time.Now().UTC().Format(time.RFC3339)
	_, err := kv.Update(ctx, startedKey, []byte(pending+now+" "+node), revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return nil // another node does it
	}
	if err != nil {
		return fmt.Errorf("store that there is a first token: %w", err)
	}
	_, text, err := t.Create(ctx, Token{Name: "first", Role: Admin, CreatedBy: "first start"})
	if err != nil {
		return err
	}
	tell(text)
	t.told = true
	return t.tellNoMore(ctx, kv)
}

func (t *Tokens) tellNoMore(ctx context.Context, kv jetstream.KeyValue) error {
	if _, err := kv.Put(ctx, startedKey, []byte(time.Now().UTC().Format(time.RFC3339))); err != nil {
		return fmt.Errorf("store that the first token was told: %w", err)
	}
	return nil
}

// Revoke ends a token: on this node at once, on others within a second.
func (t *Tokens) Revoke(ctx context.Context, id string) error {
	t.mu.RLock()
	h, kv := t.byID[id], t.kv
	t.mu.RUnlock()
	switch {
	case kv == nil:
		return errNotLoaded
	case h == nil || h.local:
		return ErrNoToken
	}
	t.drop(id, true)
	if err := kv.Delete(ctx, tokenKey+id); err != nil {
		t.drop(id, false)
		t.hold(h.Token)
		return fmt.Errorf("revoke a token: %w", err)
	}
	return nil
}

// List returns all tokens of the store, in no order. It fails until that has
// been read.
func (t *Tokens) List() ([]*Token, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.kv == nil {
		return nil, errNotLoaded
	}
	list := make([]*Token, 0, len(t.byID))
	for _, h := range t.byID {
		if !h.local {
			list = append(list, h.Token)
		}
	}
	return list, nil
}

// Local makes a token of an admin that is valid on this node, from this
// machine, until the process ends, and writes it into a file that only the
// owner can read. So who may read the data of the server can use its command
// line without a token of his own. The caller removes the file at the end.
func (t *Tokens) Local(file string) error {
	tok := &Token{Name: "local", Role: Admin, Created: time.Now().UTC(), local: true}
	text := newToken(tok)
	if err := durable.WriteFile(file, []byte(text+"\n")); err != nil {
		return fmt.Errorf("write the local token: %w", err)
	}
	t.hold(tok)
	return nil
}

// RemoveLocal removes the file of Local.
func RemoveLocal(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// find returns the token of that text, nil if there is none.
func (t *Tokens) find(text string) *held {
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	id, secret, found := strings.Cut(rest, "_")
	if !ok || !found || len(id) != idLength || len(secret) > 64 {
		return nil
	}
	t.mu.RLock()
	h := t.byID[id]
	t.mu.RUnlock()
	var want [sha256.Size]byte
	if h != nil {
		want = h.hash
	}
	got := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 || h == nil {
		return nil
	}
	return h
}

// valid reports whether a token that was valid still is.
func (t *Tokens) valid(tok *Token) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[tok.ID] != nil && !tok.Expired(time.Now())
}

// authenticate returns who sends r. What it may ask in a second is limited.
func (s *Server) authenticate(r *http.Request) (*Caller, error) {
	addr := r.RemoteAddr
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	if a, err := netip.ParseAddr(addr); err == nil {
		addr = a.Unmap().String()
	}
	values := r.Header.Values("Authorization")
	scheme, text := "", ""
	if len(values) == 1 {
		scheme, text, _ = strings.Cut(values[0], " ")
	}
	now := time.Now()
	var h *held
	why := "the API needs a token: send Authorization: Bearer TOKEN"
	bearer := strings.EqualFold(scheme, "Bearer")
	if bearer {
		h = s.Tokens.find(strings.TrimSpace(text))
		why = "the token is not valid: it is wrong, or it was revoked"
	}
	switch {
	case h == nil:
	case h.Expired(now):
		h, why = nil, "the token has expired"
	case h.local && !loopback(addr) && !ownAddress(r, addr):
		h, why = nil, "the token of the data folder is for this machine only"
	}
	if h == nil && bearer && s.Tokens.store() == nil {
		return nil, away("the store of tokens has not been reached yet; try again")
	}
	if h == nil {
		if wait := s.failing.note(addr, now); wait > 0 {
			return nil, tooMany(wait, "authentication has failed too often at this address")
		}
		return nil, huma.ErrorWithHeaders(problem(http.StatusUnauthorized, kindToken, "%s", why),
			http.Header{"Www-Authenticate": {`Bearer realm="weir"`}})
	}
	if re := h.limit.ReserveN(now, 1); re.DelayFrom(now) > 0 {
		wait := re.DelayFrom(now)
		re.CancelAt(now)
		return nil, tooMany(wait, fmt.Sprintf("the token %q has asked more than %d times a second", h.Name, askRate))
	}
	return &Caller{h.Token, addr}, nil
}

// ownAddress reports whether who sends r has the address that he sends it to:
// then both are this machine.
func ownAddress(r *http.Request, addr string) bool {
	to, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && to.AddrPort().Addr().Unmap().String() == addr
}

func loopback(addr string) bool {
	a, err := netip.ParseAddr(addr)
	return err == nil && a.IsLoopback()
}
