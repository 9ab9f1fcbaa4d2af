package call

import (
	"context"
	"crypto/x509"
	"net"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"
)

// roundRobin is the only balancing that a stock agent knows.
const roundRobin = `{ "loadBalancingConfig": [ { "round_robin": {} } ] }`

// Socket connects to an admin socket.
func Socket(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Options of a connection to agent ports.
type Options struct {
	TrustDomain spiffeid.TrustDomain
	// Roots are asked for at every handshake, like a stock agent's bundle.
	Roots func() []*x509.Certificate
	// SVID is asked for at every handshake; nil: no client certificate.
	SVID func() (*x509svid.SVID, error)
	// Source is the local IP address, where one is wanted.
	Source string
	// Sent is told the address that each call goes to.
	Sent func(address string)
}

// Agent connects to one or more agent ports as a stock agent does: the server must
// be spiffe://TD/spire/server, names do not matter, calls go round the addresses.
func Agent(options Options, addresses ...string) (*grpc.ClientConn, error) {
	server, err := spiffeid.FromPath(options.TrustDomain, "/spire/server")
	if err != nil {
		return nil, err
	}
	bundle := bundleSource(options)
	authorizer := tlsconfig.AuthorizeID(server)
	config := tlsconfig.TLSClientConfig(bundle, authorizer)
	if options.SVID != nil {
		config = tlsconfig.MTLSClientConfig(svidSource(options.SVID), bundle, authorizer)
	}
	dial := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(roundRobin),
		grpc.WithDisableServiceConfig(),
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
	}
	if options.Source != "" {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(options.Source)}}
		dial = append(dial, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	}
	if options.Sent != nil {
		dial = append(dial, grpc.WithStatsHandler(watcher(options.Sent)))
	}
	if len(addresses) == 1 {
		return grpc.NewClient("passthrough:///"+addresses[0], dial...)
	}
	// A stock agent has one DNS name for all servers, which then need one port; here
	// the list takes the name's place.
	list := manual.NewBuilderWithScheme("nodes")
	var state resolver.State
	for _, address := range addresses {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	list.InitialState(state)
	return grpc.NewClient("nodes:///servers", append(dial, grpc.WithResolvers(list))...)
}

// watcher sees the headers of every call go out.
type watcher func(address string)

func (w watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (w watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (w watcher) HandleConn(context.Context, stats.ConnStats)                       {}
func (w watcher) HandleRPC(_ context.Context, event stats.RPCStats) {
	if header, ok := event.(*stats.OutHeader); ok && header.RemoteAddr != nil {
		w(header.RemoteAddr.String())
	}
}

type svidSource func() (*x509svid.SVID, error)

func (s svidSource) GetX509SVID() (*x509svid.SVID, error) { return s() }

type bundleSource Options

func (s bundleSource) GetX509BundleForTrustDomain(of spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return x509bundle.FromX509Authorities(s.TrustDomain, s.Roots()).GetX509BundleForTrustDomain(of)
}
