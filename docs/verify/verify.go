// Verify checks the signature of a callback of Weir. As a program:
//
//	WEIR_CALLBACK_SECRET=… go run verify.go TIMESTAMP ID SIGNATURE < body
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// Verify reports whether a call is one of Weir: timestamp, id and signature are
// the headers Weir-Timestamp, Weir-Event-Id and Weir-Signature, and body is the
// body as it came, before anything has parsed it.
func Verify(secret, timestamp, id, signature string, body []byte, now time.Time) bool {
	at, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || now.Sub(time.Unix(at, 0)).Abs() > 5*time.Minute {
		return false // too old to be believed
	}
	mac := hmac.New(sha256.New, []byte(secret))
	io.WriteString(mac, timestamp+"."+id+".")
	mac.Write(body)
	want := "v1=" + hex.EncodeToString(mac.Sum(nil))
	return hmac.Equal([]byte(want), []byte(signature))
}

func main() {
	body, err := io.ReadAll(os.Stdin)
	if err != nil || len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: verify TIMESTAMP ID SIGNATURE < body")
		os.Exit(2)
	}
	if !Verify(os.Getenv("WEIR_CALLBACK_SECRET"), os.Args[1], os.Args[2], os.Args[3], body, time.Now()) {
		fmt.Println("wrong")
		os.Exit(1)
	}
	fmt.Println("ok")
}
