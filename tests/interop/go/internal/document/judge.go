package document

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// Judge holds documents to go-spiffe, crypto/x509 and the openssl command line, all
// by the bundle that the server gave out.
type Judge struct {
	TrustDomain spiffeid.TrustDomain

	bundle *types.Bundle
	roots  []*x509.Certificate
	keys   map[string]*types.JWTKey
	dir    string
	// Judged counts documents by kind.
	Judged map[string]int
}

// NewJudge takes the bundle; `dir` is for the files that openssl reads.
func NewJudge(trustDomain spiffeid.TrustDomain, bundle *types.Bundle, dir string) (*Judge, error) {
	j := &Judge{TrustDomain: trustDomain, bundle: bundle, keys: map[string]*types.JWTKey{}, dir: dir, Judged: map[string]int{}}
	var text []byte
	for _, authority := range bundle.GetX509Authorities() {
		// Exactly one in each: a stock agent drops the bundle otherwise.
		root, err := x509.ParseCertificate(authority.GetAsn1())
		if err != nil {
			return nil, fmt.Errorf("an X.509 authority of the bundle: %w", err)
		}
		j.roots = append(j.roots, root)
		text = append(text, pemOf("CERTIFICATE", root.Raw)...)
	}
	if len(j.roots) == 0 || len(bundle.GetJwtAuthorities()) == 0 {
		return nil, errors.New("the bundle has no X.509 or no JWT authority")
	}
	for _, key := range bundle.GetJwtAuthorities() {
		if key.GetKeyId() == "" {
			return nil, errors.New("a JWT authority of the bundle has no key id")
		}
		if _, err := x509.ParsePKIXPublicKey(key.GetPublicKey()); err != nil {
			return nil, fmt.Errorf("JWT authority %s: %w", key.GetKeyId(), err)
		}
		j.keys[key.GetKeyId()] = key
	}
	for _, root := range j.roots {
		if err := rootRules(root, trustDomain); err != nil {
			return nil, fmt.Errorf("root %s: %w", root.Subject, err)
		}
	}
	return j, os.WriteFile(filepath.Join(dir, "roots.pem"), text, 0o600)
}

func rootRules(root *x509.Certificate, trustDomain spiffeid.TrustDomain) error {
	switch {
	case !root.IsCA || !root.BasicConstraintsValid:
		return errors.New("is no CA")
	case root.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("may not sign certificates")
	case len(root.URIs) != 1 || root.URIs[0].String() != trustDomain.IDString():
		return fmt.Errorf("has URIs %v", root.URIs)
	}
	return root.CheckSignatureFrom(root)
}

// X509 judges an X.509-SVID, leaf first: its ID, its DNS names in order, its chain.
func (j *Judge) X509(kind string, chain []*x509.Certificate, id string, dns ...string) error {
	leaf := chain[0]
	got, _, err := x509svid.Verify(chain, x509bundle.FromX509Authorities(j.TrustDomain, j.roots))
	if err != nil {
		return fmt.Errorf("%s: go-spiffe: %w", kind, err)
	}
	if got.String() != id {
		return fmt.Errorf("%s is for %s, not %s", kind, got, id)
	}
	if strings.Join(leaf.DNSNames, " ") != strings.Join(dns, " ") {
		return fmt.Errorf("%s has the DNS names %q, not %q", kind, leaf.DNSNames, dns)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range j.roots {
		pool.AddCert(root)
	}
	for _, certificate := range chain[1:] {
		between.AddCert(certificate)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		options := x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := leaf.Verify(options); err != nil {
			return fmt.Errorf("%s: crypto/x509: %w", kind, err)
		}
	}
	if err := leafRules(leaf); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	for _, purpose := range []string{"sslclient", "sslserver"} {
		if err := j.openssl(purpose, chain); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	altered, err := x509.ParseCertificate(alter(leaf.Raw))
	if err != nil {
		return fmt.Errorf("%s: an altered signature is no certificate: %w", kind, err)
	}
	if j.openssl("sslclient", append([]*x509.Certificate{altered}, chain[1:]...)) == nil {
		return fmt.Errorf("%s: openssl takes it with an altered signature too: does it judge at all?", kind)
	}
	j.Judged[kind]++
	return nil
}

// alter changes the last byte, which belongs to the signature.
func alter(der []byte) []byte {
	altered := bytes.Clone(der)
	altered[len(altered)-1] ^= 1
	return altered
}

func leafRules(leaf *x509.Certificate) error {
	required := x509.KeyUsageDigitalSignature
	forbidden := x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	switch {
	case leaf.IsCA || !leaf.BasicConstraintsValid:
		return errors.New("the leaf is a CA, or does not say that it is none")
	case leaf.KeyUsage&required == 0 || leaf.KeyUsage&forbidden != 0:
		return fmt.Errorf("the leaf's key usage is %b", leaf.KeyUsage)
	case leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 159:
		return fmt.Errorf("the serial number is %s", leaf.SerialNumber)
	case leaf.NotBefore.After(time.Now()):
		return fmt.Errorf("not valid before %s", leaf.NotBefore)
	}
	for _, extension := range leaf.Extensions {
		if extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}) && !extension.Critical {
			return errors.New("the key usage is not critical")
		}
	}
	return nil
}

func (j *Judge) openssl(purpose string, chain []*x509.Certificate) error {
	leaf, between := filepath.Join(j.dir, "leaf.pem"), filepath.Join(j.dir, "between.pem")
	if err := os.WriteFile(leaf, pemOf("CERTIFICATE", chain[0].Raw), 0o600); err != nil {
		return err
	}
	args := []string{"verify", "-x509_strict", "-purpose", purpose, "-CAfile", filepath.Join(j.dir, "roots.pem")}
	if len(chain) > 1 {
		var text []byte
		for _, certificate := range chain[1:] {
			text = append(text, pemOf("CERTIFICATE", certificate.Raw)...)
		}
		if err := os.WriteFile(between, text, 0o600); err != nil {
			return err
		}
		args = append(args, "-untrusted", between)
	}
	output, err := exec.Command("openssl", append(args, leaf)...).CombinedOutput()
	if err != nil || !strings.Contains(string(output), ": OK") {
		return fmt.Errorf("openssl verify for %s: %s", purpose, strings.TrimSpace(string(output)))
	}
	return nil
}

// CA judges the chain of a downstream authority by what it signs: a leaf of it must
// verify up to the roots, and it must be for the trust domain.
func (j *Judge) CA(chain []*x509.Certificate, key *ecdsa.PrivateKey, leaf func(issuer *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, string, error)) error {
	const kind = "downstream CA"
	ca := chain[0]
	switch {
	case !ca.IsCA || ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New(kind + " may not sign certificates")
	case len(ca.URIs) != 1 || ca.URIs[0].String() != j.TrustDomain.IDString():
		return fmt.Errorf("%s has URIs %v", kind, ca.URIs)
	case !reflect.DeepEqual(ca.PublicKey, key.Public()):
		return errors.New(kind + " is for another key")
	}
	issued, id, err := leaf(ca, key)
	if err != nil {
		return err
	}
	if err := j.X509("SVID below a downstream CA", append([]*x509.Certificate{issued}, chain...), id); err != nil {
		return err
	}
	j.Judged[kind]++
	return nil
}

// JWT judges a JWT-SVID: by go-spiffe, and its signature by openssl.
func (j *Judge) JWT(kind, token, id string, audience ...string) error {
	authorities := jwtbundle.New(j.TrustDomain)
	for kid, key := range j.keys {
		public, err := x509.ParsePKIXPublicKey(key.GetPublicKey())
		if err != nil {
			return err
		}
		if err := authorities.AddJWTAuthority(kid, public); err != nil {
			return err
		}
	}
	for _, one := range audience {
		svid, err := jwtsvid.ParseAndValidate(token, authorities, []string{one})
		if err != nil {
			return fmt.Errorf("%s: go-spiffe: %w", kind, err)
		}
		if svid.ID.String() != id {
			return fmt.Errorf("%s is for %s, not %s", kind, svid.ID, id)
		}
	}
	if _, err := jwtsvid.ParseAndValidate(token, authorities, []string{"somebody else"}); err == nil {
		return fmt.Errorf("%s: go-spiffe takes it for an audience that nobody asked for", kind)
	}
	if err := j.opensslJWT(token); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	j.Judged[kind]++
	return nil
}

// opensslJWT verifies an ECDSA signature with nothing of a JWT library: the two
// numbers are put into DER, as openssl wants them.
func (j *Judge) opensslJWT(text string) error {
	token, err := ParseToken(text)
	if err != nil {
		return err
	}
	kid, _ := token.Header["kid"].(string)
	key, known := j.keys[kid]
	if !known {
		return fmt.Errorf("key %q is not in the bundle", kid)
	}
	dot := strings.LastIndexByte(text, '.')
	raw, err := base64.RawURLEncoding.DecodeString(text[dot+1:])
	if err != nil {
		return err
	}
	hash, size := "-sha256", 32
	if token.Header["alg"] == "ES384" {
		hash, size = "-sha384", 48
	} else if token.Header["alg"] != "ES256" {
		return fmt.Errorf("alg %v is not judged here", token.Header["alg"])
	}
	if len(raw) != 2*size {
		return fmt.Errorf("the signature has %d bytes", len(raw))
	}
	signature, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])})
	if err != nil {
		return err
	}
	files := map[string][]byte{"key.pem": pemOf("PUBLIC KEY", key.GetPublicKey()), "signature": signature, "signed": []byte(text[:dot])}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(j.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	command := exec.Command("openssl", "dgst", hash, "-verify", "key.pem", "-signature", "signature", "signed")
	command.Dir = j.dir
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("openssl dgst: %s", strings.TrimSpace(string(output)))
	}
	// The same by hand, so that two programs agree.
	public, err := x509.ParsePKIXPublicKey(key.GetPublicKey())
	if err != nil {
		return err
	}
	ec, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("key %q is a %T", kid, public)
	}
	digest := sha256.Sum256([]byte(text[:dot]))
	sum := digest[:]
	if size == 48 {
		long := sha512.Sum384([]byte(text[:dot]))
		sum = long[:]
	}
	if !ecdsa.VerifyASN1(ec, sum, signature) {
		return errors.New("crypto/ecdsa does not take the signature that openssl takes")
	}
	return nil
}

// Server judges the SVID that a node shows on its agent port.
func (j *Judge) Server(address string) error {
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // judged below
	if err != nil {
		return err
	}
	defer conn.Close()
	return j.X509("server SVID", conn.ConnectionState().PeerCertificates, j.TrustDomain.IDString()+"/spire/server")
}

// JSON judges a bundle document in SPIFFE's JSON form: go-spiffe must read the same
// authorities out of it as the API gives.
func (j *Judge) JSON(document []byte) error {
	bundle, err := spiffebundle.Parse(j.TrustDomain, document)
	if err != nil {
		return fmt.Errorf("bundle in JSON: go-spiffe: %w", err)
	}
	if len(bundle.X509Authorities()) != len(j.roots) || len(bundle.JWTAuthorities()) != len(j.keys) {
		return fmt.Errorf("bundle in JSON: %d roots and %d keys, the API has %d and %d",
			len(bundle.X509Authorities()), len(bundle.JWTAuthorities()), len(j.roots), len(j.keys))
	}
	for i, root := range bundle.X509Authorities() {
		if !root.Equal(j.roots[i]) {
			return fmt.Errorf("bundle in JSON: root %d differs", i)
		}
	}
	for kid, key := range j.keys {
		public, err := x509.ParsePKIXPublicKey(key.GetPublicKey())
		if err != nil {
			return err
		}
		if other, found := bundle.JWTAuthorities()[kid]; !found || !reflect.DeepEqual(public, other) {
			return fmt.Errorf("bundle in JSON: key %s is not there or differs", kid)
		}
	}
	if sequence, ok := bundle.SequenceNumber(); ok && sequence != j.bundle.GetSequenceNumber() {
		return fmt.Errorf("bundle in JSON: sequence number %d, the API has %d", sequence, j.bundle.GetSequenceNumber())
	}
	j.Judged["bundle in JSON"]++
	return nil
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Chain parses a chain as servers send it.
func Chain(ders [][]byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for _, der := range ders {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 {
		return nil, errors.New("an empty chain")
	}
	return chain, nil
}
