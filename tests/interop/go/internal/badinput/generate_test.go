package badinput

import (
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"interop/internal/call"
)

func TestASeedGivesTheSameInputs(t *testing.T) {
	materials, err := makeMaterials()
	if err != nil {
		t.Fatal(err)
	}
	differ, undecodable := 0, 0
	for _, method := range call.Methods() {
		for index := 0; index < 50; index++ {
			one := Generate(7, method, index, "example.org", materials)
			if !reflect.DeepEqual(one, Generate(7, method, index, "example.org", materials)) {
				t.Fatalf("%s, input %d differs from itself", method.Name, index)
			}
			if !reflect.DeepEqual(one, Generate(8, method, index, "example.org", materials)) {
				differ++
			}
			if !one.Decodes {
				undecodable++
			}
			if preparing(method) && one.Decodes {
				t.Fatalf("%s, input %d would be carried out", method.Name, index)
			}
		}
	}
	if differ < 1000 || undecodable < 100 {
		t.Errorf("%d inputs differ by the seed, %d are no messages", differ, undecodable)
	}
}

func TestWrongAnswersAreFound(t *testing.T) {
	decodes := Input{Decodes: true, FirstDecodes: true}
	noMessage := Input{}
	for _, wrong := range []struct {
		input   Input
		code    codes.Code
		message string
	}{
		{decodes, codes.Internal, "something broke"},
		{decodes, codes.Unknown, ""},
		{decodes, codes.Unavailable, ""},
		{decodes, codes.DeadlineExceeded, ""},
		{decodes, codes.Internal, "failed to decode Protobuf message: x"},
		{noMessage, codes.OK, ""},
	} {
		outcome := call.Outcome{Status: status.New(wrong.code, wrong.message)}
		if judge("Entry/GetEntry", wrong.input, outcome, false) == nil {
			t.Errorf("%v is taken for right", wrong)
		}
	}
	outcome := call.Outcome{Status: status.New(codes.Internal, "failed to decode Protobuf message: x")}
	if err := judge("Entry/GetEntry", noMessage, outcome, false); err != nil {
		t.Error(err)
	}
}
