package conformance

import (
	"strings"

	"interop/internal/call"
)

// matrix calls every method as every kind of caller with an empty request: who may
// call what, and in which words it is said. What an allowed call brings is left to
// the other cases.
func matrix() []Case {
	var cases []Case
	for _, method := range call.Methods() {
		short := method.Name[strings.LastIndex(method.Name, ".")+1:]
		for _, who := range callers {
			if acts(method.Name) && (who == Local || who == Admin || who == AdminByEntry) {
				continue
			}
			if strings.HasPrefix(method.Name, "/grpc.health") {
				short = "Health/" + method.Name[strings.LastIndex(method.Name, "/")+1:]
			}
			cases = append(cases, Case{
				Name: short + " as " + who, Caller: who, Method: short, Requests: []string{`{}`}, CodeOnly: true,
			})
		}
	}
	return cases
}

// acts says that an empty request is all that the method needs: who may call it has
// cases of its own.
func acts(method string) bool {
	return strings.HasSuffix(method, "/PrepareX509Authority") || strings.HasSuffix(method, "/PrepareJWTAuthority")
}
