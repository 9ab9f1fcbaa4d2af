package badinput

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"interop/internal/call"
	"interop/internal/caller"
	"interop/internal/conformance"
)

// Options of a run.
type Options struct {
	World *conformance.World
	// Count of inputs for each method.
	Count int
	Seed  int64
	// Method alone, "Service/Method"; empty: all.
	Method string
	// Only this input, where it is not negative.
	Only int
	// MissingOK takes for an answer that a method is not there.
	MissingOK bool
	// Replay is the command to run a failing input again, without -method and -only.
	Replay string
	Log    func(format string, args ...any)
}

// workersMax call at once, each over a connection of its own from an address of its
// own: some limits are for each address.
const workersMax = 32

// callLimit is far more than any of these calls needs.
const callLimit = 30 * time.Second

// who calls a method: somebody who may, so that the input is looked at.
func who(method call.Method) []string {
	short := method.Name[strings.LastIndex(method.Name, "/")+1:]
	switch short {
	case "AttestAgent", "GetBundle":
		return []string{conformance.Anonymous}
	case "RenewAgent", "PostStatus", "GetAuthorizedEntries", "SyncAuthorizedEntries", "BatchNewX509SVID", "NewJWTSVID", "BatchNewWITSVID":
		return []string{conformance.Agent}
	case "PublishJWTAuthority", "PublishWITAuthority", "NewDownstreamX509CA":
		return []string{conformance.Downstream}
	}
	if method.Socket {
		return []string{conformance.Local}
	}
	return []string{conformance.Local, conformance.Admin}
}

// Run sends the inputs. The error names seed, method and input of the first that was
// answered wrongly.
func Run(ctx context.Context, options Options) error {
	var nodes []*grpc.ClientConn
	for _, node := range options.World.Target.Nodes {
		conn, err := options.World.Dial(conformance.Local, node, "")
		if err != nil {
			return err
		}
		defer conn.Close()
		nodes = append(nodes, conn)
	}
	materials, err := makeMaterials()
	if err != nil {
		return err
	}
	total := map[codes.Code]int{}
	var failures []string
	for number, method := range call.Methods() {
		short := shortName(method)
		if options.Method != "" && options.Method != short {
			continue
		}
		started := time.Now()
		seen, err := one(ctx, options, method, materials, nodes, number)
		if err != nil {
			// The other methods are tried too: one look at all that is wrong.
			failures = append(failures, fmt.Sprintf("%s: %v", short, err))
			options.Log("%-48s FAILED: %v", short, err)
			continue
		}
		for code, count := range seen {
			total[code] += count
		}
		options.Log("%-48s %5.1f s: %s", short, time.Since(started).Seconds(), counts(seen))
	}
	options.Log("all: %s", counts(total))
	if len(failures) > 0 {
		return fmt.Errorf("%d methods failed; the first: %s", len(failures), failures[0])
	}
	if options.Only < 0 && options.Method == "" && total[codes.InvalidArgument] == 0 {
		return errors.New("no input was refused: are these bad inputs at all?")
	}
	return nil
}

func shortName(method call.Method) string {
	return method.Name[strings.LastIndexAny(strings.TrimSuffix(method.Name, method.Name[strings.LastIndex(method.Name, "/"):]), "./")+1:]
}

func counts(seen map[codes.Code]int) string {
	var parts []string
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		if seen[code] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", code, seen[code]))
		}
	}
	return strings.Join(parts, ", ")
}

func makeMaterials() (Materials, error) {
	var m Materials
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return m, err
	}
	for _, id := range []string{"spiffe://example.org/fuzz", "spiffe://other.test/fuzz"} {
		csr, err := caller.CSR(caller.NewKey(), id)
		if err != nil {
			return m, err
		}
		m.CSRs = append(m.CSRs, csr)
	}
	csr, err := caller.CSR(long)
	if err != nil {
		return m, err
	}
	m.CSRs = append(m.CSRs, csr)
	ca, err := caller.NewPopCA("fuzz")
	if err != nil {
		return m, err
	}
	m.Certificates = append(m.Certificates, ca.Certificate.Raw)
	for _, public := range []any{caller.NewKey().Public(), long.Public()} {
		key, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return m, err
		}
		m.Keys = append(m.Keys, key)
	}
	m.Known = []string{"fuzz-known"}
	return m, nil
}

// one sends all inputs to one method and looks at the state before and after.
func one(ctx context.Context, options Options, method call.Method, materials Materials, nodes []*grpc.ClientConn, number int) (map[codes.Code]int, error) {
	node := nodes[number%len(nodes)]
	before, err := read(ctx, node)
	if err != nil {
		return nil, fmt.Errorf("before: %w", err)
	}
	if err := known(ctx, options, node); err != nil {
		return nil, err
	}
	seen, wrong := flood(ctx, options, method, materials)
	if err := alive(ctx, nodes); err != nil {
		return nil, errors.Join(err, wrong)
	}
	if err := tidy(ctx, node, before); err != nil {
		return nil, errors.Join(fmt.Errorf("tidying up: %w", err), wrong)
	}
	if wrong != nil {
		return nil, wrong
	}
	for index, node := range nodes {
		after, err := read(ctx, node)
		if err != nil {
			return nil, fmt.Errorf("after: %w", err)
		}
		if after.digest() != before.digest() {
			return nil, fmt.Errorf("node %d shows another state than before; again: %s -method %s", index+1, options.Replay, shortName(method))
		}
	}
	return seen, nil
}

// known makes the entry that some inputs name.
func known(ctx context.Context, options Options, node *grpc.ClientConn) error {
	id := func(path string) *types.SPIFFEID {
		return &types.SPIFFEID{TrustDomain: options.World.TrustDomain.Name(), Path: path}
	}
	entry := &types.Entry{
		Id: "fuzz-known", ParentId: id("/spire/agent/join_token/interop-agent"), SpiffeId: id("/fuzz-known"),
		Selectors: []*types.Selector{{Type: "unix", Value: "uid:1"}},
	}
	_, err := entryv1.NewEntryClient(node).BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{entry}})
	return err
}

// alive asks every node whether it serves.
func alive(ctx context.Context, nodes []*grpc.ClientConn) error {
	for index, node := range nodes {
		response, err := grpc_health_v1.NewHealthClient(node).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil || response.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			return fmt.Errorf("node %d is not healthy afterwards: %v, %w", index+1, response.GetStatus(), err)
		}
	}
	return nil
}

// patiently calls again while the answer is that there is no leader just now, which on
// a busy machine may be; a node that is gone goes on saying so, and that is a failure.
func patiently(ctx context.Context, conn *grpc.ClientConn, method call.Method, input Input) call.Outcome {
	for deadline := time.Now().Add(callLimit); ; time.Sleep(100 * time.Millisecond) {
		bounded, cancel := context.WithTimeout(ctx, callLimit)
		outcome := send(bounded, conn, method, input)
		cancel()
		if outcome.Status.Code() != codes.Unavailable || time.Now().After(deadline) {
			return outcome
		}
	}
}

func flood(ctx context.Context, options Options, method call.Method, materials Materials) (map[codes.Code]int, error) {
	var next atomic.Int64
	var mutex sync.Mutex
	var group sync.WaitGroup
	seen := map[codes.Code]int{}
	var first error
	firstIndex := options.Count
	fail := func(index int, err error) {
		mutex.Lock()
		defer mutex.Unlock()
		if index < firstIndex {
			firstIndex, first = index, err
		}
	}
	if options.Only >= 0 {
		next.Store(int64(options.Only))
		options.Count = options.Only + 1
		firstIndex = options.Count
	}
	// A connection costs more than a few calls.
	workers := max(1, min(workersMax, options.Count/8))
	if options.Only >= 0 {
		workers = 1
	}
	for worker := 0; worker < workers; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			callers := who(method)
			nodes := options.World.Target.Nodes
			source := fmt.Sprintf("127.0.%d.%d", 7, worker+1)
			conn, err := options.World.Dial(callers[worker%len(callers)], nodes[worker%len(nodes)], source)
			if err != nil {
				fail(0, err)
				return
			}
			defer conn.Close()
			for {
				index := int(next.Add(1) - 1)
				mutex.Lock()
				over := index >= options.Count || first != nil && index > firstIndex
				mutex.Unlock()
				if over {
					return
				}
				input := Generate(options.Seed, method, index, options.World.TrustDomain.Name(), materials)
				outcome := patiently(ctx, conn, method, input)
				mutex.Lock()
				seen[outcome.Status.Code()]++
				mutex.Unlock()
				if err := judge(shortName(method), input, outcome, options.MissingOK); err != nil {
					fail(index, fmt.Errorf("seed %d, input %d (%s): %w; again: %s -method %s -only %d",
						options.Seed, index, shown(input), err, options.Replay, shortName(method), index))
				}
			}
		}()
	}
	group.Wait()
	return seen, first
}

// shown is the beginning of an input, in hex.
func shown(input Input) string {
	var parts []string
	for _, message := range input.Messages {
		if len(message) > 100 {
			parts = append(parts, fmt.Sprintf("%s… of %d bytes", hex.EncodeToString(message[:100]), len(message)))
		} else {
			parts = append(parts, hex.EncodeToString(message))
		}
	}
	return strings.Join(parts, " | ")
}

func sorted(of map[string]proto.Message) []string {
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
