package node

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// A certificate is that of the TLS listeners. It can be read again while they
// serve: connections from then on get the new one.
type certificate struct {
	files   TLS
	current atomic.Pointer[tls.Certificate]
}

// load reads the files. On an error the certificate stays what it was.
func (c *certificate) load() error {
	cert, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return fmt.Errorf("certificate of tls.cert and tls.key: %w", err)
	}
	c.current.Store(&cert)
	return nil
}

// config returns the settings of a TLS listener. HTTP/2 is not offered: an
// HTTP-FLV stream takes the connection for itself.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}
