package cluster

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weir/internal/durable"
)

// A Keyring has the keys by which secrets are encrypted where they are stored.
// The newest encrypts; all decrypt, so that keys can be changed: a new one is
// added to every node, and the old ones go when everything has been written
// again.
//
// A sealed secret is
//
//	weir1:KEY:DATA
//
// KEY is the beginning of the SHA-256 of the key in hex, DATA in base64 a nonce
// of 12 bytes and what AES-256-GCM makes of the text. The name of the document
// is authenticated with it: a sealed secret is good in its own document only.
type Keyring struct {
	newest string
	keys   map[string]cipher.AEAD // by KEY
	macs   map[string][]byte      // by KEY: what it signs with
}

const sealPrefix = "weir1:"

// WrongKey is the error of what was encrypted with a key that is not in the ring.
type WrongKey struct{ Key string }

func (e *WrongKey) Error() string {
	return fmt.Sprintf("its secrets are encrypted with the key %.16q, which this node does not have: add that key to the key file (secrets.key_file), "+
		"which the node that wrote them has", e.Key)
}

// ParseKeys reads a key file: a key of 32 bytes in base64 on each line, the
// newest first. Empty lines and what follows a # do not count.
func ParseKeys(text []byte) (*Keyring, error) {
	r := &Keyring{keys: make(map[string]cipher.AEAD), macs: make(map[string][]byte)}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line, _, _ = bytes.Cut(line, []byte("#"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil || len(key) != 32 {
			return nil, fmt.Errorf("line %d is not a key: 32 bytes in base64, as this prints: openssl rand -base64 32", n)
		}
		if err := r.add(key); err != nil {
			return nil, err
		}
	}
	if r.newest == "" {
		return nil, errors.New("there is no key in it; this makes one: openssl rand -base64 32")
	}
	return r, nil
}

func (r *Keyring) add(key []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(key)
	id := hex.EncodeToString(hash[:4])
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("weir signature"))
	r.keys[id], r.macs[id] = aead, mac.Sum(nil)
	if r.newest == "" {
		r.newest = id
	}
	return nil
}

// ReadKeys reads the key file at path. Where there is none and make is set, it
// makes one with a new key, for the eyes of this user only.
func ReadKeys(path string, make bool) (*Keyring, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && make {
		text, err = makeKeyFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("keys of secrets: %w", err)
	}
	r, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("keys of secrets in %s: %w", path, err)
	}
	return r, nil
}

func makeKeyFile(path string) ([]byte, error) {
	var key [32]byte
	rand.Read(key[:])
	text := []byte("# The keys by which Weir encrypts the secrets of its policy. Keep a copy: without\n# it they are lost. Other nodes of a cluster need the same file.\n" +
		base64.StdEncoding.EncodeToString(key[:]) + "\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path)) // before anything is encrypted with it
	}
	if err != nil {
		os.Remove(path) // a file without a key would keep the next start from making one
	}
	return text, err
}

// Seal encrypts text for the document of that name.
func (r *Keyring) Seal(document, text string) string {
	aead := r.keys[r.newest]
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	data := aead.Seal(nonce, nonce, []byte(text), []byte(document))
	return sealPrefix + r.newest + ":" + base64.StdEncoding.EncodeToString(data)
}

// Open decrypts what Seal has returned for the document of that name. The error
// is a *WrongKey when the key is missing.
func (r *Keyring) Open(document, sealed string) (string, error) {
	rest, ok := strings.CutPrefix(sealed, sealPrefix)
	id, encoded, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return "", errors.New("a secret is not encrypted as Weir does it")
	}
	aead := r.keys[id]
	if aead == nil {
		return "", &WrongKey{id}
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(data) < aead.NonceSize() {
		return "", errors.New("a secret is damaged")
	}
	text, err := aead.Open(nil, data[:aead.NonceSize()], data[aead.NonceSize():], []byte(document))
	if err != nil {
		return "", errors.New("a secret is damaged, or was taken from another document")
	}
	return string(text), nil
}

// Sign returns the signature of parts by the newest key: KEY:MAC, where MAC is an
// HMAC-SHA-256 in base64 of the length and the bytes of each part.
func (r *Keyring) Sign(parts ...[]byte) string {
	return r.newest + ":" + base64.StdEncoding.EncodeToString(sign(r.macs[r.newest], parts))
}

// Verify reports whether a ring that shares a key with this one has signed parts.
func (r *Keyring) Verify(signature string, parts ...[]byte) bool {
	id, encoded, _ := strings.Cut(signature, ":")
	got, err := base64.StdEncoding.DecodeString(encoded)
	key := r.macs[id]
	return err == nil && key != nil && hmac.Equal(got, sign(key, parts))
}

func sign(key []byte, parts [][]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		mac.Write(p)
	}
	return mac.Sum(nil)
}

// old reports whether a stored document has secrets that were sealed with
// another key than the newest.
func (r *Keyring) old(stored []byte) bool {
	for _, part := range bytes.Split(stored, []byte(`"`+sealPrefix))[1:] {
		if !bytes.HasPrefix(part, []byte(r.newest+":")) {
			return true
		}
	}
	return false
}
