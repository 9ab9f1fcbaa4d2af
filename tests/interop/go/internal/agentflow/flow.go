package agentflow

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"sort"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"interop/internal/call"
	"interop/internal/caller"
	"interop/internal/document"
	"interop/internal/target"
)

// Options of a run.
type Options struct {
	Target *target.Target
	PopCA  *caller.PopCA
	// Entries below each agent; above 500 the sync goes by pages.
	Entries int
	// Rounds of sync, signing and renewal.
	Rounds int
	// Command prints bundles in JSON, with `bundle show -format spiffe`; empty: not judged.
	Command string
	// MissingOK takes `Unimplemented` for an answer.
	MissingOK bool
	// Settle is how long the server's caches may take to know what was written.
	Settle time.Duration
	// Log is told what was done.
	Log func(format string, args ...any)
}

// flow is a run under way.
type flow struct {
	Options
	trustDomain spiffeid.TrustDomain
	local       []*grpc.ClientConn
	turn        int
	judge       *document.Judge
	missing     map[string]bool
}

// newFlow connects to the admin sockets of all nodes.
func newFlow(options Options) (*flow, error) {
	trustDomain, err := spiffeid.TrustDomainFromString(options.Target.TrustDomain)
	if err != nil {
		return nil, err
	}
	f := &flow{Options: options, trustDomain: trustDomain, missing: map[string]bool{}}
	for _, node := range options.Target.Nodes {
		conn, err := call.Socket(node.AdminSocket)
		if err != nil {
			f.close()
			return nil, err
		}
		f.local = append(f.local, conn)
	}
	return f, nil
}

func (f *flow) close() {
	for _, conn := range f.local {
		conn.Close()
	}
}

// Run drives the agent protocol and judges every document.
func Run(ctx context.Context, options Options) error {
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
	kinds := []string{"join_token"}
	if options.PopCA != nil {
		kinds = append(kinds, "x509pop")
	}
	for _, kind := range kinds {
		if err := f.agent(ctx, kind, dir); err != nil {
			return fmt.Errorf("agent by %s: %w", kind, err)
		}
	}
	if err := f.minted(ctx); err != nil {
		return err
	}
	for _, node := range options.Target.Nodes {
		if err := f.judge.Server(node.API); err != nil {
			return fmt.Errorf("node %s: %w", node.ID, err)
		}
		if err := f.json(node); err != nil {
			return fmt.Errorf("node %s: %w", node.ID, err)
		}
	}
	return f.report()
}

// report ends a run: what was judged, and what could not be.
func (f *flow) report() error {
	kinds := make([]string, 0, len(f.judge.Judged))
	for kind, count := range f.judge.Judged {
		kinds = append(kinds, fmt.Sprintf("%d × %s", count, kind))
	}
	sort.Strings(kinds)
	f.Log("judged by go-spiffe, crypto/x509 and openssl: %s", strings.Join(kinds, ", "))
	for what := range f.missing {
		f.Log("not there: %s", what)
	}
	if len(f.missing) > 0 && !f.MissingOK {
		return errors.New("methods are missing")
	}
	return nil
}

// admin is the next node's admin socket.
func (f *flow) admin() *grpc.ClientConn {
	f.turn++
	return f.local[f.turn%len(f.local)]
}

func (f *flow) id(path string) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: f.trustDomain.Name(), Path: path}
}

// absent notes a method that is not there.
func (f *flow) absent(err error, what string) bool {
	if status.Code(err) == codes.Unimplemented {
		f.missing[what] = true
		return true
	}
	return false
}

func (f *flow) agent(ctx context.Context, kind, dir string) error {
	var addresses []string
	for _, node := range f.Target.Nodes {
		addresses = append(addresses, node.API)
	}
	a := &agent{
		trustDomain: f.trustDomain, addresses: addresses, roots: f.Target.Roots(),
		entries: map[string]*types.Entry{}, sentTo: map[string]int{},
	}
	var err error
	if a.attestation, err = f.attestation(ctx, kind); err != nil {
		return err
	}
	if err := a.attest(ctx); err != nil {
		if f.MissingOK && kind != "join_token" && status.Code(err) == codes.FailedPrecondition {
			f.missing["attestation by "+kind] = true
			return nil
		}
		return err
	}
	defer a.release()
	if f.judge == nil {
		if f.judge, err = document.NewJudge(f.trustDomain, a.bundle, dir); err != nil {
			return err
		}
	}
	own, err := a.identity.Get()
	if err != nil {
		return err
	}
	id := own.ID
	if !strings.HasPrefix(id.Path(), "/spire/agent/"+kind+"/") {
		return fmt.Errorf("the agent's ID is %s", id)
	}
	if want := kind != "join_token"; a.reattestable != want {
		return fmt.Errorf("re-attestable: %v", a.reattestable)
	}
	if err := a.postStatus(ctx); err != nil {
		return err
	}
	ids, err := f.entries(ctx, id.Path(), kind)
	if err != nil {
		return err
	}
	time.Sleep(f.Settle)
	for round := 0; round < f.Rounds; round++ {
		if err := f.round(ctx, a, kind, ids, round); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
		if err := f.renew(ctx, a, id); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	if kind == "join_token" {
		if err := f.downstream(ctx, a, id.Path()); err != nil {
			return err
		}
	}
	for _, address := range addresses {
		if a.sentTo[address] == 0 {
			return fmt.Errorf("no call went to %s: %v", address, a.sentTo)
		}
	}
	f.Log("agent by %s: %d entries, %d rounds, calls by node: %v", kind, len(ids), f.Rounds, a.sentTo)
	return f.ban(ctx, a, id, kind)
}

func (f *flow) attestation(ctx context.Context, kind string) (func(csr []byte) call.Script, error) {
	if kind == "x509pop" {
		chain, key, err := f.PopCA.Issue(caller.PopOptions{CommonName: "interop", Intermediates: 1})
		if err != nil {
			return nil, err
		}
		return func(csr []byte) call.Script { return caller.X509Pop(chain, key, csr) }, nil
	}
	token, err := agentv1.NewAgentClient(f.admin()).CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 600})
	if err != nil {
		return nil, err
	}
	return func(csr []byte) call.Script { return caller.JoinToken(token.GetValue(), csr) }, nil
}

// names of an entry's workload, in an order that is not the alphabet's.
func names(number int) []string {
	return []string{fmt.Sprintf("web-%d.example.org", number), fmt.Sprintf("alias-%d.example.org", number)}
}

// entries makes entries below the agent, each through another node.
func (f *flow) entries(ctx context.Context, parent, kind string) ([]string, error) {
	var ids []string
	for made := 0; made < f.Entries; {
		var batch []*types.Entry
		for ; made < f.Entries && len(batch) < batchMax; made++ {
			id := fmt.Sprintf("%s-%d", kind, made)
			entry := &types.Entry{
				Id: id, ParentId: f.id(parent), SpiffeId: f.id("/" + kind + "/" + fmt.Sprint(made)),
				Selectors: []*types.Selector{{Type: "unix", Value: fmt.Sprintf("uid:%d", made)}},
			}
			if made%2 == 0 {
				entry.DnsNames = names(made)
			}
			batch = append(batch, entry)
			ids = append(ids, id)
		}
		response, err := entryv1.NewEntryClient(f.admin()).BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: batch})
		if err != nil {
			return nil, err
		}
		for _, result := range response.GetResults() {
			if result.GetStatus().GetCode() != int32(codes.OK) {
				return nil, fmt.Errorf("an entry was not created: %s", result.GetStatus().GetMessage())
			}
		}
	}
	return ids, nil
}

// judgedEach is how many of an agent's SVIDs a round has judged by openssl too, which
// starts four processes for each.
const judgedEach = 10

func (f *flow) round(ctx context.Context, a *agent, kind string, ids []string, round int) error {
	var signed []signedSVID
	err := patiently(func() (err error) {
		if err = a.sync(ctx); err != nil {
			return err
		}
		if len(a.entries) != len(ids) {
			return fmt.Errorf("%d entries came of %d", len(a.entries), len(ids))
		}
		signed, err = a.sign(ctx, ids)
		return err
	})
	if err != nil {
		return err
	}
	for number, workload := range signed {
		chain, err := document.Chain(workload.svid.GetCertChain())
		if err != nil {
			return err
		}
		if !workload.key.PublicKey.Equal(chain[0].PublicKey) {
			return fmt.Errorf("the SVID of %s is for another key", workload.entryID)
		}
		if chain[0].NotAfter.Unix() != workload.svid.GetExpiresAt() {
			return fmt.Errorf("the SVID of %s ends at %s, the answer says %d", workload.entryID, chain[0].NotAfter, workload.svid.GetExpiresAt())
		}
		if number >= judgedEach {
			if _, err := caller.SVID(workload.svid.GetCertChain(), workload.key); err != nil {
				return err
			}
			continue
		}
		var dns []string
		if number%2 == 0 {
			dns = names(number)
		}
		id := fmt.Sprintf("%s/%s/%d", f.trustDomain.IDString(), kind, number)
		if err := f.judge.X509("workload SVID", chain, id, dns...); err != nil {
			return err
		}
	}
	number := round % len(ids)
	var token *types.JWTSVID
	err = patiently(func() (err error) {
		token, err = a.jwt(ctx, ids[number], "first", "second")
		return err
	})
	if err != nil {
		return err
	}
	return f.judge.JWT("JWT-SVID", token.GetToken(), fmt.Sprintf("%s/%s/%d", f.trustDomain.IDString(), kind, number), "first", "second")
}

// renew gets the agent its next SVID in the way that its attestation allows, and
// checks that the one before is over as soon as the new one is used.
func (f *flow) renew(ctx context.Context, a *agent, id spiffeid.ID) error {
	before, err := a.identity.Get()
	if err != nil {
		return err
	}
	if err := f.judge.X509("agent SVID", before.Certificates, id.String()); err != nil {
		return err
	}
	err = a.renew(ctx)
	if a.reattestable {
		if reason(err) != types.PermissionDeniedDetails_AGENT_MUST_REATTEST {
			return fmt.Errorf("an agent that can re-attest asked to renew: %w", err)
		}
		err = a.attest(ctx)
	}
	if err != nil {
		return err
	}
	after, err := a.identity.Get()
	if err != nil {
		return err
	}
	if after.ID != id || after.Certificates[0].SerialNumber.Cmp(before.Certificates[0].SerialNumber) == 0 {
		return fmt.Errorf("the new SVID is for %s, with serial %s", after.ID, after.Certificates[0].SerialNumber)
	}
	if err := a.postStatus(ctx); err != nil {
		return fmt.Errorf("with the new SVID: %w", err)
	}
	for _, address := range a.addresses {
		err := patiently(func() error {
			return f.denied(ctx, a, before, address, types.PermissionDeniedDetails_AGENT_NOT_ACTIVE)
		})
		if err != nil {
			return fmt.Errorf("the SVID before: %w", err)
		}
	}
	return nil
}

// heardOf is the time in which a node must know what another one acknowledged, on the
// busiest of machines.
const heardOf = 15 * time.Second

// patiently tries again what a node cannot answer that has not heard of it yet: a stock
// agent does the same at its next sync.
func patiently(try func() error) error {
	for deadline := time.Now().Add(heardOf); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// denied checks that one node refuses an SVID and says why in the typed detail.
func (f *flow) denied(ctx context.Context, a *agent, svid *x509svid.SVID, address string, want types.PermissionDeniedDetails_Reason) error {
	get := func() (*x509svid.SVID, error) { return svid, nil }
	conn, err := call.Agent(call.Options{TrustDomain: f.trustDomain, Roots: a.currentRoots, SVID: get}, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = entryv1.NewEntryClient(conn).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{OutputMask: syncMask})
	if status.Code(err) != codes.PermissionDenied || reason(err) != want {
		return fmt.Errorf("%s does not say %s but: %v", address, want, err)
	}
	return nil
}

// reason is what an agent acts by; UNKNOWN where there is no typed detail.
func reason(err error) types.PermissionDeniedDetails_Reason {
	var grpcError interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &grpcError) {
		return types.PermissionDeniedDetails_UNKNOWN
	}
	for _, detail := range grpcError.GRPCStatus().Details() {
		if denied, ok := detail.(*types.PermissionDeniedDetails); ok {
			return denied.GetReason()
		}
	}
	return types.PermissionDeniedDetails_UNKNOWN
}

// ban has the agent banned on one node and asks all of them; then evicts it.
func (f *flow) ban(ctx context.Context, a *agent, id spiffeid.ID, kind string) error {
	svid, err := a.identity.Get()
	if err != nil {
		return err
	}
	if _, err := agentv1.NewAgentClient(f.admin()).BanAgent(ctx, &agentv1.BanAgentRequest{Id: f.id(id.Path())}); err != nil {
		return err
	}
	for _, address := range a.addresses {
		if err := f.denied(ctx, a, svid, address, types.PermissionDeniedDetails_AGENT_BANNED); err != nil {
			return fmt.Errorf("banned: %w", err)
		}
	}
	if kind == "x509pop" {
		if err := a.attest(ctx); status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("a banned agent attested: %w", err)
		}
	}
	if _, err := agentv1.NewAgentClient(f.admin()).DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: f.id(id.Path())}); err != nil {
		return err
	}
	for _, address := range a.addresses {
		if err := f.denied(ctx, a, svid, address, types.PermissionDeniedDetails_AGENT_NOT_ATTESTED); err != nil {
			return fmt.Errorf("evicted: %w", err)
		}
	}
	if kind == "x509pop" {
		if err := a.attest(ctx); err != nil {
			return fmt.Errorf("an evicted agent may attest again: %w", err)
		}
	}
	return nil
}

// downstream has an authority signed for a server below this one.
func (f *flow) downstream(ctx context.Context, a *agent, parent string) error {
	entry := &types.Entry{
		Id: "downstream", ParentId: f.id(parent), SpiffeId: f.id("/downstream"), Downstream: true,
		Selectors: []*types.Selector{{Type: "unix", Value: "uid:1"}},
	}
	if _, err := entryv1.NewEntryClient(f.admin()).BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{entry}}); err != nil {
		return err
	}
	time.Sleep(f.Settle)
	var signed []signedSVID
	err := patiently(func() (err error) {
		if err = a.sync(ctx); err == nil {
			signed, err = a.sign(ctx, []string{"downstream"})
		}
		return err
	})
	if err != nil {
		return err
	}
	svid, err := caller.SVID(signed[0].svid.GetCertChain(), signed[0].key)
	if err != nil {
		return err
	}
	get := func() (*x509svid.SVID, error) { return svid, nil }
	conn, err := call.Agent(call.Options{TrustDomain: f.trustDomain, Roots: a.currentRoots, SVID: get}, a.addresses...)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range a.addresses {
		key := caller.NewKey()
		csr, err := caller.CSR(key, f.trustDomain.IDString())
		if err != nil {
			return err
		}
		response, err := svidv1.NewSVIDClient(conn).NewDownstreamX509CA(ctx, &svidv1.NewDownstreamX509CARequest{Csr: csr})
		if err != nil {
			if f.absent(err, "NewDownstreamX509CA") {
				return nil
			}
			return err
		}
		chain, err := document.Chain(response.GetCaCertChain())
		if err != nil {
			return err
		}
		if len(response.GetX509Authorities()) != len(a.bundle.GetX509Authorities()) {
			return fmt.Errorf("%d roots came with a downstream CA", len(response.GetX509Authorities()))
		}
		if err := f.judge.CA(chain, key, f.leaf); err != nil {
			return err
		}
	}
	return nil
}

// leaf is what a downstream server would issue.
func (f *flow) leaf(issuer *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, string, error) {
	id := f.trustDomain.IDString() + "/below"
	uri, err := url.Parse(id)
	if err != nil {
		return nil, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{Organization: []string{"below"}}, URIs: []*url.URL{uri},
		NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	own := caller.NewKey()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, own.Public(), key)
	if err != nil {
		return nil, "", err
	}
	certificate, err := x509.ParseCertificate(der)
	return certificate, id, err
}

// minted judges what an administrator has signed without an entry.
func (f *flow) minted(ctx context.Context) error {
	id := f.trustDomain.IDString() + "/minted"
	for range f.local {
		token, err := svidv1.NewSVIDClient(f.admin()).MintJWTSVID(ctx, &svidv1.MintJWTSVIDRequest{Id: f.id("/minted"), Audience: []string{"somebody"}})
		if err == nil {
			err = f.judge.JWT("minted JWT-SVID", token.GetSvid().GetToken(), id, "somebody")
		}
		if err != nil && !f.absent(err, "MintJWTSVID") {
			return err
		}
		key := caller.NewKey()
		csr, err := caller.CSR(key, id)
		if err != nil {
			return err
		}
		svid, err := svidv1.NewSVIDClient(f.admin()).MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr})
		if err == nil {
			var chain []*x509.Certificate
			if chain, err = document.Chain(svid.GetSvid().GetCertChain()); err == nil {
				err = f.judge.X509("minted X.509-SVID", chain, id)
			}
		}
		if err != nil && !f.absent(err, "MintX509SVID") {
			return err
		}
	}
	return nil
}

// json judges the bundle as the command line prints it.
func (f *flow) json(node target.Node) error {
	if f.Command == "" {
		return nil
	}
	output, err := exec.Command(f.Command, "bundle", "show", "-format", "spiffe", "-socketPath", node.AdminSocket).Output()
	if err != nil {
		return fmt.Errorf("%s bundle show: %w", f.Command, err)
	}
	return f.judge.JSON(output)
}
