// Package call reaches every method of a server by its descriptor: the list of
// methods, one way to call each of them, and connections as a stock agent and the
// stock command line make them.
package call

import (
	"fmt"
	"sort"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	debugv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/debug/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	loggerv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/logger/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	trustdomainv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Method is one method of the server API.
type Method struct {
	// Name as in an HTTP/2 path: /package.Service/Method.
	Name string
	// Socket is true where the method is served on the admin socket alone.
	Socket bool

	desc protoreflect.MethodDescriptor
}

// NewRequest makes an empty request.
func (m Method) NewRequest() proto.Message { return fresh(m.desc.Input()) }

// NewResponse makes an empty response.
func (m Method) NewResponse() proto.Message { return fresh(m.desc.Output()) }

// Streams says whether either side sends more than one message.
func (m Method) Streams() bool {
	return m.desc.IsStreamingClient() || m.desc.IsStreamingServer()
}

// Request is the descriptor of the request.
func (m Method) Request() protoreflect.MessageDescriptor { return m.desc.Input() }

func fresh(desc protoreflect.MessageDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(desc.FullName())
	if err != nil {
		panic(fmt.Sprintf("no generated code for %s: %v", desc.FullName(), err))
	}
	return kind.New().Interface()
}

// Methods lists every method of the server API, sorted by name.
func Methods() []Method {
	onSocketOnly := map[string]bool{"Logger": true, "Debug": true, "Health": true}
	files := []protoreflect.FileDescriptor{
		agentv1.File_spire_api_server_agent_v1_agent_proto,
		bundlev1.File_spire_api_server_bundle_v1_bundle_proto,
		debugv1.File_spire_api_server_debug_v1_debug_proto,
		entryv1.File_spire_api_server_entry_v1_entry_proto,
		localauthorityv1.File_spire_api_server_localauthority_v1_localauthority_proto,
		loggerv1.File_spire_api_server_logger_v1_logger_proto,
		svidv1.File_spire_api_server_svid_v1_svid_proto,
		trustdomainv1.File_spire_api_server_trustdomain_v1_trustdomain_proto,
		grpc_health_v1.File_grpc_health_v1_health_proto,
	}
	var methods []Method
	for _, file := range files {
		for s := 0; s < file.Services().Len(); s++ {
			service := file.Services().Get(s)
			for m := 0; m < service.Methods().Len(); m++ {
				desc := service.Methods().Get(m)
				methods = append(methods, Method{
					Name:   fmt.Sprintf("/%s/%s", service.FullName(), desc.Name()),
					Socket: onSocketOnly[string(service.Name())],
					desc:   desc,
				})
			}
		}
	}
	sort.Slice(methods, func(i, j int) bool { return methods[i].Name < methods[j].Name })
	return methods
}

// Find looks a method up by "Service/Method"; a name that is none is a mistake in
// this program.
func Find(short string) Method {
	for _, method := range Methods() {
		name := method.Name
		if len(name) > len(short) && name[len(name)-len(short):] == short && (name[len(name)-len(short)-1] == '.' || name[len(name)-len(short)-1] == '/') {
			return method
		}
	}
	panic("no method " + short)
}
