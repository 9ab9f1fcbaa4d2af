package agentflow

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"interop/internal/caller"
)

const (
	// syncEvery is how often a stock agent fetches the bundle.
	syncEvery = 5 * time.Second
	// lookEvery is how often SVIDs are looked at.
	lookEvery = time.Second
	// callLimit bounds one attempt at one node.
	callLimit = 3 * time.Second
)

// server is an agent with one workload, which it serves by a Workload API.
type server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	name   string
	id     string
	counts *counts
	log    func(format string, args ...any)

	// busy is held while the agent is used.
	busy    sync.Mutex
	agent   *agent
	entryID string

	// state is what is served; changed is closed when another takes its place.
	state   sync.Mutex
	changed chan struct{}
	x509    *workload.X509SVIDResponse
	jwt     *workload.JWTBundlesResponse
	chain   []*x509.Certificate
	told    string
}

// try calls each node in turn until one answers: the connection goes round, and is made anew after an error.
func (s *server) try(ctx context.Context, what func(ctx context.Context) error) error {
	var err error
	for range len(s.agent.addresses) + 1 {
		limited, cancel := context.WithTimeout(ctx, callLimit)
		err = what(limited)
		cancel()
		if err == nil {
			return nil
		}
	}
	return err
}

// run keeps the bundle and the SVIDs fresh until the context ends.
func (s *server) run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	synced := time.Time{}
	for ctx.Err() == nil {
		s.busy.Lock()
		if time.Since(synced) >= syncEvery {
			if err := s.try(ctx, s.agent.sync); err != nil {
				s.counts.note(ctx, &s.counts.Unanswered, "%s: %v", s.name, err)
			} else {
				synced = time.Now()
			}
		}
		s.look(ctx)
		s.busy.Unlock()
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// look renews what is past half its life or was signed by a tainted authority.
func (s *server) look(ctx context.Context) {
	own, err := s.agent.identity.Get()
	if err == nil && s.due(own.Certificates) {
		if err := s.try(ctx, s.agent.renew); err != nil {
			s.counts.note(ctx, &s.counts.Unanswered, "%s: %v", s.name, err)
		}
	}
	if s.chain == nil || s.due(s.chain) {
		err := s.try(ctx, func(ctx context.Context) error {
			signed, err := s.agent.sign(ctx, []string{s.entryID})
			if err != nil {
				return err
			}
			return s.take(signed[0])
		})
		if err != nil {
			s.counts.note(ctx, &s.counts.Unanswered, "%s: %v", s.name, err)
		}
	}
	if err := s.publish(nil); err != nil {
		s.counts.note(ctx, &s.counts.Unanswered, "%s: %v", s.name, err)
	}
}

// due says whether a chain is past half its life or tainted.
func (s *server) due(chain []*x509.Certificate) bool {
	leaf := chain[0]
	if time.Now().After(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)) {
		return true
	}
	for i, authority := range s.agent.bundle.GetX509Authorities() {
		if authority.GetTainted() && chain[len(chain)-1].CheckSignatureFrom(s.agent.roots[i]) == nil {
			s.counts.add(&s.counts.Tainted)
			return true
		}
	}
	return false
}

func (s *server) take(signed signedSVID) error {
	svid, err := caller.SVID(signed.svid.GetCertChain(), signed.key)
	if err != nil {
		return err
	}
	chain, key, err := svid.MarshalRaw()
	if err != nil {
		return err
	}
	s.chain = svid.Certificates
	s.counts.issued(len(svid.Certificates))
	return s.publish(&workload.X509SVID{SpiffeId: s.id, X509Svid: chain, X509SvidKey: key})
}

// publish hands the SVID, where there is a new one, and the bundle to the workload.
func (s *server) publish(svid *workload.X509SVID) error {
	if svid == nil && s.x509 == nil {
		return nil
	}
	bundle, ids, err := x509Bundle(s.agent.bundle)
	if err != nil {
		return err
	}
	keys, err := jwtBundle(s.agent)
	if err != nil {
		return err
	}
	told := ids + string(keys)
	if svid == nil && told == s.told {
		return nil
	}
	s.state.Lock()
	defer s.state.Unlock()
	if svid == nil {
		before := s.x509.GetSvids()[0]
		svid = &workload.X509SVID{SpiffeId: s.id, X509Svid: before.GetX509Svid(), X509SvidKey: before.GetX509SvidKey()}
	}
	svid.Bundle = bundle
	s.x509 = &workload.X509SVIDResponse{Svids: []*workload.X509SVID{svid}}
	s.jwt = &workload.JWTBundlesResponse{Bundles: map[string][]byte{s.agent.trustDomain.IDString(): keys}}
	if told != s.told {
		s.log("bundle %s %s", s.name, ids)
	}
	s.told = told
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// x509Bundle is the roots as the Workload API has them, and their ids, a tainted one with a star.
func x509Bundle(bundle *types.Bundle) ([]byte, string, error) {
	var der []byte
	var ids []string
	for _, authority := range bundle.GetX509Authorities() {
		root, err := x509.ParseCertificate(authority.GetAsn1())
		if err != nil {
			return nil, "", err
		}
		id := hex.EncodeToString(root.SubjectKeyId)
		if authority.GetTainted() {
			id += "*"
		}
		der, ids = append(der, root.Raw...), append(ids, id)
	}
	return der, strings.Join(ids, ","), nil
}

func jwtBundle(a *agent) ([]byte, error) {
	bundle := jwtbundle.New(a.trustDomain)
	for _, authority := range a.bundle.GetJwtAuthorities() {
		key, err := x509.ParsePKIXPublicKey(authority.GetPublicKey())
		if err != nil {
			return nil, err
		}
		if err := bundle.AddJWTAuthority(authority.GetKeyId(), key); err != nil {
			return nil, err
		}
	}
	text, err := bundle.Marshal()
	if err != nil || !json.Valid(text) {
		return nil, fmt.Errorf("the JWT bundle: %w", err)
	}
	return text, nil
}

// listen serves the Workload API on a socket.
func (s *server) listen(path string) (*grpc.Server, error) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	api := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(api, s)
	go func() { _ = api.Serve(listener) }()
	return api, nil
}

// stream sends what is there now and each time that it changes.
func (s *server) stream(ctx context.Context, send func() error) error {
	for {
		s.state.Lock()
		changed, ready := s.changed, s.x509 != nil
		var err error
		if ready {
			err = send()
		}
		s.state.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// FetchX509SVID is of the Workload API.
func (s *server) FetchX509SVID(_ *workload.X509SVIDRequest, to workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	return s.stream(to.Context(), func() error { return to.Send(s.x509) })
}

// FetchJWTBundles is of the Workload API.
func (s *server) FetchJWTBundles(_ *workload.JWTBundlesRequest, to workload.SpiffeWorkloadAPI_FetchJWTBundlesServer) error {
	return s.stream(to.Context(), func() error { return to.Send(s.jwt) })
}

// FetchJWTSVID is of the Workload API.
func (s *server) FetchJWTSVID(ctx context.Context, request *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	var signed *types.JWTSVID
	err := s.try(ctx, func(ctx context.Context) (err error) {
		signed, err = s.agent.jwt(ctx, s.entryID, request.GetAudience()...)
		return err
	})
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: s.id, Svid: signed.GetToken()}}}, nil
}
