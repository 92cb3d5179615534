package access

import "time"

// forbidden is the objection to what the owner has forbidden.
var forbidden = &objection{Blocked, "the stream or app is forbidden"}

// checkLists is the block and allow lists of the domain, and the streams that
// are forbidden.
func (j *judgement) checkLists() *objection {
	r := &j.request
	a := j.domain.Access(r.Op.use())
	switch {
	case !a.IP.Pass(r.Addr.Addr()):
		return &objection{Blocked, "the address is blocked or not allowed"}
	case j.space.Forbids(r.Op.use(), j.app.Name, r.Stream, time.Now()):
		return forbidden
	}
	if r.overHTTP() {
		switch {
		case !a.Referer.PassReferer(r.Referer):
			return &objection{Blocked, "the referer is blocked or not allowed"}
		case !a.UserAgent.PassText(r.UserAgent):
			return &objection{Blocked, "the user agent is blocked or not allowed"}
		}
	}
	j.note("lists", true, "no list keeps the client out")
	return nil
}
