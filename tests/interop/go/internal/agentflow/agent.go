// Package agentflow does what a stock agent does with a server, in its order and
// with its options: attest, fetch the bundle, tell its version, sync, have SVIDs
// signed, renew or re-attest. It serves no workload; what it gets, it judges.
package agentflow

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sort"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"interop/internal/call"
	"interop/internal/caller"
)

// syncMask asks for what a stock agent wants to know of an entry.
var syncMask = &types.EntryMask{
	SpiffeId: true, Selectors: true, FederatesWith: true, Admin: true, Downstream: true, RevisionNumber: true,
	StoreSvid: true, Hint: true, AdditionalAttributes: true, CreatedAt: true,
}

// batchMax is the number of SVIDs that a stock agent asks for at once.
const batchMax = 500

// agent is one agent with its connection.
type agent struct {
	trustDomain spiffeid.TrustDomain
	addresses   []string
	attestation func(csr []byte) call.Script

	mutex    sync.Mutex
	roots    []*x509.Certificate
	bundle   *types.Bundle
	identity *caller.Identity
	conn     *grpc.ClientConn
	entries  map[string]*types.Entry
	// sentTo counts calls by the address that they went to.
	sentTo       map[string]int
	reattestable bool
}

func (a *agent) currentRoots() []*x509.Certificate {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return a.roots
}

// attest gets an SVID and, over the same unauthenticated connection, the bundle.
func (a *agent) attest(ctx context.Context) error {
	conn, err := call.Agent(call.Options{TrustDomain: a.trustDomain, Roots: a.currentRoots, Sent: a.sent}, a.addresses...)
	if err != nil {
		return err
	}
	defer conn.Close()
	key := caller.NewKey()
	csr, err := caller.CSR(key)
	if err != nil {
		return err
	}
	attested, err := caller.Attest(ctx, conn, key, a.attestation(csr))
	if err != nil {
		return fmt.Errorf("attesting: %w", err)
	}
	bundle, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return fmt.Errorf("fetching the bundle: %w", err)
	}
	if a.identity == nil {
		a.identity = caller.NewIdentity(attested.SVID)
	} else {
		a.identity.Replace(attested.SVID)
	}
	a.reattestable = attested.Reattestable
	a.release()
	return a.take(bundle)
}

func (a *agent) take(bundle *types.Bundle) error {
	var roots []*x509.Certificate
	for _, authority := range bundle.GetX509Authorities() {
		root, err := x509.ParseCertificate(authority.GetAsn1())
		if err != nil {
			return fmt.Errorf("bundle of %s: %w", bundle.GetTrustDomain(), err)
		}
		roots = append(roots, root)
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.roots, a.bundle = roots, bundle
	return nil
}

// connection is kept from call to call, and made anew after an error or a new SVID.
func (a *agent) connection() (*grpc.ClientConn, error) {
	if a.conn == nil {
		conn, err := call.Agent(call.Options{TrustDomain: a.trustDomain, Roots: a.currentRoots, SVID: a.identity.Get, Sent: a.sent}, a.addresses...)
		if err != nil {
			return nil, err
		}
		a.conn = conn
	}
	return a.conn, nil
}

func (a *agent) release() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}

// sent notes which node a call goes to.
func (a *agent) sent(address string) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.sentTo[address]++
}

func (a *agent) postStatus(ctx context.Context) error {
	conn, err := a.connection()
	if err != nil {
		return err
	}
	_, err = agentv1.NewAgentClient(conn).PostStatus(ctx, &agentv1.PostStatusRequest{AgentVersion: "1.16.0"})
	return a.after("telling the version", err)
}

// after releases the connection after an error, as a stock agent does.
func (a *agent) after(what string, err error) error {
	if err != nil {
		a.release()
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// sync brings the entries up to date and fetches the bundles.
func (a *agent) sync(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := a.connection()
	if err != nil {
		return err
	}
	if err := a.syncEntries(ctx, conn); err != nil {
		return a.after("syncing entries", err)
	}
	bundles := bundlev1.NewBundleClient(conn)
	bundle, err := bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return a.after("fetching the bundle", err)
	}
	domains := map[string]bool{}
	for _, entry := range a.entries {
		for _, domain := range entry.GetFederatesWith() {
			domains[domain] = true
		}
	}
	for domain := range domains {
		if _, err := bundles.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: domain}); err != nil {
			return a.after("fetching the bundle of "+domain, err)
		}
	}
	return a.take(bundle)
}

func (a *agent) syncEntries(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := entryv1.NewEntryClient(conn).SyncAuthorizedEntries(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{OutputMask: syncMask}); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(first.GetEntryRevisions()) == 0 {
		// Few enough: they all came at once.
		a.entries = map[string]*types.Entry{}
		for _, entry := range first.GetEntries() {
			a.entries[entry.GetId()] = entry
		}
		return nil
	}
	page := len(first.GetEntryRevisions())
	current, wanted := map[string]bool{}, []string{}
	for response := first; ; {
		for _, revision := range response.GetEntryRevisions() {
			current[revision.GetId()] = true
			known, have := a.entries[revision.GetId()]
			if !have || known.GetRevisionNumber() != revision.GetRevisionNumber() || known.GetCreatedAt() != revision.GetCreatedAt() {
				wanted = append(wanted, revision.GetId())
			}
		}
		if !response.GetMore() {
			break
		}
		if response, err = stream.Recv(); err != nil {
			return err
		}
		if len(response.GetEntries()) > 0 {
			return errors.New("entries among the revisions")
		}
	}
	sort.Strings(wanted)
	for len(wanted) > 0 {
		count := min(page, len(wanted))
		if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{Ids: wanted[:count]}); err != nil {
			return err
		}
		wanted = wanted[count:]
		for more := true; more; {
			response, err := stream.Recv()
			if err != nil {
				return err
			}
			if len(response.GetEntryRevisions()) > 0 {
				return errors.New("revisions among the entries")
			}
			for _, entry := range response.GetEntries() {
				a.entries[entry.GetId()] = entry
			}
			more = response.GetMore()
		}
	}
	for id := range a.entries {
		if !current[id] {
			delete(a.entries, id)
		}
	}
	return nil
}

// signedSVID is an SVID that the agent had signed.
type signedSVID struct {
	entryID string
	svid    *types.X509SVID
	key     *ecdsa.PrivateKey
}

// sign has an SVID signed for each of the entries.
func (a *agent) sign(ctx context.Context, entryIDs []string) ([]signedSVID, error) {
	conn, err := a.connection()
	if err != nil {
		return nil, err
	}
	var signed []signedSVID
	for len(entryIDs) > 0 {
		count := min(batchMax, len(entryIDs))
		var params []*svidv1.NewX509SVIDParams
		var keys []*ecdsa.PrivateKey
		for _, id := range entryIDs[:count] {
			key := caller.NewKey()
			entry := a.entries[id].GetSpiffeId()
			csr, err := caller.CSR(key, "spiffe://"+entry.GetTrustDomain()+entry.GetPath())
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
			params = append(params, &svidv1.NewX509SVIDParams{EntryId: id, Csr: csr})
		}
		response, err := svidv1.NewSVIDClient(conn).BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: params})
		if err != nil {
			return nil, a.after("having SVIDs signed", err)
		}
		if len(response.GetResults()) != count {
			return nil, fmt.Errorf("%d SVIDs for %d entries", len(response.GetResults()), count)
		}
		for i, result := range response.GetResults() {
			// A stock agent looks into the status without asking whether there is one.
			if result.Status == nil || result.GetStatus().GetCode() != int32(codes.OK) || result.Svid == nil {
				return nil, fmt.Errorf("no SVID for entry %s: %v", entryIDs[i], result.GetStatus())
			}
			signed = append(signed, signedSVID{entryID: entryIDs[i], svid: result.GetSvid(), key: keys[i]})
		}
		entryIDs = entryIDs[count:]
	}
	return signed, nil
}

// jwt has a JWT-SVID signed and checks what a stock agent checks.
func (a *agent) jwt(ctx context.Context, entryID string, audience ...string) (*types.JWTSVID, error) {
	conn, err := a.connection()
	if err != nil {
		return nil, err
	}
	response, err := svidv1.NewSVIDClient(conn).NewJWTSVID(ctx, &svidv1.NewJWTSVIDRequest{EntryId: entryID, Audience: audience})
	if err != nil {
		return nil, a.after("having a JWT-SVID signed", err)
	}
	svid := response.GetSvid()
	if svid == nil || svid.GetIssuedAt() == 0 || svid.GetExpiresAt() == 0 || svid.GetIssuedAt() > svid.GetExpiresAt() {
		return nil, fmt.Errorf("a stock agent would refuse this JWT-SVID: %v", svid)
	}
	return svid, nil
}

// renew asks for another SVID over the present one's connection.
func (a *agent) renew(ctx context.Context) error {
	conn, err := a.connection()
	if err != nil {
		return err
	}
	key := caller.NewKey()
	csr, err := caller.CSR(key)
	if err != nil {
		return err
	}
	response, err := agentv1.NewAgentClient(conn).RenewAgent(ctx, &agentv1.RenewAgentRequest{Params: &agentv1.AgentX509SVIDParams{Csr: csr}})
	if err != nil {
		return a.after("renewing", err)
	}
	svid, err := caller.SVID(response.GetSvid().GetCertChain(), key)
	if err != nil {
		return err
	}
	a.identity.Replace(svid)
	a.release()
	return nil
}
