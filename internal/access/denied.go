package access

import (
	"fmt"
	"io"
	"net/http"

	"weir/internal/policy"
)

// What a client whose request is granted is told.
const (
	PublishSuccess = "Publish Success"
	PlaySuccess    = "Play Success"
)

// Reason is why a request is denied, as logs and metrics name it.
type Reason string

const (
	NoDomain     Reason = "no_domain"     // no such domain, or not for this
	NoApp        Reason = "no_app"        // no such app
	StreamExists Reason = "stream_exists" // somebody publishes it already
	NoStream     Reason = "no_stream"     // nobody publishes it
	BadName      Reason = "bad_name"      // the stream's name is empty or illegal
	TooLong      Reason = "too_long"      // more parameters than the limits allow
	Blocked      Reason = "blocked"       // on a block list
	AuthFailed   Reason = "auth_failed"
	AuthMissing  Reason = "auth_missing"
	AuthExpired  Reason = "auth_expired"

	AuthUnavailable Reason = "auth_unavailable"  // the server that decides cannot be asked
	TooManyFailures Reason = "too_many_failures" // of the address
	Full            Reason = "full"              // this server has as many as it may
)

// Denied is the refusal of a request, in the words of each protocol.
type Denied struct {
	Op     Op
	Reason Reason
	Why    string // more of it, for logs; not for the client

	Forbidden bool // the owner has forbidden the stream or app

	// RTMP: the numbers and the description of the guide's tables (l.246-266,
	// l.305-314), and the code of the onStatus that goes with them.
	Code, SubCode int
	Message       string
	NetStatus     string

	// HTTP: Code and Message of the XML body (l.376-430), and the status.
	Name       string
	Detail     string
	HTTPStatus int
}

func (d *Denied) Error() string {
	s := fmt.Sprintf("%s denied: %s (%d/%d)", d.Op, d.Message, d.Code, d.SubCode)
	if d.Why != "" {
		s += ": " + d.Why
	}
	return s
}

// answer is a row of the guide's tables.
type answer struct {
	code, subCode int
	publish, play string
	name, detail  string
}

var answers = map[Reason]answer{
	NoDomain:     {1, 0, "Non-Exist Publish Domain", "Non-Exist Play Domain", "NonExistDomain", ""},
	NoApp:        {2, 0, "Non-Exist Application", "Non-Exist Application", "NonExistApplication", ""},
	StreamExists: {3, 0, "Already Exist Stream Name", "", "ExistStreamName", ""},
	NoStream:     {3, 0, "", "Non-Exist Stream Name", "NonExistStreamName", ""},
	Blocked:      {4, 0, "Forbidden By Blacklist", "Forbidden By Blacklist", "AuthencationFailed", "Forbidden By Blacklist"},
	AuthFailed:   {5, 0, "Authentication Failed", "Authentication Failed", "AuthencationFailed", "Signature Not Match"},
	AuthMissing:  {5, 1, "Accesskey Or Signature Not Exist", "Accesskey Or Signature Not Exist", "AuthencationFailed", "Non Exist Signature or Accesskey"},
	AuthExpired:  {5, 2, "URL Expired", "URL Expired", "AuthencationFailed", "URL Expired"},

	// The guide has no row for these (B.25, B.26).
	BadName:         {5, 0, "Illegal Stream Name", "", "AuthencationFailed", "Illegal Stream Name"},
	TooLong:         {5, 0, "Too Many Parameters", "Too Many Parameters", "AuthencationFailed", "Too Many Parameters"},
	AuthUnavailable: {5, 0, "Authentication Failed", "Authentication Failed", "AuthencationFailed", "Authentication Failed"},
	TooManyFailures: {5, 0, "Authentication Failed", "Authentication Failed", "AuthencationFailed", "Too Many Failures"},
	Full:            {5, 0, "Too Many Publishers", "Too Many Players", "ServiceUnavailable", "Too Many Players"},
}

// deny returns the refusal of op for that reason. The domain, where it is
// known, decides about HTTP's status.
func deny(op Op, reason Reason, domain *policy.Domain) *Denied {
	a := answers[reason]
	if op == Play && reason == BadName {
		a = answers[NoStream] // no stream can have that name
	}
	d := &Denied{
		Op: op, Reason: reason,
		Code: a.code, SubCode: a.subCode,
		Name: a.name, Detail: a.detail,
		HTTPStatus: http.StatusForbidden,
	}
	missing := a.code == 2 || a.name == "NonExistStreamName"
	if reason == Full {
		d.HTTPStatus = http.StatusServiceUnavailable
	}
	if missing && domain != nil && domain.NotFound {
		d.HTTPStatus = http.StatusNotFound
	}
	switch {
	case op == Publish:
		d.Message, d.NetStatus = a.publish, "NetStream.Publish.Denied"
		if reason == StreamExists || reason == BadName {
			d.NetStatus = "NetStream.Publish.BadName"
		}
	default:
		d.Message, d.NetStatus = a.play, "NetStream.Play.Failed"
		if a.code == 3 {
			d.NetStatus = "NetStream.Play.StreamNotFound"
		}
	}
	return d
}

// WriteHTTPError answers r, to which nothing has been written, with d: the XML
// body of the guide (l.376-430) as text/plain.
func WriteHTTPError(w http.ResponseWriter, r *http.Request, d *Denied) {
	h := w.Header()
	h.Set("Content-Type", "text/plain")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	body := "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n<Code>" + d.Name + "</Code>\n"
	if d.Detail != "" {
		body += "<Message>" + d.Detail + "</Message>\n"
	}
	body += "</Error>\n"
	if d.HTTPStatus == http.StatusServiceUnavailable {
		h.Set("Retry-After", "5")
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(d.HTTPStatus)
	if r.Method != http.MethodHead {
		io.WriteString(w, body)
	}
}
