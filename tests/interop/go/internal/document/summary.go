// Package document looks at what a server issues: it sums documents up so that two
// servers' can be set side by side, and judges them by rules that are not
// Chancery's: go-spiffe's, crypto/x509's and openssl's.
package document

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // what SPIRE derives key identifiers with
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"sort"
	"strings"
	"time"
)

var keyUsages = []struct {
	bit  x509.KeyUsage
	name string
}{
	{x509.KeyUsageDigitalSignature, "digitalSignature"},
	{x509.KeyUsageContentCommitment, "contentCommitment"},
	{x509.KeyUsageKeyEncipherment, "keyEncipherment"},
	{x509.KeyUsageDataEncipherment, "dataEncipherment"},
	{x509.KeyUsageKeyAgreement, "keyAgreement"},
	{x509.KeyUsageCertSign, "certSign"},
	{x509.KeyUsageCRLSign, "cRLSign"},
	{x509.KeyUsageEncipherOnly, "encipherOnly"},
	{x509.KeyUsageDecipherOnly, "decipherOnly"},
}

var extKeyUsages = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageServerAuth: "serverAuth",
	x509.ExtKeyUsageClientAuth: "clientAuth",
	x509.ExtKeyUsageAny:        "any",
}

// A subject's serial number attribute is the certificate's own in SPIRE's CAs.
var decimal = regexp.MustCompile(`SERIALNUMBER=[0-9]+`)

func name(of pkix.Name) string {
	var sequence pkix.RDNSequence
	for _, attribute := range of.Names {
		sequence = append(sequence, pkix.RelativeDistinguishedNameSET{attribute})
	}
	return decimal.ReplaceAllString(sequence.String(), "SERIALNUMBER=<decimal>")
}

// Key names the kind of a public key.
func Key(public any) string {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return "EC " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	default:
		return fmt.Sprintf("%T", public)
	}
}

// PublicKey sums up a PKIX public key.
func PublicKey(der []byte) any {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return fmt.Sprintf("%d bytes that are no public key", len(der))
	}
	return "<" + Key(key) + ">"
}

// Certificates sums up every certificate of a DER text.
func Certificates(der []byte) any {
	certificates, err := x509.ParseCertificates(der)
	if err != nil {
		return fmt.Sprintf("%d bytes that are no certificate", len(der))
	}
	var all []any
	for _, certificate := range certificates {
		all = append(all, Certificate(certificate))
	}
	if len(all) == 1 {
		return all[0]
	}
	return all
}

// Certificate sums up everything of a certificate that does not change from one
// issuance to the next.
func Certificate(c *x509.Certificate) map[string]any {
	var usages, extUsages, extensions, uris []string
	for _, usage := range keyUsages {
		if c.KeyUsage&usage.bit != 0 {
			usages = append(usages, usage.name)
		}
	}
	for _, usage := range c.ExtKeyUsage {
		text, known := extKeyUsages[usage]
		if !known {
			text = fmt.Sprint(usage)
		}
		extUsages = append(extUsages, text)
	}
	for _, extension := range c.Extensions {
		text := extension.Id.String()
		if extension.Critical {
			text += " critical"
		}
		extensions = append(extensions, text)
	}
	// Their order means nothing.
	sort.Strings(extensions)
	for _, uri := range c.URIs {
		uris = append(uris, uri.String())
	}
	serial := "positive, at most 128 bits"
	if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 128 {
		serial = "out of bounds: " + c.SerialNumber.String()
	}
	return map[string]any{
		"subject":        name(c.Subject),
		"issuer":         name(c.Issuer),
		"uris":           uris,
		"dns":            c.DNSNames,
		"ca":             c.IsCA,
		"path_length":    c.MaxPathLen,
		"key_usage":      usages,
		"ext_key_usage":  extUsages,
		"extensions":     extensions,
		"key":            Key(c.PublicKey),
		"signature":      c.SignatureAlgorithm.String(),
		"lifetime":       Lifetime(c.NotAfter.Sub(c.NotBefore)),
		"serial":         serial,
		"subject_key_id": keyID(c.SubjectKeyId, c),
		"authority_key_id": func() string {
			if len(c.AuthorityKeyId) == 0 {
				return "none"
			}
			return fmt.Sprintf("%d bytes", len(c.AuthorityKeyId))
		}(),
	}
}

// Lifetime tells how long something lives: exactly where somebody asked for it, in
// hours where it ends with its authority.
func Lifetime(of time.Duration) string {
	if of > 2*time.Hour {
		return fmt.Sprintf("about %.0f hours", of.Hours())
	}
	return of.String()
}

func keyID(id []byte, c *x509.Certificate) string {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info); err == nil {
		sum := sha1.Sum(info.Key.Bytes)
		if bytes.Equal(sum[:], id) {
			return "SHA-1 of the key"
		}
	}
	return fmt.Sprintf("%d other bytes", len(id))
}

// Token is a compact JWS, taken apart without a look at its signature.
type Token struct {
	Header map[string]any
	Claims map[string]any
}

// ParseToken takes a compact JWS apart.
func ParseToken(text string) (*Token, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, errors.New("not three parts")
	}
	token := new(Token)
	for i, into := range []*map[string]any{&token.Header, &token.Claims} {
		part, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(part, into); err != nil {
			return nil, err
		}
	}
	return token, nil
}

// JWT sums a token up; times are told relative to `now`.
func JWT(text string, now time.Time) any {
	token, err := ParseToken(text)
	if err != nil {
		return "no token: " + err.Error()
	}
	if kid, ok := token.Header["kid"].(string); ok {
		token.Header["kid"] = fmt.Sprintf("<%d characters>", len(kid))
	}
	if issued, ok := token.Claims["iat"].(float64); ok {
		if expires, ok := token.Claims["exp"].(float64); ok {
			token.Claims["exp"] = "iat+" + Lifetime(time.Duration(expires-issued)*time.Second)
		}
		token.Claims["iat"] = Near(int64(issued), now)
	}
	if jti, ok := token.Claims["jti"].(string); ok {
		token.Claims["jti"] = fmt.Sprintf("<%d characters>", len(jti))
	}
	if cnf, ok := token.Claims["cnf"].(map[string]any); ok {
		if jwk, ok := cnf["jwk"].(map[string]any); ok {
			for _, member := range []string{"x", "y", "n"} {
				if value, ok := jwk[member].(string); ok {
					jwk[member] = fmt.Sprintf("<%d characters>", len(value))
				}
			}
		}
	}
	return map[string]any{"header": token.Header, "claims": token.Claims}
}

// Near tells a Unix time relative to now, by steps of ten seconds: a call may take
// a while. What ends with an authority is told in hours: it is older than the call.
func Near(seconds int64, now time.Time) string {
	delta := seconds - now.Unix()
	if delta > 2*3600 || delta < -2*3600 {
		return fmt.Sprintf("<now, and about %d hours>", int64(math.Round(float64(delta)/3600)))
	}
	const step = 10
	steps := (delta + step/2) / step
	if delta+step/2 < 0 && (delta+step/2)%step != 0 {
		steps--
	}
	switch {
	case steps == 0:
		return "<now>"
	case steps > 0:
		return fmt.Sprintf("<now+%ds>", steps*step)
	default:
		return fmt.Sprintf("<now-%ds>", -steps*step)
	}
}
