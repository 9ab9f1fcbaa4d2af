package badinput

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	loggerv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/logger/v1"
	trustdomainv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// state is everything that the API shows of the registry.
type state struct {
	entries       map[string]proto.Message
	bundles       map[string]proto.Message
	relationships map[string]proto.Message
	// rest has the agents, the own bundle and the authorities.
	rest []proto.Message
}

// digest is equal where all that the API shows is.
func (s *state) digest() string {
	hash := sha256.New()
	options := proto.MarshalOptions{Deterministic: true}
	write := func(message proto.Message) {
		wire, err := options.Marshal(message)
		if err != nil {
			panic(err) // it came over the wire
		}
		fmt.Fprintf(hash, "%d:", len(wire))
		hash.Write(wire)
	}
	for _, all := range []map[string]proto.Message{s.entries, s.bundles, s.relationships} {
		for _, name := range sorted(all) {
			write(all[name])
		}
	}
	for _, message := range s.rest {
		write(message)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// read asks a node for everything. Methods that are not there show nothing.
func read(ctx context.Context, conn *grpc.ClientConn) (*state, error) {
	s := &state{entries: map[string]proto.Message{}, bundles: map[string]proto.Message{}, relationships: map[string]proto.Message{}}
	entries, err := entryv1.NewEntryClient(conn).ListEntries(ctx, &entryv1.ListEntriesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing entries: %w", err)
	}
	for _, entry := range entries.GetEntries() {
		s.entries[entry.GetId()] = entry
	}
	bundles, err := bundlev1.NewBundleClient(conn).ListFederatedBundles(ctx, &bundlev1.ListFederatedBundlesRequest{})
	if err := present(err); err != nil {
		return nil, fmt.Errorf("listing bundles: %w", err)
	}
	for _, bundle := range bundles.GetBundles() {
		s.bundles[bundle.GetTrustDomain()] = bundle
	}
	relationships, err := trustdomainv1.NewTrustDomainClient(conn).ListFederationRelationships(ctx, &trustdomainv1.ListFederationRelationshipsRequest{})
	if err := present(err); err != nil {
		return nil, fmt.Errorf("listing relationships: %w", err)
	}
	for _, relationship := range relationships.GetFederationRelationships() {
		s.relationships[relationship.GetTrustDomain()] = relationship
	}
	// What version an agent tells is its own business, and no harm.
	mask := &types.AgentMask{AttestationType: true, X509SvidSerialNumber: true, X509SvidExpiresAt: true, Selectors: true, Banned: true, CanReattest: true}
	agents, err := agentv1.NewAgentClient(conn).ListAgents(ctx, &agentv1.ListAgentsRequest{OutputMask: mask})
	if err != nil {
		return nil, fmt.Errorf("listing agents: %w", err)
	}
	bundle, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return nil, fmt.Errorf("getting the bundle: %w", err)
	}
	s.rest = append(s.rest, agents, bundle)
	authorities := localauthorityv1.NewLocalAuthorityClient(conn)
	x509, err := authorities.GetX509AuthorityState(ctx, &localauthorityv1.GetX509AuthorityStateRequest{})
	if err := present(err); err != nil {
		return nil, err
	} else if x509 != nil {
		s.rest = append(s.rest, x509)
	}
	jwt, err := authorities.GetJWTAuthorityState(ctx, &localauthorityv1.GetJWTAuthorityStateRequest{})
	if err := present(err); err != nil {
		return nil, err
	} else if jwt != nil {
		s.rest = append(s.rest, jwt)
	}
	return s, nil
}

func present(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return err
}

// tidy removes what inputs that were right after all have made, and gives the log
// its level back.
func tidy(ctx context.Context, conn *grpc.ClientConn, before *state) error {
	after, err := read(ctx, conn)
	if err != nil {
		return err
	}
	if extra := beyond(after.relationships, before.relationships); len(extra) > 0 {
		if _, err := trustdomainv1.NewTrustDomainClient(conn).BatchDeleteFederationRelationship(ctx, &trustdomainv1.BatchDeleteFederationRelationshipRequest{TrustDomains: extra}); err != nil {
			return err
		}
	}
	if extra := beyond(after.entries, before.entries); len(extra) > 0 {
		if _, err := entryv1.NewEntryClient(conn).BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: extra}); err != nil {
			return err
		}
	}
	if extra := beyond(after.bundles, before.bundles); len(extra) > 0 {
		request := &bundlev1.BatchDeleteFederatedBundleRequest{TrustDomains: extra, Mode: bundlev1.BatchDeleteFederatedBundleRequest_DISSOCIATE}
		if _, err := bundlev1.NewBundleClient(conn).BatchDeleteFederatedBundle(ctx, request); err != nil {
			return err
		}
	}
	_, err = loggerv1.NewLoggerClient(conn).ResetLogLevel(ctx, &loggerv1.ResetLogLevelRequest{})
	return present(err)
}

// beyond names what is in `after` and not in `before`.
func beyond(after, before map[string]proto.Message) []string {
	var names []string
	for _, name := range sorted(after) {
		if _, old := before[name]; !old {
			names = append(names, name)
		}
	}
	return names
}
