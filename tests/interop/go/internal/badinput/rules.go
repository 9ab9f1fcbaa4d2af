package badinput

import (
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"

	"interop/internal/call"
)

// Codes that any method may answer bad input with. OK is among them: a change may
// leave a request right.
var anywhere = []codes.Code{codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition}

// Further codes of single methods.
var further = map[string][]codes.Code{
	"Agent/AttestAgent":                   {codes.PermissionDenied},
	"Bundle/GetBundle":                    {codes.OutOfRange},        // more than 4 KiB of mask
	"SVID/BatchNewX509SVID":               {codes.ResourceExhausted}, // more than the limiter's burst in one call
	"SVID/BatchNewWITSVID":                {codes.Unimplemented, codes.ResourceExhausted},
	"SVID/MintWITSVID":                    {codes.Unimplemented},
	"Bundle/PublishWITAuthority":          {codes.Unimplemented},
	"LocalAuthority/GetWITAuthorityState": {codes.Unimplemented},
	"LocalAuthority/PrepareWITAuthority":  {codes.Unimplemented},
	"LocalAuthority/ActivateWITAuthority": {codes.Unimplemented},
	"LocalAuthority/TaintWITAuthority":    {codes.Unimplemented},
	"LocalAuthority/RevokeWITAuthority":   {codes.Unimplemented},
	"Health/List":                         {codes.Unimplemented},
	"Health/Watch":                        {codes.Unimplemented},
}

// Texts that SPIRE says with code Internal to what is the caller's mistake; clients
// know them so.
var internal = regexp.MustCompile(strings.Join([]string{
	`could not parse token '`,
	`unhandled (selectors |federates with |trust domains )?match behavior`,
	`cannot list by empty selectors? set`,
	`unable to find federated bundle`,
	`failed to create token`,
	`invalid JWT-SVID audience`,
	`failed to (create|update) federation relationship`,
	`WIT key is not available`,
}, "|"))

// undecodable is what gRPC servers say of bytes that are no message, with code
// Internal as gRPC has it.
var undecodable = regexp.MustCompile(`(?i)failed to decode|unmarshal`)

// A field of another wire type than the descriptor's is an unknown field to Go, and
// an error to other readers of protobuf.
var wrongType = regexp.MustCompile(`invalid wire type`)

// absent is what a method says that is not there.
var absent = regexp.MustCompile(`is not implemented by this server`)

// judge says what is wrong with an outcome; nil: nothing.
func judge(short string, input Input, outcome call.Outcome, missingOK bool) error {
	code, message := outcome.Status.Code(), outcome.Status.Message()
	if missingOK && code == codes.Unimplemented && absent.MatchString(message) {
		return nil
	}
	if code == codes.Internal && undecodable.MatchString(message) {
		if input.Decodes && !wrongType.MatchString(message) {
			return fmt.Errorf("a message that protobuf takes is refused as none: %s", message)
		}
		return nil
	}
	if !input.FirstDecodes && code == codes.OK {
		return fmt.Errorf("what is no message is taken for one")
	}
	if err := allowed(short, code, message); err != nil {
		return err
	}
	for _, response := range outcome.Responses {
		if err := statuses(short, response.ProtoReflect()); err != nil {
			return err
		}
	}
	return nil
}

func allowed(short string, code codes.Code, message string) error {
	for _, one := range append(anywhere, further[short]...) {
		if code == one {
			return nil
		}
	}
	if code == codes.Internal && internal.MatchString(message) {
		return nil
	}
	return fmt.Errorf("answered %s: %s", code, message)
}

// statuses holds the status of each item of a batch to the same rules; a result
// without one would end a stock agent.
func statuses(short string, message protoreflect.Message) error {
	var wrong error
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Name() != "results" || !field.IsList() {
			return true
		}
		for i := 0; i < value.List().Len() && wrong == nil; i++ {
			result := value.List().Get(i).Message()
			at := result.Descriptor().Fields().ByName("status")
			if at == nil {
				continue
			}
			if !result.Has(at) {
				wrong = fmt.Errorf("result %d has no status", i)
				continue
			}
			if status, ok := result.Get(at).Message().Interface().(*types.Status); ok {
				if err := allowed(short, codes.Code(status.GetCode()), status.GetMessage()); err != nil { //nolint:gosec // codes are small
					wrong = fmt.Errorf("result %d: %w", i, err)
				}
			}
		}
		return wrong == nil
	})
	return wrong
}
