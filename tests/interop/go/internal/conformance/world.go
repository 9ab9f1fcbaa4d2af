package conformance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"interop/internal/call"
	"interop/internal/caller"
	"interop/internal/target"
)

// AdminPath is the path of the SPIFFE ID that the server's configuration must name
// as an administrator.
const AdminPath = "/interop/admin"

// World is a server with every kind of caller made ready.
type World struct {
	Target      *target.Target
	TrustDomain spiffeid.TrustDomain
	// PopCA signs x509pop certificates; nil where the server knows none.
	PopCA *caller.PopCA

	saved     map[string]string
	svids     map[string]*x509svid.SVID
	mutex     sync.Mutex // of conns: handshakes ask for the roots
	conns     map[string]*grpc.ClientConn
	materials map[string][]byte
	turn      int
}

// NewWorld makes the callers. The server must be new: tokens and ids are fixed.
func NewWorld(ctx context.Context, from *target.Target, pop *caller.PopCA) (*World, error) {
	trustDomain, err := spiffeid.TrustDomainFromString(from.TrustDomain)
	if err != nil {
		return nil, err
	}
	w := &World{
		Target: from, TrustDomain: trustDomain, PopCA: pop,
		saved: map[string]string{}, svids: map[string]*x509svid.SVID{},
		conns: map[string]*grpc.ClientConn{}, materials: map[string][]byte{},
	}
	if err := w.makeCallers(ctx); err != nil {
		w.Close()
		return nil, fmt.Errorf("making the callers: %w", err)
	}
	return w, nil
}

// Close ends every connection.
func (w *World) Close() {
	for _, conn := range w.conns {
		_ = conn.Close()
	}
}

// Connection of a caller to the node whose turn it is.
func (w *World) Connection(who string) (*grpc.ClientConn, error) {
	w.turn++
	return w.connectionTo(who, w.turn%len(w.Target.Nodes))
}

func (w *World) connectionTo(who string, index int) (*grpc.ClientConn, error) {
	node := w.Target.Nodes[index]
	name := fmt.Sprintf("%s at %d", who, index)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if conn, open := w.conns[name]; open {
		return conn, nil
	}
	conn, err := w.Dial(who, node, "")
	if err == nil {
		w.conns[name] = conn
	}
	return conn, err
}

// Dial makes a connection of a caller's that is not shared; `source` is the local
// address, where one is wanted.
func (w *World) Dial(who string, node target.Node, source string) (*grpc.ClientConn, error) {
	if who == Local {
		return call.Socket(node.AdminSocket)
	}
	options := call.Options{TrustDomain: w.TrustDomain, Roots: w.roots, Source: source}
	if who != Anonymous {
		svid, known := w.svids[who]
		if !known {
			return nil, fmt.Errorf("there is no %s here", who)
		}
		options.SVID = func() (*x509svid.SVID, error) { return svid, nil }
	}
	return call.Agent(options, node.API)
}

// roots are asked for at every handshake: authorities come and go in these cases.
func (w *World) roots() []*x509.Certificate {
	roots := slices.Clone(w.Target.Roots())
	conn, err := w.connectionTo(Local, 0)
	if err != nil {
		return roots
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	bundle, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return roots
	}
	for _, authority := range bundle.GetX509Authorities() {
		if root, err := x509.ParseCertificate(authority.GetAsn1()); err == nil {
			roots = append(roots, root)
		}
	}
	return roots
}

// warm opens every connection: an SVID whose authority is revoked opens none.
func (w *World) warm(ctx context.Context) error {
	for _, who := range callers {
		for index := range w.Target.Nodes {
			if !w.Has(who) {
				continue
			}
			conn, err := w.connectionTo(who, index)
			if err != nil {
				return err
			}
			if _, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{}); err != nil {
				return fmt.Errorf("connecting as %s: %w", who, err)
			}
		}
	}
	return nil
}

// Has says whether a caller could be made.
func (w *World) Has(who string) bool {
	_, made := w.svids[who]
	return made || who == Local || who == Anonymous
}

func (w *World) id(path string) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: w.TrustDomain.Name(), Path: path}
}

func (w *World) makeCallers(ctx context.Context) error {
	local, err := w.Connection(Local)
	if err != nil {
		return err
	}
	agents := agentv1.NewAgentClient(local)
	paths := map[string]string{}
	for _, agent := range [][2]string{
		{Agent, "interop-agent"}, {Banned, "interop-banned"}, {Evicted, "interop-evicted"}, {OldSerial, "interop-renewed"},
	} {
		who, token := agent[0], agent[1]
		paths[who] = "/spire/agent/join_token/" + token
		if _, err := agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 600, Token: token}); err != nil {
			return err
		}
		if err := w.attest(ctx, who, func(csr []byte) call.Script { return caller.JoinToken(token, csr) }); err != nil {
			return fmt.Errorf("%s: %w", who, err)
		}
	}
	if w.PopCA != nil {
		chain, key, err := w.PopCA.Issue(caller.PopOptions{CommonName: "interop pop agent"})
		if err != nil {
			return err
		}
		if err := w.attest(ctx, PopAgent, func(csr []byte) call.Script { return caller.X509Pop(chain, key, csr) }); err != nil {
			return fmt.Errorf("%s: %w", PopAgent, err)
		}
	}
	if err := w.makeEntryCallers(ctx, local, paths[Agent]); err != nil {
		return err
	}
	if err := w.renew(ctx); err != nil {
		return err
	}
	if _, err := agents.BanAgent(ctx, &agentv1.BanAgentRequest{Id: w.id(paths[Banned])}); err != nil {
		return err
	}
	if _, err = agents.DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: w.id(paths[Evicted])}); err != nil {
		return err
	}
	return w.warm(ctx)
}

func (w *World) attest(ctx context.Context, who string, script func(csr []byte) call.Script) error {
	conn, err := w.Connection(Anonymous)
	if err != nil {
		return err
	}
	key := caller.NewKey()
	csr, err := caller.CSR(key)
	if err != nil {
		return err
	}
	attested, err := caller.Attest(ctx, conn, key, script(csr))
	if err != nil {
		return err
	}
	w.svids[who] = attested.SVID
	return nil
}

// renew gives the agent of old serial a second SVID and uses it once: from then on
// the first is no longer active.
func (w *World) renew(ctx context.Context) error {
	old, err := w.Connection(OldSerial)
	if err != nil {
		return err
	}
	key := caller.NewKey()
	csr, err := caller.CSR(key)
	if err != nil {
		return err
	}
	renewed, err := agentv1.NewAgentClient(old).RenewAgent(ctx, &agentv1.RenewAgentRequest{Params: &agentv1.AgentX509SVIDParams{Csr: csr}})
	if err != nil {
		return fmt.Errorf("renewing: %w", err)
	}
	svid, err := caller.SVID(renewed.GetSvid().GetCertChain(), key)
	if err != nil {
		return err
	}
	const again = "agent, renewed"
	w.svids[again] = svid
	conn, err := w.Connection(again)
	if err != nil {
		return err
	}
	_, err = agentv1.NewAgentClient(conn).PostStatus(ctx, &agentv1.PostStatusRequest{})
	return err
}

// makeEntryCallers has the agent fetch SVIDs for entries that make admins,
// downstream servers and plain workloads of their holders.
func (w *World) makeEntryCallers(ctx context.Context, local *grpc.ClientConn, agentPath string) error {
	selectors := []*types.Selector{{Type: "unix", Value: "uid:4711"}}
	entry := func(id, path string) *types.Entry {
		return &types.Entry{Id: id, ParentId: w.id(agentPath), SpiffeId: w.id(path), Selectors: selectors}
	}
	admin, byEntry := entry("interop-admin", AdminPath), entry("interop-admin-by-entry", "/interop/admin-by-entry")
	byEntry.Admin = true
	downstream := entry("interop-downstream", "/interop/downstream")
	downstream.Downstream = true
	workload := entry("interop-workload", "/interop/workload")
	created, err := entryv1.NewEntryClient(local).BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{admin, byEntry, downstream, workload}})
	if err != nil {
		return err
	}
	for _, result := range created.GetResults() {
		if result.GetStatus().GetCode() != int32(codes.OK) {
			return fmt.Errorf("an entry was not created: %s", result.GetStatus().GetMessage())
		}
	}
	for who, entry := range map[string]*types.Entry{Admin: admin, AdminByEntry: byEntry, Downstream: downstream, Workload: workload} {
		if err := w.fetch(ctx, who, entry.GetId()); err != nil {
			return fmt.Errorf("%s: %w", who, err)
		}
	}
	return nil
}

// fetch asks until the server's caches know the entry.
func (w *World) fetch(ctx context.Context, who, entryID string) error {
	key := caller.NewKey()
	csr, err := caller.CSR(key)
	if err != nil {
		return err
	}
	conn, err := w.Connection(Agent)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		response, err := svidv1.NewSVIDClient(conn).BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{
			Params: []*svidv1.NewX509SVIDParams{{EntryId: entryID, Csr: csr}},
		})
		if err != nil {
			return err
		}
		result := response.GetResults()[0]
		if result.GetStatus().GetCode() == int32(codes.OK) {
			w.svids[who], err = caller.SVID(result.GetSvid().GetCertChain(), key)
			return err
		}
		if result.GetStatus().GetCode() != int32(codes.NotFound) {
			return errors.New(result.GetStatus().GetMessage())
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the server never found the entry")
}
