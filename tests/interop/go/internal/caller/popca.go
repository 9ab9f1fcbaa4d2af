package caller

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// PopCA signs the certificates that x509pop agents have from elsewhere.
type PopCA struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// NewPopCA makes one.
func NewPopCA(commonName string) (*PopCA, error) {
	key := NewKey()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &PopCA{Certificate: certificate, key: key}, nil
}

// Write puts certificate and key into a folder, as ca.pem and ca-key.pem.
func (ca *PopCA) Write(dir string) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), certificate, 0o644); err != nil { //nolint:gosec // public
		return err
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return os.WriteFile(filepath.Join(dir, "ca-key.pem"), key, 0o600)
}

// ReadPopCA reads what Write wrote.
func ReadPopCA(dir string) (*PopCA, error) {
	var der [2][]byte
	for i, name := range []string{"ca.pem", "ca-key.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("%s is not PEM", name)
		}
		der[i] = block.Bytes
	}
	certificate, err := x509.ParseCertificate(der[0])
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der[1])
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T does not sign", key)
	}
	return &PopCA{Certificate: certificate, key: signer}, nil
}

// PopOptions say what kind of certificate an agent gets.
type PopOptions struct {
	CommonName string
	// Curve of its key; nil and no RSABits: P-256.
	Curve elliptic.Curve
	// RSABits makes it an RSA key.
	RSABits int
	// Usage is digitalSignature unless it is set.
	Usage x509.KeyUsage
	// Expired ends it a minute ago.
	Expired bool
	// URIs and IPs are its alternative names.
	URIs []string
	IPs  []net.IP
	// Intermediates is the length of the chain between leaf and CA.
	Intermediates int
}

// Issue makes a chain, leaf first and without the CA, and the leaf's key.
func (ca *PopCA) Issue(options PopOptions) ([][]byte, crypto.Signer, error) {
	issuer, issuerKey := ca.Certificate, ca.key
	var chain [][]byte
	for i := 0; i < options.Intermediates; i++ {
		key := NewKey()
		template := &x509.Certificate{
			SerialNumber:          big.NewInt(int64(i) + 2),
			Subject:               pkix.Name{CommonName: fmt.Sprintf("intermediate %d", i+1)},
			NotBefore:             time.Now().Add(-time.Minute),
			NotAfter:              time.Now().Add(12 * time.Hour),
			IsCA:                  true,
			BasicConstraintsValid: true,
			KeyUsage:              x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
		if err != nil {
			return nil, nil, err
		}
		if issuer, err = x509.ParseCertificate(der); err != nil {
			return nil, nil, err
		}
		issuerKey = key
		chain = append([][]byte{der}, chain...)
	}
	key, err := popKey(options)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: options.CommonName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		IPAddresses:  options.IPs,
	}
	if options.Usage != 0 {
		template.KeyUsage = options.Usage
	}
	if options.Expired {
		template.NotAfter = time.Now().Add(-time.Minute)
	}
	for _, text := range options.URIs {
		uri, err := url.Parse(text)
		if err != nil {
			return nil, nil, err
		}
		template.URIs = append(template.URIs, uri)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		return nil, nil, err
	}
	return append([][]byte{der}, chain...), key, nil
}

func popKey(options PopOptions) (crypto.Signer, error) {
	if options.RSABits != 0 {
		return rsa.GenerateKey(rand.Reader, options.RSABits)
	}
	curve := options.Curve
	if curve == nil {
		curve = elliptic.P256()
	}
	return ecdsa.GenerateKey(curve, rand.Reader)
}
