package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Newer is the error of opening what a newer Weir has written.
type Newer struct {
	Name      string // of the stream or bucket
	Has, Know int    // versions of its schema
}

func (e *Newer) Error() string {
	return fmt.Sprintf("%s has schema %d, and this Weir knows only up to %d: run the newer Weir that wrote it", e.Name, e.Has, e.Know)
}

// Migrate turns what a stream or bucket holds from one version of its schema
// into the next. It may be interrupted and called again.
type Migrate func(ctx context.Context, from int) error

// schemaKey is where the metadata of a stream keeps the version of its schema.
const schemaKey = "weir.schema"

// Stream makes the stream that cfg describes, or changes the one that is there
// to be so. It records that what the stream holds is in version schema, after
// migrate has been called for each version before. More replicas than it asks for
// are left, and so is one where JetStream does not let there be more. The error is
// a *Newer if the stream is in a version to come.
func Stream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, schema int, migrate Migrate) (jetstream.Stream, error) {
	old, err := find(ctx, js, cfg.Name)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("open stream %s: %w", cfg.Name, err)
	}
	cfg.Metadata = map[string]string{schemaKey: strconv.Itoa(schema)}
	if err == nil {
		have := old.CachedInfo().Config
		if err := upgrade(ctx, cfg.Name, have.Metadata, schema, migrate); err != nil {
			return nil, err
		}
		cfg.Replicas = replicas(old.CachedInfo(), cfg.Replicas)
		if have.PersistMode == jetstream.AsyncPersistMode { // which cannot be changed, and is of a single copy
			cfg.PersistMode, cfg.Replicas = have.PersistMode, 1
		}
		if have.MaxAge == cfg.MaxAge && have.MaxBytes == cfg.MaxBytes && have.Replicas == max(1, cfg.Replicas) &&
			have.Duplicates == cfg.Duplicates && slices.Equal(have.Subjects, cfg.Subjects) &&
			have.Metadata[schemaKey] == cfg.Metadata[schemaKey] {
			return old, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	s, err := js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("make stream %s: %w", cfg.Name, err)
	}
	return s, nil
}

// KV is Stream for a key-value bucket.
func KV(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, schema int, migrate Migrate) (jetstream.KeyValue, error) {
	old, err := find(ctx, js, "KV_"+cfg.Bucket)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("open bucket %s: %w", cfg.Bucket, err)
	}
	if err == nil {
		if err := upgrade(ctx, cfg.Bucket, old.CachedInfo().Config.Metadata, schema, migrate); err != nil {
			return nil, err
		}
		cfg.Replicas = replicas(old.CachedInfo(), cfg.Replicas)
	}
	cfg.Metadata = map[string]string{schemaKey: strconv.Itoa(schema)}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	kv, err := js.CreateOrUpdateKeyValue(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("make bucket %s: %w", cfg.Bucket, err)
	}
	return kv, nil
}

// replicas returns how many replicas a stream is to have of which want are asked
// for: those that somebody has added to it in a cluster are his business.
func replicas(have *jetstream.StreamInfo, want int) int {
	if have.Cluster == nil { // where there is but one, even if it was once in a cluster
		return max(1, want)
	}
	return max(1, want, have.Config.Replicas)
}

// answerTime is how long JetStream may take to answer. A cluster without a
// majority does not answer at all.
const answerTime = 3 * time.Second

func find(ctx context.Context, js jetstream.JetStream, stream string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return js.Stream(ctx, stream)
}

// upgrade brings what has that metadata to the version schema.
func upgrade(ctx context.Context, name string, metadata map[string]string, schema int, migrate Migrate) error {
	has, err := strconv.Atoi(metadata[schemaKey])
	if err != nil {
		return fmt.Errorf("%s was not made by Weir: its metadata has no %s", name, schemaKey)
	}
	if has > schema {
		return &Newer{name, has, schema}
	}
	for ; has < schema; has++ {
		if err := migrate(ctx, has); err != nil {
			return fmt.Errorf("bring %s from schema %d to %d: %w", name, has, has+1, err)
		}
	}
	return nil
}
