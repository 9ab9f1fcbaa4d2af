package caller

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"interop/internal/call"
)

// Attested is what attestation gives an agent.
type Attested struct {
	SVID         *x509svid.SVID
	Reattestable bool
}

// Attest runs a script of attestation over an unauthenticated connection.
func Attest(ctx context.Context, conn grpc.ClientConnInterface, key *ecdsa.PrivateKey, script call.Script) (*Attested, error) {
	outcome, err := call.Do(ctx, conn, call.Find("Agent/AttestAgent"), script)
	if err != nil {
		return nil, err
	}
	if !outcome.OK() {
		return nil, outcome.Status.Err()
	}
	last, ok := outcome.Responses[len(outcome.Responses)-1].(*agentv1.AttestAgentResponse)
	if !ok || last.GetResult() == nil {
		return nil, errors.New("attestation ended without a result")
	}
	svid, err := SVID(last.GetResult().GetSvid().GetCertChain(), key)
	if err != nil {
		return nil, err
	}
	return &Attested{SVID: svid, Reattestable: last.GetResult().GetReattestable()}, nil
}

// Params is the first message of an attestation.
func Params(kind string, payload, csr []byte) *agentv1.AttestAgentRequest {
	return &agentv1.AttestAgentRequest{
		Step: &agentv1.AttestAgentRequest_Params_{
			Params: &agentv1.AttestAgentRequest_Params{
				Data:   &types.AttestationData{Type: kind, Payload: payload},
				Params: &agentv1.AgentX509SVIDParams{Csr: csr},
			},
		},
	}
}

// JoinToken attests with a token.
func JoinToken(token string, csr []byte) call.Script {
	return call.Once(Params("join_token", []byte(token), csr))
}

type popPayload struct {
	Certificates [][]byte `json:"certificates"`
}

type popSignature struct {
	Nonce     []byte `json:"nonce"`
	Signature []byte `json:"signature,omitempty"`
	R         []byte `json:"r,omitempty"`
	S         []byte `json:"s,omitempty"`
}

type popMessage struct {
	RSA   *popSignature `json:"rsa_signature"`
	ECDSA *popSignature `json:"ecdsa_signature"`
}

// PopPayload is what an x509pop agent sends first.
func PopPayload(chain [][]byte) []byte {
	payload, err := json.Marshal(popPayload{Certificates: chain})
	if err != nil {
		panic(err) // bytes always marshal
	}
	return payload
}

// X509Pop attests with a certificate chain and proves that it has the leaf's key.
func X509Pop(chain [][]byte, key crypto.Signer, csr []byte) call.Script {
	first := true
	return func(last proto.Message) (proto.Message, error) {
		if first {
			first = false
			return Params("x509pop", PopPayload(chain), csr), nil
		}
		response, ok := last.(*agentv1.AttestAgentResponse)
		if !ok || response.GetChallenge() == nil {
			return nil, nil
		}
		answer, err := popAnswer(response.GetChallenge(), key)
		if err != nil {
			return nil, err
		}
		return &agentv1.AttestAgentRequest{
			Step: &agentv1.AttestAgentRequest_ChallengeResponse{ChallengeResponse: answer},
		}, nil
	}
}

func popAnswer(challenge []byte, key crypto.Signer) ([]byte, error) {
	var asked popMessage
	if err := json.Unmarshal(challenge, &asked); err != nil {
		return nil, fmt.Errorf("the challenge is not JSON: %w", err)
	}
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	digest := func(asked *popSignature) ([]byte, error) {
		if asked == nil || len(asked.Nonce) != 32 {
			return nil, errors.New("the challenge is not for this kind of key, or its nonce is not 32 bytes")
		}
		sum := sha256.Sum256(append(append([]byte{}, asked.Nonce...), nonce...))
		return sum[:], nil
	}
	var answer popMessage
	switch key := key.(type) {
	case *rsa.PrivateKey:
		sum, err := digest(asked.RSA)
		if err != nil {
			return nil, err
		}
		signature, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, sum, nil)
		if err != nil {
			return nil, err
		}
		answer.RSA = &popSignature{Nonce: nonce, Signature: signature}
	case *ecdsa.PrivateKey:
		sum, err := digest(asked.ECDSA)
		if err != nil {
			return nil, err
		}
		r, s, err := ecdsa.Sign(rand.Reader, key, sum)
		if err != nil {
			return nil, err
		}
		answer.ECDSA = &popSignature{Nonce: nonce, R: r.Bytes(), S: s.Bytes()}
	default:
		return nil, fmt.Errorf("x509pop has no place for a %T", key)
	}
	return json.Marshal(answer)
}
