// Package conformance calls every method of the server API with good and bad input
// as every kind of caller, and compares what comes back with what SPIRE's own server
// answered to the same calls in the same order.
package conformance

// Callers by the names that cases use.
const (
	Local        = "local"           // admin socket
	Anonymous    = "anonymous"       // agent port, no certificate
	Workload     = "workload"        // an SVID without any right
	Agent        = "agent"           // attested by join token
	PopAgent     = "x509pop agent"   // attested by x509pop, may re-attest
	Banned       = "banned agent"    // its SVID is still valid
	Evicted      = "evicted agent"   // its SVID is still valid
	Downstream   = "downstream"      // by its entry
	Admin        = "admin"           // by configuration
	AdminByEntry = "admin by entry"  // by its entry
	OldSerial    = "agent, old SVID" // renewed, and the new SVID is in use
)

// callers in the order of the matrix.
var callers = []string{Local, Anonymous, Workload, Agent, PopAgent, Banned, Evicted, Downstream, Admin, AdminByEntry, OldSerial}

// Case is one call. Requests are protobuf JSON with this shorthand for strings:
//
//	"@/path"           SPIFFE ID of the own trust domain
//	"@other.test/path" SPIFFE ID of another
//	"$csr [ID [DNS…]]" certificate request of a new key
//	"$csr-bad ID"      the same with a broken signature
//	"$cert NAME"       self-signed certificate, the same for the same name
//	"$certs NAME NAME" two of them in one value
//	"$key NAME"        PKIX public key, the same for the same name
//	"$long N"          N letters
//	"$saved NAME"      what an earlier case saved
type Case struct {
	Name   string
	Caller string
	Method string
	// Requests has one message; for a stream one after the other.
	Requests []string
	// Save keeps values of the last response: name to path.
	Save map[string]string
	// Settle says that the server's caches must know what was written before.
	Settle bool
	// Unordered says that the order of what is listed means nothing.
	Unordered bool
	// Pop names the proof of an x509pop attestation, instead of Requests.
	Pop string
	// CodeOnly leaves the responses out.
	CodeOnly bool
}

func one(name, caller, method, request string) Case {
	return Case{Name: name, Caller: caller, Method: method, Requests: []string{request}}
}

func (c Case) saving(name, path string) Case {
	c.Save = map[string]string{name: path}
	return c
}

func (c Case) settled() Case {
	c.Settle = true
	return c
}

func (c Case) unordered() Case {
	c.Unordered = true
	return c
}

// Cases lists every case in the order in which they run: later ones see what
// earlier ones wrote.
func Cases() []Case {
	var all []Case
	for _, group := range [][]Case{
		healthCases(), loggerCases(), debugCases(),
		agentCases(), entryCases(), authorizedCases(), bundleCases(), trustDomainCases(),
		svidCases(), matrix(), authorityCases(),
	} {
		all = append(all, group...)
	}
	return all
}
