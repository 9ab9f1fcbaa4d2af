// Package caller makes the kinds of callers that a server knows: agents by join
// token and by x509pop, and whoever holds an SVID that an agent fetched.
package caller

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Identity is an SVID that can be replaced while connections use it.
type Identity struct {
	mutex sync.RWMutex
	svid  *x509svid.SVID
}

// NewIdentity wraps an SVID.
func NewIdentity(svid *x509svid.SVID) *Identity { return &Identity{svid: svid} }

// Get is the present SVID.
func (i *Identity) Get() (*x509svid.SVID, error) {
	i.mutex.RLock()
	defer i.mutex.RUnlock()
	if i.svid == nil {
		return nil, errors.New("no SVID yet")
	}
	return i.svid, nil
}

// Replace takes another SVID for new connections.
func (i *Identity) Replace(svid *x509svid.SVID) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	i.svid = svid
}

// NewKey makes a key of the kind that stock agents have.
func NewKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // the system's generator is broken
	}
	return key
}

// CSR makes a request with the stock agent's subject and, where ids are given, their
// URIs.
func CSR(key crypto.Signer, ids ...string) ([]byte, error) {
	template := &x509.CertificateRequest{
		Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
	}
	for _, id := range ids {
		uri, err := url.Parse(id)
		if err != nil {
			return nil, err
		}
		template.URIs = append(template.URIs, uri)
	}
	return x509.CreateCertificateRequest(rand.Reader, template, key)
}

// SVID puts a chain as servers send it and its key together and holds it to the
// rules of go-spiffe.
func SVID(chain [][]byte, key crypto.Signer) (*x509svid.SVID, error) {
	var der []byte
	for _, certificate := range chain {
		der = append(der, certificate...)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	svid, err := x509svid.ParseRaw(der, pkcs8)
	if err != nil {
		return nil, fmt.Errorf("go-spiffe does not take the SVID: %w", err)
	}
	return svid, nil
}
