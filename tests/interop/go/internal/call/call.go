package call

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// responsesMax bounds what one call may bring: no server answers more to what is
// asked here.
const responsesMax = 1000

// Outcome is what a call brought.
type Outcome struct {
	Status    *status.Status
	Responses []proto.Message
}

// OK says whether the call succeeded.
func (o Outcome) OK() bool { return o.Status.Code() == codes.OK }

// Script gives the requests of a call one after the other: it is shown the last
// response (nil before the first) and returns nil when there is no more to say.
type Script func(last proto.Message) (proto.Message, error)

// Once sends one request.
func Once(request proto.Message) Script { return Each(request) }

// Each sends the requests in order, each after the response to the one before.
func Each(requests ...proto.Message) Script {
	return func(proto.Message) (proto.Message, error) {
		if len(requests) == 0 {
			return nil, nil
		}
		next := requests[0]
		requests = requests[1:]
		return next, nil
	}
}

// Do calls a method. The error is the script's; what the server says is in the
// outcome.
func Do(ctx context.Context, conn grpc.ClientConnInterface, method Method, script Script) (Outcome, error) {
	request, err := script(nil)
	if err != nil {
		return Outcome{}, err
	}
	if !method.Streams() {
		response := method.NewResponse()
		if err := conn.Invoke(ctx, method.Name, request, response); err != nil {
			return Outcome{Status: status.Convert(err)}, nil
		}
		return Outcome{Status: status.New(codes.OK, ""), Responses: []proto.Message{response}}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	desc := &grpc.StreamDesc{
		ClientStreams: method.desc.IsStreamingClient(),
		ServerStreams: method.desc.IsStreamingServer(),
	}
	stream, err := conn.NewStream(ctx, desc, method.Name)
	if err != nil {
		return Outcome{Status: status.Convert(err)}, nil
	}
	var outcome Outcome
	receive := func() (proto.Message, error) {
		response := method.NewResponse()
		if err := stream.RecvMsg(response); err != nil {
			if !errors.Is(err, io.EOF) {
				outcome.Status = status.Convert(err)
			} else {
				outcome.Status = status.New(codes.OK, "")
			}
			return nil, err
		}
		outcome.Responses = append(outcome.Responses, response)
		if len(outcome.Responses) > responsesMax {
			return nil, errors.New("too many responses")
		}
		return response, nil
	}
	for request != nil {
		// A server that has ended the call says why to the receiving side only.
		if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
			outcome.Status = status.Convert(err)
			return outcome, nil
		}
		if !desc.ClientStreams {
			break
		}
		last, err := receive()
		if err != nil {
			return outcome, nil
		}
		if request, err = script(last); err != nil {
			return outcome, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return outcome, err
	}
	for {
		if _, err := receive(); err != nil {
			if outcome.Status == nil {
				return outcome, err
			}
			return outcome, nil
		}
	}
}
