package conformance

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"interop/internal/call"
	"interop/internal/caller"
)

// Request fills a case's shorthand in.
func (w *World) Request(method call.Method, text string) (proto.Message, error) {
	var tree any
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	tree, err := w.fill(tree)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	filled, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	request := method.NewRequest()
	if err := protojson.Unmarshal(filled, request); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	return request, nil
}

func (w *World) fill(tree any) (any, error) {
	switch node := tree.(type) {
	case map[string]any:
		for name, value := range node {
			filled, err := w.fill(value)
			if err != nil {
				return nil, err
			}
			node[name] = filled
		}
	case []any:
		for i, value := range node {
			filled, err := w.fill(value)
			if err != nil {
				return nil, err
			}
			node[i] = filled
		}
	case string:
		if id, short := strings.CutPrefix(node, "@"); short {
			domain, path := id, ""
			if slash := strings.Index(id, "/"); slash >= 0 {
				domain, path = id[:slash], id[slash:]
			}
			if domain == "" {
				domain = w.TrustDomain.Name()
			}
			return map[string]any{"trust_domain": domain, "path": path}, nil
		}
		if words, short := strings.CutPrefix(node, "$"); short {
			return w.material(strings.Fields(words))
		}
	}
	return tree, nil
}

func (w *World) material(words []string) (any, error) {
	kind, args := words[0], words[1:]
	encode := func(der []byte, err error) (any, error) {
		return base64.StdEncoding.EncodeToString(der), err
	}
	switch kind {
	case "csr":
		return encode(w.csr(args))
	case "csr-bad":
		der, err := w.csr(args)
		if err == nil {
			der[len(der)-1] ^= 1
		}
		return encode(der, err)
	case "cert":
		return encode(w.certificate(args[0]))
	case "certs":
		var der []byte
		for _, name := range args {
			one, err := w.certificate(name)
			if err != nil {
				return nil, err
			}
			der = append(der, one...)
		}
		return encode(der, nil)
	case "key":
		return encode(w.remembered("key "+args[0], func() ([]byte, error) {
			return x509.MarshalPKIXPublicKey(caller.NewKey().Public())
		}))
	case "bytes":
		return encode([]byte(strings.Join(args, " ")), nil)
	case "long":
		count, err := strconv.Atoi(args[0])
		return strings.Repeat("a", count), err
	case "saved":
		value, known := w.saved[strings.Join(args, " ")]
		if !known {
			// What an earlier case did not get is asked for in a way that no server knows.
			return "nothing saved", nil
		}
		return value, nil
	default:
		return nil, fmt.Errorf("no material %q", kind)
	}
}

// csr makes a request of a new key; the first word is a SPIFFE ID, where it is one,
// the others are DNS names.
func (w *World) csr(words []string) ([]byte, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}}}
	for _, word := range words {
		switch {
		case strings.HasPrefix(word, "spiffe://"):
			uri, err := url.Parse(strings.Replace(word, "spiffe:///", "spiffe://"+w.TrustDomain.Name()+"/", 1))
			if err != nil {
				return nil, err
			}
			template.URIs = append(template.URIs, uri)
		case strings.HasPrefix(word, "CN="):
			template.Subject = pkix.Name{CommonName: strings.TrimPrefix(word, "CN=")}
		case word == "no-subject":
			template.Subject = pkix.Name{}
		default:
			template.DNSNames = append(template.DNSNames, word)
		}
	}
	return x509.CreateCertificateRequest(rand.Reader, template, caller.NewKey())
}

func (w *World) certificate(name string) ([]byte, error) {
	return w.remembered("cert "+name, func() ([]byte, error) {
		key := caller.NewKey()
		uri := &url.URL{Scheme: "spiffe", Host: "other.test"}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{uri},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	})
}

func (w *World) remembered(name string, fresh func() ([]byte, error)) ([]byte, error) {
	if der, known := w.materials[name]; known {
		return der, nil
	}
	der, err := fresh()
	if err == nil {
		w.materials[name] = der
	}
	return der, err
}
