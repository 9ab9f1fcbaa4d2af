package agentflow

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// counts is what a run met; it ends as JSON.
type counts struct {
	mutex sync.Mutex
	last  time.Time
	kids  map[string]bool
	log   func(format string, args ...any)

	Handshakes       int   `json:"handshakes"`
	HandshakesFailed int   `json:"handshakes_failed"`
	Tokens           int   `json:"tokens"`
	TokensFailed     int   `json:"tokens_failed"`
	TokenKeys        int   `json:"token_keys"`
	Direct           int   `json:"direct"`
	Intermediate     int   `json:"intermediate"`
	Tainted          int   `json:"tainted"`
	Unanswered       int   `json:"unanswered"`
	LongestGapMs     int64 `json:"longest_gap_ms"`
}

func (c *counts) add(which *int) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	*which++
}

// note counts and tells a failure, unless the run is over.
func (c *counts) note(ctx context.Context, which *int, format string, args ...any) {
	if ctx.Err() != nil {
		return
	}
	c.add(which)
	c.log("%s "+format, append([]any{time.Now().Format(time.RFC3339Nano)}, args...)...)
}

// valid notes a token that was validated, by the key that signed it.
func (c *counts) valid(kid string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.Tokens++
	c.kids[kid] = true
	c.TokenKeys = len(c.kids)
}

// issued notes an SVID by the length of its chain.
func (c *counts) issued(certificates int) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if certificates == 1 {
		c.Direct++
	} else {
		c.Intermediate++
	}
	now := time.Now()
	if !c.last.IsZero() {
		c.LongestGapMs = max(c.LongestGapMs, now.Sub(c.last).Milliseconds())
	}
	c.last = now
}

// Rotation keeps two agents with a workload each, whose workloads shake hands and validate
// each other's tokens by go-spiffe until `end` ends. It prints the counts as its last line.
func Rotation(ctx context.Context, options Options, end io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, err := newFlow(options)
	if err != nil {
		return err
	}
	defer f.close()
	dir, err := os.MkdirTemp("", "interop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := &counts{log: options.Log, kids: map[string]bool{}}
	var group sync.WaitGroup
	var ends [2]*workloadapi.X509Source
	var tokens [2]*workloadapi.JWTSource
	for i, name := range []string{"one", "two"} {
		s, err := f.server(ctx, name, c)
		if err != nil {
			return err
		}
		socket := filepath.Join(dir, name+".sock")
		api, err := s.listen(socket)
		if err != nil {
			return err
		}
		defer api.Stop()
		group.Add(1)
		go func() { defer group.Done(); s.run(ctx) }()
		address := workloadapi.WithClientOptions(workloadapi.WithAddr("unix://" + socket))
		if ends[i], err = workloadapi.NewX509Source(ctx, address); err != nil {
			return err
		}
		defer ends[i].Close()
		if tokens[i], err = workloadapi.NewJWTSource(ctx, address); err != nil {
			return err
		}
		defer tokens[i].Close()
	}
	for i := range ends {
		group.Add(2)
		go func() { defer group.Done(); shake(ctx, c, f.trustDomain, ends[i], ends[1-i]) }()
		go func() { defer group.Done(); validate(ctx, c, tokens[i], tokens[1-i]) }()
	}
	_, err = io.Copy(io.Discard, end)
	cancel()
	group.Wait()
	text, marshalled := json.Marshal(c)
	options.Log("%s", text)
	return errors.Join(err, marshalled)
}

// server attests an agent and makes an entry for its workload.
func (f *flow) server(ctx context.Context, name string, c *counts) (*server, error) {
	a := &agent{
		trustDomain: f.trustDomain, roots: f.Target.Roots(),
		entries: map[string]*types.Entry{}, sentTo: map[string]int{},
	}
	for _, node := range f.Target.Nodes {
		a.addresses = append(a.addresses, node.API)
	}
	var err error
	if a.attestation, err = f.attestation(ctx, "join_token"); err != nil {
		return nil, err
	}
	if err := a.attest(ctx); err != nil {
		return nil, err
	}
	own, err := a.identity.Get()
	if err != nil {
		return nil, err
	}
	response, err := entryv1.NewEntryClient(f.admin()).BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{{
		ParentId: f.id(own.ID.Path()), SpiffeId: f.id("/workload/" + name),
		Selectors: []*types.Selector{{Type: "unix", Value: "uid:1000"}},
	}}})
	if err != nil {
		return nil, err
	}
	if len(response.GetResults()) != 1 || response.GetResults()[0].GetEntry() == nil {
		return nil, fmt.Errorf("no entry: %v", response)
	}
	s := &server{
		name: name, id: f.trustDomain.IDString() + "/workload/" + name, counts: c, log: f.Log,
		agent: a, entryID: response.GetResults()[0].GetEntry().GetId(), changed: make(chan struct{}),
	}
	// Another node may know the entry a moment later.
	for len(a.entries) == 0 {
		if err := s.try(ctx, a.sync); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// shake makes connection after connection from one workload to the other.
func shake(ctx context.Context, c *counts, trustDomain spiffeid.TrustDomain, from, to *workloadapi.X509Source) {
	members := tlsconfig.AuthorizeMemberOf(trustDomain)
	for ctx.Err() == nil {
		if err := once(ctx, tlsconfig.MTLSClientConfig(from, from, members), tlsconfig.MTLSServerConfig(to, to, members)); err != nil {
			c.note(ctx, &c.HandshakesFailed, "handshake: %v", err)
		} else {
			c.add(&c.Handshakes)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// once is one full handshake with data there and back.
func once(ctx context.Context, client, server *tls.Config) error {
	server.SessionTicketsDisabled = true
	near, far := net.Pipe()
	defer near.Close()
	limit := time.Now().Add(10 * time.Second)
	_, _ = near.SetDeadline(limit), far.SetDeadline(limit)
	answered := make(chan error, 1)
	go func() {
		defer far.Close()
		conn := tls.Server(far, server)
		data := make([]byte, 4)
		if _, err := io.ReadFull(conn, data); err != nil {
			answered <- fmt.Errorf("server: %w", err)
			return
		}
		_, err := conn.Write(data)
		answered <- err
	}()
	conn := tls.Client(near, client)
	err := conn.HandshakeContext(ctx)
	if err == nil {
		data := []byte("ping")
		if _, err = conn.Write(data); err == nil {
			if _, err = io.ReadFull(conn, data); err == nil && string(data) != "ping" {
				err = fmt.Errorf("came back as %q", data)
			}
		}
	}
	_ = near.Close()
	return errors.Join(err, <-answered)
}

// validate has tokens made for one workload and validated by the other.
func validate(ctx context.Context, c *counts, from, to *workloadapi.JWTSource) {
	for ctx.Err() == nil {
		token, err := from.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "other"})
		if err != nil {
			c.note(ctx, &c.Unanswered, "token: %v", err)
		} else if _, err := jwtsvid.ParseAndValidate(token.Marshal(), to, []string{"other"}); err != nil {
			c.note(ctx, &c.TokensFailed, "validation: %v", err)
		} else if kid, err := keyID(token.Marshal()); err != nil {
			c.note(ctx, &c.TokensFailed, "its key: %v", err)
		} else {
			c.valid(kid)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// keyID is the kid of a token's header.
func keyID(token string) (string, error) {
	header, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		return "", err
	}
	var parsed struct {
		KeyID string `json:"kid"`
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		return "", err
	}
	if parsed.KeyID == "" {
		return "", errors.New("no kid")
	}
	return parsed.KeyID, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
