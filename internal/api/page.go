package api

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
)

// Paging is the parameters of a list.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"5000" default:"100" doc:"How many items to return at most."`
	Cursor string `query:"cursor" maxLength:"2048" doc:"The next of the page before; absent for the first page."`
}

func (p *Paging) limit() int { return p.Limit }

// Page is a part of a list.
type Page[T any] struct {
	Items []T    `json:"items" nullable:"false" doc:"In the order asked for."`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; absent on the last one."`
}

// cursor is where a page ends: at the item of that sort value and key, in that
// list. To clients it is opaque.
type cursor struct {
	List  string  `json:"l"`           // with its order
	Value float64 `json:"v,omitempty"` // that it is sorted by
	Key   string  `json:"k"`
}

func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // of a NaN, which no list is sorted by
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// after decodes the cursor of p for a list; nil for the first page.
func (p Paging) after(list string) (*cursor, error) {
	if p.Cursor == "" {
		return nil, nil
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.List != list {
		return nil, problem(http.StatusBadRequest, kindCursor, "the cursor is not one of this list in this order; begin without")
	}
	return &c, nil
}

// sorting is what a list is sorted by: descending by a value, or ascending,
// and then always ascending by a key that no two items share.
type sorting[T any] struct {
	list  string // names list and order
	desc  bool
	value func(*T) float64 // nil: by key alone
	key   func(*T) string
}

func (o *sorting[T]) valueOf(v *T) float64 {
	if o.value == nil {
		return 0
	}
	return o.value(v)
}

// cursor is where a page ends whose last item is v.
func (o *sorting[T]) cursor(v *T) string {
	return cursor{o.list, o.valueOf(v), o.key(v)}.String()
}

func (o *sorting[T]) compare(av float64, ak string, bv float64, bk string) int {
	c := cmp.Compare(av, bv)
	if o.desc {
		c = -c
	}
	return cmp.Or(c, cmp.Compare(ak, bk))
}

// page sorts items and returns the page that p asks for. A page begins after
// the last item of the one before, whether that is still there or not, so what
// comes or goes meanwhile makes nothing else appear twice or not at all.
func page[T any](items []T, p Paging, o sorting[T]) (Page[T], error) {
	after, err := p.after(o.list)
	if err != nil {
		return Page[T]{}, err
	}
	type sortable struct {
		value float64
		key   string
		at    int
	}
	list := make([]sortable, 0, len(items))
	for i := range items {
		v, k := o.valueOf(&items[i]), o.key(&items[i])
		if after == nil || o.compare(v, k, after.Value, after.Key) > 0 {
			list = append(list, sortable{v, k, i})
		}
	}
	slices.SortFunc(list, func(a, b sortable) int { return o.compare(a.value, a.key, b.value, b.key) })
	pg := Page[T]{Items: make([]T, 0, min(len(list), p.Limit))}
	for _, x := range list[:min(len(list), p.Limit)] {
		pg.Items = append(pg.Items, items[x.at])
	}
	if n := p.Limit; n < len(list) {
		pg.Next = cursor{o.list, list[n-1].value, list[n-1].key}.String()
	}
	return pg, nil
}
