package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// spot is a place in a text, from 1 on.
type spot struct{ line, column int }

func (s spot) problem(format string, args ...any) *DecodeProblem {
	return &DecodeProblem{Line: s.line, Column: s.column, Message: fmt.Sprintf(format, args...)}
}

// checkText refuses what is not a text of reasonable length.
func checkText(data []byte) *DecodeProblem {
	start := spot{1, 1}
	switch {
	case len(data) > MaxText:
		return start.problem("must have at most %d bytes, not %d", MaxText, len(data))
	case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0:
		return start.problem("must be UTF-8 text")
	}
	return nil
}

// parseYAML returns the first document of data, nil if there is none.
func parseYAML(data []byte) (*node, *DecodeProblem) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if p := checkText(data); p != nil {
		return nil, p
	}
	tokens := lexer.Tokenize(string(data))
	if p := checkDepth(tokens); p != nil {
		return nil, p
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxProblem(err)
	}
	var docs []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc.Body)
		}
	}
	switch len(docs) {
	case 0:
		return nil, nil
	case 1:
		return yamlNode(docs[0]), nil
	}
	return yamlNode(docs[0]), yamlSpot(docs[1]).problem("a second document in one file")
}

// checkDepth refuses what the parser would need a deep stack for: Go ends a
// process whose stack overflows. The parser calls itself for each section or
// list within another, and for each key of a block section after the first.
func checkDepth(tokens token.Tokens) *DecodeProblem {
	type block struct{ column, keys int }
	var blocks []block // sections and lists in block style that are open
	var flow []int     // keys of the sections and lists in flow style that are open
	marks := 0
	open := func(column int) (keys int) {
		for len(blocks) > 0 && blocks[len(blocks)-1].column > column {
			blocks = blocks[:len(blocks)-1]
		}
		if len(blocks) == 0 || blocks[len(blocks)-1].column < column {
			blocks = append(blocks, block{column: column})
		}
		b := &blocks[len(blocks)-1]
		b.keys++
		return b.keys
	}
	for _, t := range tokens {
		keys := 0
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow = append(flow, 0)
		case token.SequenceEndType, token.MappingEndType:
			flow = flow[:max(0, len(flow)-1)]
		case token.AnchorType, token.AliasType, token.TagType, token.DirectiveType, token.MergeKeyType:
			marks++
		case token.SequenceEntryType:
			if len(flow) == 0 {
				open(t.Position.Column)
				blocks[len(blocks)-1].keys = 0
			}
		case token.MappingKeyType:
			if len(flow) == 0 {
				keys = open(t.Position.Column)
			}
		case token.MappingValueType:
			if len(flow) == 0 && t.Prev != nil {
				keys = open(t.Prev.Position.Column)
			}
		}
		at := spot{t.Position.Line, t.Position.Column}
		// In block style a list may stand in the column of the section that it is in.
		if len(flow)+len(blocks) > 2*maxDepth || marks > maxKeys {
			return at.problem("nested too deeply")
		}
		if keys > maxKeys {
			return at.problem("more than %d settings in one section", maxKeys)
		}
	}
	return nil
}

func syntaxProblem(err error) *DecodeProblem {
	at, message := spot{1, 1}, err.Error()
	var ye yaml.Error
	if errors.As(err, &ye) {
		message = ye.GetMessage()
		if t := ye.GetToken(); t != nil && t.Position != nil {
			at = spot{t.Position.Line, t.Position.Column}
		}
	}
	return at.problem("%s", message)
}

// yamlNode returns what n says.
func yamlNode(n ast.Node) *node {
	out := &node{at: yamlSpot(n)}
	switch n := n.(type) {
	case *ast.NullNode:
		out.kind = kindNull
	case *ast.StringNode:
		out.kind, out.text = kindText, n.Value
	case *ast.LiteralNode:
		out.kind, out.text = kindText, n.Value.Value
	case *ast.BoolNode:
		out.kind, out.text = kindBool, n.GetToken().Value
	case *ast.IntegerNode:
		out.kind, out.text = kindInteger, n.GetToken().Value
	case *ast.FloatNode:
		out.kind, out.text = kindFloat, n.GetToken().Value
	case *ast.MappingNode:
		out.kind = kindSection
		for _, entry := range n.Values {
			t := entry.Key.GetToken()
			out.keys = append(out.keys, key{t.Value, spot{t.Position.Line, t.Position.Column}})
			out.list = append(out.list, yamlNode(entry.Value))
		}
	case *ast.SequenceNode:
		out.kind = kindList
		for _, v := range n.Values {
			out.list = append(out.list, yamlNode(v))
		}
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		out.kind, out.text = kindForeign, "an anchor, alias or tag"
	default:
		out.kind, out.text = kindForeign, "a "+strings.ToLower(n.Type().YAMLName())
	}
	return out
}

// yamlSpot returns where n begins.
func yamlSpot(n ast.Node) spot {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key // its own token is the first colon
	}
	p := n.GetToken().Position
	return spot{p.Line, p.Column}
}

// parseJSON returns the value of data, which is one.
func parseJSON(data []byte) (*node, *DecodeProblem) {
	if p := checkText(data); p != nil {
		return nil, p
	}
	p := jsonParser{data: data, dec: json.NewDecoder(bytes.NewReader(data)), at: spot{1, 1}}
	p.dec.UseNumber()
	n, problem := p.value(0)
	if problem != nil {
		return nil, problem
	}
	at := p.spot()
	if _, err := p.dec.Token(); err != io.EOF {
		return nil, at.problem("something follows the value")
	}
	return n, nil
}

// jsonParser walks over JSON and knows where it is.
type jsonParser struct {
	data []byte
	dec  *json.Decoder
	seen int  // offset that spot saw last
	at   spot // of it
}

// spot returns where the next token begins.
func (p *jsonParser) spot() spot {
	i := int(p.dec.InputOffset())
	for i < len(p.data) && strings.IndexByte(" \t\r\n,:", p.data[i]) >= 0 {
		i++
	}
	for ; p.seen < i; p.seen++ {
		switch c := p.data[p.seen]; {
		case c == '\n':
			p.at = spot{p.at.line + 1, 1}
		case utf8.RuneStart(c):
			p.at.column++
		}
	}
	return p.at
}

func (p *jsonParser) token() (json.Token, spot, *DecodeProblem) {
	at := p.spot()
	t, err := p.dec.Token()
	switch {
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, at, at.problem("the JSON ends too early")
	case err != nil:
		return nil, at, at.problem("is not JSON: %s", err)
	}
	return t, at, nil
}

func (p *jsonParser) value(depth int) (*node, *DecodeProblem) {
	t, at, problem := p.token()
	if problem != nil {
		return nil, problem
	}
	n := &node{at: at}
	switch t := t.(type) {
	case nil:
		n.kind = kindNull
	case bool:
		n.kind, n.text = kindBool, fmt.Sprint(t)
	case string:
		n.kind, n.text = kindText, t
	case json.Number:
		n.kind, n.text = kindInteger, t.String()
		if strings.ContainsAny(n.text, ".eE") {
			n.kind = kindFloat
		}
	case json.Delim:
		if depth == maxDepth {
			return nil, at.problem("nested too deeply")
		}
		n.kind = kindSection
		if t == '[' {
			n.kind = kindList
		}
		for p.dec.More() {
			if n.kind == kindSection {
				t, at, problem := p.token()
				if problem != nil {
					return nil, problem
				}
				n.keys = append(n.keys, key{t.(string), at})
			}
			e, problem := p.value(depth + 1)
			if problem != nil {
				return nil, problem
			}
			n.list = append(n.list, e)
		}
		if _, _, problem := p.token(); problem != nil { // the closing bracket
			return nil, problem
		}
	}
	return n, nil
}
