// Package target says what is under test: the nodes of one trust domain and how
// they are reached.
package target

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// Target is what `deploy/local/up` writes as cluster.json; a stock server is
// described by a file of the same shape with one node.
type Target struct {
	TrustDomain string `json:"trust_domain"`
	// Bundle is a PEM file with the roots to start from.
	Bundle string `json:"bundle"`
	Nodes  []Node `json:"nodes"`

	roots []*x509.Certificate
}

// Node is one server.
type Node struct {
	ID          string `json:"id"`
	API         string `json:"api"`
	AdminSocket string `json:"admin_socket"`
}

// Load reads the description and the roots.
func Load(path string) (*Target, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	target := new(Target)
	if err := json.Unmarshal(text, target); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(target.Nodes) == 0 || target.TrustDomain == "" {
		return nil, fmt.Errorf("%s names no node or no trust domain", path)
	}
	bundle, err := os.ReadFile(target.Bundle)
	if err != nil {
		return nil, err
	}
	target.roots, err = Certificates(bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target.Bundle, err)
	}
	return target, nil
}

// Roots are the X.509 authorities to start from.
func (t *Target) Roots() []*x509.Certificate { return t.roots }

// Certificates reads every certificate of a PEM text; none is an error.
func Certificates(text []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) == 0 {
		return nil, errors.New("no certificate")
	}
	return certificates, nil
}
