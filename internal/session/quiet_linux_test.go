package session

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// A reader that was to be told of much only gets what there is, waits for the
// next byte and no more, and hears of the end and of its deadline.
func TestQuietConn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, hush := quietly(c)
	lowat := func(want int) {
		t.Helper()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT); n != want || err != nil {
				t.Errorf("told of %d bytes, %v; want %d", n, err, want)
			}
		})
	}
	read := func(want string) {
		t.Helper()
		got := make([]byte, len(want)+1)
		n := 0
		for n < len(want) {
			m, err := r.Read(got[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if !bytes.Equal(got[:n], []byte(want)) {
			t.Fatalf("%q, want %q", got[:n], want)
		}
	}
	write := func(s string) {
		t.Helper()
		if _, err := io.WriteString(peer, s); err != nil {
			t.Fatal(err)
		}
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second)) // in which a lost wake-up is seen

	hush(true)
	lowat(calmBytes)
	write("ab")
	read("ab")
	hush(true)
	go peer.Write([]byte("c")) // ends when it is written
	read("c")                  // whether it waits for it or finds it

	c.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	hush(true)
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("until the deadline: %v", err)
	}
	lowat(1) // it has waited
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	write("d")
	read("d")

	hush(true)
	lowat(calmBytes)
	hush(false)
	lowat(1)

	hush(true)
	peer.Close()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	c.Close()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
