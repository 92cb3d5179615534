// Package web holds the files that browsers get: the page that plays a stream,
// and the player libraries that "make build" fetches from npm. A server that
// was built without them has the page, which then plays what the browser plays
// by itself.
package web

import (
	"embed"
	_ "embed"
)

// Page is the template of the page, for html/template. Its data has App, the
// name of an app, and Port, the port of the RTMP listener or "".
//
//go:embed page.html
var Page string

// Files has the libraries, in the folder dist.
//
//go:embed all:dist
var Files embed.FS
