package conformance

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"interop/internal/answer"
	"interop/internal/call"
	"interop/internal/caller"
)

// Answered is a case with its answer, as it stands in the recorded file.
type Answered struct {
	Case     string   `json:"case"`
	Caller   string   `json:"caller"`
	Method   string   `json:"method"`
	Requests []string `json:"requests,omitempty"`
	answer.Record
}

// Run runs every case in order. `settle` is how long the server's caches may take.
func Run(ctx context.Context, w *World, cases []Case, settle time.Duration) ([]Answered, error) {
	var all []Answered
	for _, c := range cases {
		if !w.Has(c.Caller) || (c.Pop != "" && w.PopCA == nil) {
			continue
		}
		if c.Settle {
			time.Sleep(settle)
		}
		record, err := w.run(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("case %q: %w", c.Name, err)
		}
		if c.CodeOnly {
			record.Responses = nil
		}
		all = append(all, Answered{Case: c.Name, Caller: c.Caller, Method: c.Method, Requests: c.Requests, Record: record})
	}
	return all, nil
}

func (w *World) run(ctx context.Context, c Case) (answer.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := w.Connection(c.Caller)
	if err != nil {
		return answer.Record{}, err
	}
	method := call.Find(c.Method)
	script, err := w.script(c, method)
	if err != nil {
		return answer.Record{}, err
	}
	outcome, err := call.Do(ctx, conn, method, script)
	if err != nil {
		return answer.Record{}, err
	}
	if err := w.save(c, outcome); err != nil {
		return answer.Record{}, err
	}
	names := map[string]string{}
	for name, value := range w.saved {
		names[value] = name
	}
	mask := answer.Mask{TrustDomain: w.TrustDomain.Name(), Names: names, Now: time.Now(), Unordered: c.Unordered}
	return mask.Record(outcome), nil
}

func (w *World) script(c Case, method call.Method) (call.Script, error) {
	if c.Pop != "" {
		return w.pop(c.Pop)
	}
	var requests []proto.Message
	for _, text := range c.Requests {
		request, err := w.Request(method, text)
		if err != nil {
			return nil, err
		}
		requests = append(requests, request)
	}
	return call.Each(requests...), nil
}

// pop makes the certificate and the proof that the name of an attestation asks for.
func (w *World) pop(kind string) (call.Script, error) {
	csr, err := caller.CSR(caller.NewKey())
	if err != nil {
		return nil, err
	}
	options := caller.PopOptions{CommonName: "interop " + kind}
	ca := w.PopCA
	switch kind {
	case "P-384":
		options.Curve = elliptic.P384()
	case "P-521":
		options.Curve = elliptic.P521()
	case "RSA":
		options.RSABits = 2048
	case "intermediates":
		options.Intermediates = 2
	case "too many intermediates":
		options.Intermediates = 5
	case "expired":
		options.Expired = true
	case "not for signatures":
		options.Usage = x509.KeyUsageKeyEncipherment
	case "selectors in URIs":
		options.URIs = []string{"x509pop://" + w.TrustDomain.Name() + "/datacenter/us-east/1", "x509pop://other.test/datacenter/x", "https://example.com/"}
	case "unknown CA":
		if ca, err = caller.NewPopCA("nobody knows this one"); err != nil {
			return nil, err
		}
	}
	chain, key, err := ca.Issue(options)
	if err != nil {
		return nil, err
	}
	if kind == "wrong key" {
		key = caller.NewKey()
	}
	return caller.X509Pop(chain, key, csr), nil
}

// save keeps values of the last response under their names.
func (w *World) save(c Case, outcome call.Outcome) error {
	if len(c.Save) == 0 || !outcome.OK() || len(outcome.Responses) == 0 {
		return nil
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(outcome.Responses[len(outcome.Responses)-1])
	if err != nil {
		return err
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return err
	}
	for name, path := range c.Save {
		value := tree
		for _, step := range strings.Split(path, ".") {
			switch node := value.(type) {
			case map[string]any:
				value = node[step]
			case []any:
				value = nil
				if step == "0" && len(node) > 0 {
					value = node[0]
				}
			default:
				value = nil
			}
		}
		if text, ok := value.(string); ok {
			w.saved[name] = text
		}
	}
	return nil
}
