package cluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
)

const (
	keyBucket = "weir_keys"
	keySchema = 1
	keySize   = 32
)

// Key returns the key of that name, which is the same on all nodes and after a
// restart: the first who asks makes it. It is stored encrypted, as secrets are.
// While JetStream is away it is what the copy has, or else ErrAway.
func (p *Policy) Key(ctx context.Context, name string) ([]byte, error) {
	sealed, err := p.storedKey(ctx, name)
	if newer := (*bus.Newer)(nil); errors.As(err, &newer) {
		return nil, err
	}
	p.mu.Lock()
	if err == nil && p.keys[name] != sealed {
		p.keys[name], p.dirty = sealed, true
	} else if err != nil && p.keys[name] != "" {
		sealed, err = p.keys[name], nil
	}
	p.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	text, err := p.o.Keys.Open("key/"+name, sealed)
	if err != nil {
		return nil, fmt.Errorf("the key %s of the nodes: %w", name, err)
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("the key %s of the nodes is damaged", name)
	}
	return key, nil
}

func (p *Policy) storedKey(ctx context.Context, name string) (sealed string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	kv, err := bus.KV(ctx, p.js, jetstream.KeyValueConfig{
		Bucket: keyBucket, Description: "keys that all nodes share, encrypted", Replicas: p.o.Replicas,
	}, keySchema, func(context.Context, int) error { return nil })
	if err != nil {
		return "", err
	}
	var key [keySize]byte
	rand.Read(key[:])
	sealed = p.o.Keys.Seal("key/"+name, base64.StdEncoding.EncodeToString(key[:]))
	_, err = kv.Create(ctx, bus.Token(name), []byte(sealed))
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return sealed, err
	}
	e, err := kv.Get(ctx, bus.Token(name))
	if err != nil {
		return "", err
	}
	return string(e.Value()), nil
}
