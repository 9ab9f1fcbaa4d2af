// Package answer turns what a call brought into a record that two servers can be
// compared by: ids, times, serials, keys and documents become what is always the
// same about them.
package answer

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"

	"interop/internal/call"
	"interop/internal/document"
)

// Record is an outcome without what differs from run to run.
type Record struct {
	Code      string `json:"code"`
	Message   string `json:"message,omitempty"`
	Details   []any  `json:"details,omitempty"`
	Responses []any  `json:"responses,omitempty"`
}

// Mask makes records.
type Mask struct {
	// TrustDomain is the server's: its own bundle's sequence number is not compared.
	TrustDomain string
	// Names replaces values that were saved from earlier answers by their names.
	Names map[string]string
	// Now is the time of the call.
	Now time.Time
	// Unordered lists are sorted: the server promises no order.
	Unordered bool
}

var (
	uuid       = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	identifier = regexp.MustCompile(`\b[0-9a-f]{40}\b`)
	serial     = regexp.MustCompile(`\bserialnumber:[0-9a-f]+\b`)
	keyID      = regexp.MustCompile(`^[A-Za-z0-9]{32}$`)
	timestamp  = regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z`)
)

// Record makes the record of an outcome.
func (m Mask) Record(outcome call.Outcome) Record {
	record := Record{Code: outcome.Status.Code().String(), Message: m.Text(outcome.Status.Message())}
	for _, detail := range outcome.Status.Details() {
		if message, ok := detail.(proto.Message); ok {
			record.Details = append(record.Details, map[string]any{string(message.ProtoReflect().Descriptor().FullName()): m.message(message.ProtoReflect())})
		} else {
			record.Details = append(record.Details, fmt.Sprint(detail))
		}
	}
	for _, response := range outcome.Responses {
		record.Responses = append(record.Responses, m.message(response.ProtoReflect()))
	}
	return record
}

// Text masks what differs within a text.
func (m Mask) Text(text string) string {
	if name, saved := m.Names[text]; saved && text != "" {
		return "<" + name + ">"
	}
	values := make([]string, 0, len(m.Names))
	for value := range m.Names {
		values = append(values, value)
	}
	sort.Slice(values, func(i, j int) bool { return len(values[i]) > len(values[j]) })
	for _, value := range values {
		if len(value) >= 16 {
			text = strings.ReplaceAll(text, value, "<"+m.Names[value]+">")
		}
	}
	if len(text) > 200 && strings.Count(text, text[:1]) == len(text) {
		return fmt.Sprintf("<%d times %q>", len(text), text[:1])
	}
	text = uuid.ReplaceAllString(text, "<uuid>")
	text = serial.ReplaceAllString(text, "serialnumber:<hex>")
	text = timestamp.ReplaceAllString(text, "<time>")
	return identifier.ReplaceAllString(text, "<40 hex digits>")
}

func (m Mask) message(message protoreflect.Message) any {
	if message.Descriptor().FullName() == "google.protobuf.Any" {
		return m.any(message)
	}
	if id, ok := message.Interface().(*types.SPIFFEID); ok {
		return m.Text("spiffe://" + id.GetTrustDomain() + id.GetPath())
	}
	fields := map[string]any{}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.IsList() {
			var items []any
			for i := 0; i < value.List().Len(); i++ {
				items = append(items, m.value(message, field, value.List().Get(i)))
			}
			// Selectors and trust domains are sets.
			set := field.Name() == "selectors" || field.Name() == "federates_with"
			if set || m.Unordered && field.Kind() == protoreflect.MessageKind {
				sort.Slice(items, func(i, j int) bool { return fmt.Sprint(items[i]) < fmt.Sprint(items[j]) })
			}
			fields[string(field.Name())] = items
		} else if field.IsMap() {
			fields[string(field.Name())] = fmt.Sprintf("<map of %d>", value.Map().Len())
		} else {
			fields[string(field.Name())] = m.value(message, field, value)
		}
		return true
	})
	return fields
}

func (m Mask) any(message protoreflect.Message) any {
	wrapped, ok := message.Interface().(*anypb.Any)
	if !ok {
		return "<any>"
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByURL(wrapped.GetTypeUrl())
	if err != nil {
		return wrapped.GetTypeUrl()
	}
	inner := kind.New().Interface()
	if err := proto.Unmarshal(wrapped.GetValue(), inner); err != nil {
		return "unreadable " + wrapped.GetTypeUrl()
	}
	return m.message(inner.ProtoReflect())
}

func (m Mask) value(of protoreflect.Message, field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch field.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return m.message(value.Message())
	case protoreflect.BytesKind:
		return m.bytes(field, value.Bytes())
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return string(known.Name())
		}
		return int(value.Enum())
	case protoreflect.StringKind:
		return m.string(field, value.String())
	case protoreflect.BoolKind:
		return value.Bool()
	default:
		return m.number(of, field, value)
	}
}

func (m Mask) bytes(field protoreflect.FieldDescriptor, value []byte) any {
	switch field.Name() {
	case "asn1", "cert_chain", "ca_cert_chain", "x509_authorities":
		return m.texts(document.Certificates(value))
	case "public_key":
		return document.PublicKey(value)
	case "challenge":
		return "<challenge>"
	default:
		return hex.EncodeToString(value)
	}
}

// texts masks every text of a summary.
func (m Mask) texts(summary any) any {
	switch node := summary.(type) {
	case string:
		return m.Text(node)
	case []string:
		masked := make([]string, 0, len(node))
		for _, text := range node {
			masked = append(masked, m.Text(text))
		}
		return masked
	case []any:
		for i := range node {
			node[i] = m.texts(node[i])
		}
	case map[string]any:
		for name := range node {
			node[name] = m.texts(node[name])
		}
	}
	return summary
}

func (m Mask) string(field protoreflect.FieldDescriptor, value string) any {
	switch field.Name() {
	case "token":
		return document.JWT(value, m.Now)
	case "x509svid_serial_number":
		if strings.Trim(value, "0123456789") == "" {
			return "<decimal>"
		}
	case "key_id", "authority_id":
		if keyID.MatchString(value) && m.Names[value] == "" {
			return "<32 characters>"
		}
	case "next_page_token":
		return "<token>"
	case "subject":
		return regexp.MustCompile(`SERIALNUMBER=[0-9]+`).ReplaceAllString(value, "SERIALNUMBER=<decimal>")
	}
	return m.Text(value)
}

func (m Mask) number(of protoreflect.Message, field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch field.Name() {
	case "expires_at", "issued_at", "created_at", "x509svid_expires_at":
		// Where a caller chose the time it is far from now and stays as it is.
		const week = 7 * 24 * 3600
		if delta := value.Int() - m.Now.Unix(); delta > -week && delta < week {
			return document.Near(value.Int(), m.Now)
		}
	case "sequence_number":
		if bundle, ok := of.Interface().(*types.Bundle); ok && bundle.GetTrustDomain() == m.TrustDomain {
			return "<number>"
		}
	case "uptime":
		return "<seconds>"
	}
	return value.Interface()
}
