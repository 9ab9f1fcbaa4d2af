package badinput

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"interop/internal/call"
)

// rawCodec sends bytes as they are and reads messages.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(value any) ([]byte, error) {
	if raw, ok := value.([]byte); ok {
		return raw, nil
	}
	return nil, fmt.Errorf("%T is sent", value)
}

func (rawCodec) Unmarshal(data []byte, value any) error {
	if message, ok := value.(proto.Message); ok {
		return proto.Unmarshal(data, message)
	}
	return fmt.Errorf("%T is received", value)
}

// send calls a method with what is meant to be messages.
func send(ctx context.Context, conn *grpc.ClientConn, method call.Method, input Input) call.Outcome {
	codec := grpc.ForceCodec(rawCodec{})
	if !method.Streams() {
		response := method.NewResponse()
		if err := conn.Invoke(ctx, method.Name, input.Messages[0], response, codec); err != nil {
			return call.Outcome{Status: status.Convert(err)}
		}
		return call.Outcome{Status: status.New(codes.OK, ""), Responses: []proto.Message{response}}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method.Name, codec)
	if err != nil {
		return call.Outcome{Status: status.Convert(err)}
	}
	for _, message := range input.Messages {
		if err := stream.SendMsg(message); err != nil {
			break // why is told to the receiving side
		}
	}
	_ = stream.CloseSend()
	var responses []proto.Message
	for {
		response := method.NewResponse()
		err := stream.RecvMsg(response)
		switch {
		case errors.Is(err, io.EOF):
			return call.Outcome{Status: status.New(codes.OK, ""), Responses: responses}
		case err != nil:
			return call.Outcome{Status: status.Convert(err), Responses: responses}
		}
		responses = append(responses, response)
	}
}
