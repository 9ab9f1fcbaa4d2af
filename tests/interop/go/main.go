// Command interop judges a server of the SPIRE API with other people's code: the
// published spire-api-sdk, go-spiffe, crypto/x509 and openssl.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"interop/internal/agentflow"
	"interop/internal/badinput"
	"interop/internal/caller"
	"interop/internal/conformance"
	"interop/internal/target"
)

const usage = `interop judges a server of the SPIRE API.

  interop make-ca -dir D
        a CA for x509pop certificates: D/ca.pem, D/ca-key.pem
  interop record -cluster F -pop-ca D -answers FILE [-settle 6s]
        calls every method and stores the answers (of SPIRE's own server)
  interop compare -cluster F -pop-ca D -answers FILE -accepted FILE [-missing-ok]
        makes the same calls and tells what is answered otherwise
  interop agent -cluster F -pop-ca D [-entries N] [-rounds N] [-command PATH] [-settle 6s] [-missing-ok]
        does what a stock agent does and judges every document
  interop rotation -cluster F
        two agents whose workloads shake hands by go-spiffe until standard input ends
  interop badinput -cluster F [-count N] [-seed S] [-method Service/Method] [-only I] [-missing-ok]
        sends every method N bad inputs made from its descriptors

F is cluster.json of deploy/local/up. The server must be new, and name
spiffe://TD/interop/admin as an administrator.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

type options struct {
	cluster, popDir, dir, answers, accepted string
	command                                 string
	entries, rounds, count, only            int
	seed                                    int64
	method                                  string
	settle                                  time.Duration
	missingOK                               bool
}

func run(verb string, args []string) error {
	var o options
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	flags.StringVar(&o.cluster, "cluster", "", "cluster.json")
	flags.StringVar(&o.popDir, "pop-ca", "", "folder with the CA of x509pop certificates")
	flags.StringVar(&o.dir, "dir", "", "folder to write to")
	flags.StringVar(&o.answers, "answers", "", "file of recorded answers")
	flags.StringVar(&o.accepted, "accepted", "", "file of accepted differences")
	flags.StringVar(&o.command, "command", "", "command that prints the bundle: chancery or spire-server")
	flags.IntVar(&o.entries, "entries", 20, "entries below each agent")
	flags.IntVar(&o.rounds, "rounds", 3, "rounds of sync, signing and renewal")
	flags.IntVar(&o.count, "count", 200, "inputs for each method")
	flags.IntVar(&o.only, "only", -1, "this input alone")
	flags.Int64Var(&o.seed, "seed", time.Now().UnixNano(), "seed of the inputs")
	flags.StringVar(&o.method, "method", "", "this method alone")
	flags.DurationVar(&o.settle, "settle", 0, "how long the server's caches may take")
	flags.BoolVar(&o.missingOK, "missing-ok", false, "methods that are not there, and what differs, are told and no failure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx := context.Background()
	switch verb {
	case "make-ca":
		ca, err := caller.NewPopCA("interop x509pop CA")
		if err != nil {
			return err
		}
		return ca.Write(o.dir)
	case "record":
		return record(ctx, o)
	case "compare":
		return compare(ctx, o)
	case "badinput":
		return bad(ctx, o)
	case "agent":
		return agent(ctx, o)
	case "rotation":
		from, _, err := place(o)
		if err != nil {
			return err
		}
		return agentflow.Rotation(ctx, agentflow.Options{Target: from, Log: printed}, os.Stdin)
	default:
		fmt.Fprint(os.Stderr, usage)
		return fmt.Errorf("no verb %q", verb)
	}
}

// place reads what is under test and the CA of x509pop certificates, where there is one.
func place(o options) (*target.Target, *caller.PopCA, error) {
	from, err := target.Load(o.cluster)
	if err != nil || o.popDir == "" {
		return from, nil, err
	}
	ca, err := caller.ReadPopCA(o.popDir)
	return from, ca, err
}

func bad(ctx context.Context, o options) error {
	from, ca, err := place(o)
	if err != nil {
		return err
	}
	world, err := conformance.NewWorld(ctx, from, ca)
	if err != nil {
		return err
	}
	defer world.Close()
	fmt.Printf("seed %d, %d inputs for each method\n", o.seed, o.count)
	return badinput.Run(ctx, badinput.Options{
		World: world, Count: o.count, Seed: o.seed, Method: o.method, Only: o.only, MissingOK: o.missingOK,
		Replay: fmt.Sprintf("interop badinput -cluster %s -seed %d", o.cluster, o.seed), Log: printed,
	})
}

func printed(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func agent(ctx context.Context, o options) error {
	from, ca, err := place(o)
	if err != nil {
		return err
	}
	return agentflow.Run(ctx, agentflow.Options{
		Target: from, PopCA: ca, Entries: o.entries, Rounds: o.rounds, Command: o.command, MissingOK: o.missingOK, Settle: o.settle,
		Log: printed,
	})
}

func answers(ctx context.Context, o options) ([]conformance.Answered, error) {
	from, ca, err := place(o)
	if err != nil {
		return nil, err
	}
	world, err := conformance.NewWorld(ctx, from, ca)
	if err != nil {
		return nil, err
	}
	defer world.Close()
	return conformance.Run(ctx, world, conformance.Cases(), o.settle)
}

func record(ctx context.Context, o options) error {
	all, err := answers(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("%d answers recorded\n", len(all))
	return conformance.Write(o.answers, all)
}

func compare(ctx context.Context, o options) error {
	recorded, err := conformance.Read(o.answers)
	if err != nil {
		return err
	}
	accepted, err := conformance.ReadAccepted(o.accepted)
	if err != nil {
		return err
	}
	came, err := answers(ctx, o)
	if err != nil {
		return err
	}
	differences, missing, stale, err := conformance.Compare(recorded, came, accepted)
	if err != nil {
		return err
	}
	for _, d := range differences {
		fmt.Printf("%s (%s, %s)\n    %s\n    recorded: %s\n    came:     %s\n", d.Case, d.Method, d.Caller, d.Path, d.Recorded, d.Came)
	}
	for _, method := range missing {
		fmt.Printf("not there: %s\n", method)
	}
	fmt.Printf("%d calls compared, %d differences, %d methods not there, %d of %d accepted differences seen\n",
		len(came), len(differences), len(missing), len(accepted)-len(stale), len(accepted))
	switch {
	case o.missingOK:
		// What is missing shows in other answers too.
		return nil
	case len(differences) > 0:
		return errors.New("answers differ from the recorded ones")
	case len(missing) > 0:
		return errors.New("methods are missing")
	case len(stale) > 0:
		return fmt.Errorf("accepted differences are no longer there: %+v", stale)
	case len(came) != len(recorded):
		return fmt.Errorf("%d calls were recorded, %d made", len(recorded), len(came))
	}
	return nil
}
