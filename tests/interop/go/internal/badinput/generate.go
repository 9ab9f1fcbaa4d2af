// Package badinput sends every method inputs made from its descriptors: changed,
// cut, too long, with wrong numbers, no UTF-8, or no message at all. Whatever
// comes, a server answers with the right code, keeps its state, and lives.
package badinput

import (
	"bytes"
	"fmt"
	"math"
	"math/rand"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"interop/internal/call"
)

// Generated Go code refuses to send a text that is not UTF-8, so the marker goes
// through it and is replaced on the wire by as many bytes that no text has.
var (
	marker  = "QZ-no-UTF8"
	notUTF8 = []byte{0xff, 0xfe, 0xc0, 0x80, 0xed, 0xa0, 0x80, 0xf8, 0x88, 0xc1}
)

// messageMax is below the 4 MiB that a server takes; one input in a few hundred is
// larger on purpose.
const messageMax = 3 << 20

// Materials are bytes that a server can read, made once for a run.
type Materials struct {
	CSRs         [][]byte
	Certificates [][]byte
	Keys         [][]byte
	// Known are ids of entries that exist.
	Known []string
}

type generator struct {
	random    *rand.Rand
	materials Materials
	domain    string
	method    string
}

// Input is what is sent: one message, or several on a stream.
type Input struct {
	Messages [][]byte
	// Decodes says that every message is one of the method's by protobuf's rules,
	// FirstDecodes that the first one is: a server may end a stream after that.
	Decodes, FirstDecodes bool
}

// Generate makes input number `index` of a method: the same for the same seed.
func Generate(seed int64, method call.Method, index int, domain string, materials Materials) Input {
	hash := uint64(seed)
	for _, letter := range []byte(method.Name) {
		hash = (hash ^ uint64(letter)) * 1099511628211
	}
	source := rand.NewSource(int64(hash ^ uint64(index)*0x9e3779b97f4a7c15)) //nolint:gosec // a seed
	g := &generator{random: rand.New(source), materials: materials, domain: domain, method: method.Name}
	count := 1
	if method.Streams() {
		count = 1 + g.random.Intn(3)
	}
	input := Input{Decodes: true, FirstDecodes: true}
	for i := 0; i < count; i++ {
		wire := g.wire(method)
		for preparing(method) && decodes(method, wire) {
			wire = g.unknown(g.nastyBytes([]byte("no message")))
		}
		if !decodes(method, wire) {
			input.Decodes = false
			input.FirstDecodes = input.FirstDecodes && i > 0
		}
		input.Messages = append(input.Messages, wire)
	}
	return input
}

func decodes(method call.Method, wire []byte) bool {
	return proto.Unmarshal(wire, method.NewRequest()) == nil
}

// preparing says that every message of the method does something that cannot be
// taken back: only what is no message is sent there.
func preparing(method call.Method) bool {
	return strings.HasSuffix(method.Name, "/PrepareX509Authority") || strings.HasSuffix(method.Name, "/PrepareJWTAuthority")
}

func (g *generator) wire(method call.Method) []byte {
	switch g.random.Intn(20) {
	case 0:
		noise := make([]byte, g.random.Intn(200))
		g.random.Read(noise)
		return noise
	case 1:
		return g.unknown(nil)
	}
	message := method.NewRequest()
	g.fill(message.ProtoReflect(), 0)
	for changes := 1 + g.random.Intn(4); changes > 0; changes-- {
		g.mutate(message.ProtoReflect())
	}
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil || len(wire) > messageMax {
		return nil
	}
	wire = bytes.ReplaceAll(wire, []byte(marker), notUTF8)
	if g.random.Intn(4) == 0 {
		wire = g.damage(wire)
	}
	return wire
}

func (g *generator) one(of ...string) string { return of[g.random.Intn(len(of))] }

func (g *generator) bytesOf(of [][]byte) []byte { return of[g.random.Intn(len(of))] }

// fill gives most fields something that could be right.
func (g *generator) fill(message protoreflect.Message, depth int) {
	fields := message.Descriptor().Fields()
	for i := 0; i < fields.Len(); i++ {
		field := fields.Get(i)
		if g.random.Intn(5) == 0 || depth > 4 {
			continue
		}
		switch {
		case field.IsMap():
		case field.IsList():
			list := message.Mutable(field).List()
			for count := 1 + g.random.Intn(3); count > 0; count-- {
				if field.Kind() == protoreflect.MessageKind {
					element := list.NewElement()
					g.fill(element.Message(), depth+1)
					list.Append(element)
				} else {
					list.Append(g.plausible(field))
				}
			}
		case field.Kind() == protoreflect.MessageKind:
			g.fill(message.Mutable(field).Message(), depth+1)
		default:
			message.Set(field, g.plausible(field))
		}
	}
}

func (g *generator) plausible(field protoreflect.FieldDescriptor) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.text(string(field.Name())))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(g.content(string(field.Name())))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.random.Intn(2) == 0)
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(g.random.Intn(values.Len())).Number())
	default:
		return number(field.Kind(), int64(g.random.Intn(1000)))
	}
}

func (g *generator) text(name string) string {
	serial := g.random.Intn(50)
	switch name {
	case "trust_domain", "trust_domains", "federates_with":
		return g.one(g.domain, "other.test", fmt.Sprintf("fuzz-%d.test", serial))
	case "path":
		return g.one(fmt.Sprintf("/fuzz/%d", serial), "/spire/agent/fuzz/x", "/spire/server", "")
	case "id", "ids", "entry_id":
		return g.one(append([]string{fmt.Sprintf("fuzz-%d", serial), "00000000-0000-4000-8000-000000000000"}, g.materials.Known...)...)
	case "dns_names":
		return fmt.Sprintf("fuzz-%d.example.org", serial)
	case "type":
		return g.one("unix", "x509pop", "join_token", "k8s")
	case "page_token":
		return fmt.Sprint(serial)
	case "by_expires_before":
		return "2100-01-01 00:00:00 +0000 +00"
	case "bundle_endpoint_url":
		return "https://fuzz.test/bundle"
	case "endpoint_spiffe_id":
		return "spiffe://fuzz.test/bundle"
	case "signing_algorithm":
		return "ES256"
	default:
		return fmt.Sprintf("fuzz-%d", serial)
	}
}

func (g *generator) content(name string) []byte {
	appends := strings.HasSuffix(g.method, "/AppendBundle") || strings.HasSuffix(g.method, "/PublishJWTAuthority")
	switch {
	case name == "csr":
		return g.bytesOf(g.materials.CSRs)
	// What these two add to the own bundle cannot be taken back: nothing readable.
	case name == "asn1" && !appends:
		return g.bytesOf(g.materials.Certificates)
	case name == "public_key" && !appends:
		return g.bytesOf(g.materials.Keys)
	case name == "payload":
		return []byte(g.one(`{"certificates": ["AAAA"]}`, `{}`, "no-such-token", "{"))
	}
	noise := make([]byte, 1+g.random.Intn(100))
	g.random.Read(noise)
	return noise
}

func number(kind protoreflect.Kind, value int64) protoreflect.Value {
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(value)) //nolint:gosec // cut on purpose
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(value)) //nolint:gosec // cut on purpose
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(value)) //nolint:gosec // cut on purpose
	default:
		return protoreflect.ValueOfInt64(value)
	}
}

// place is a field of some message within the request.
type place struct {
	message protoreflect.Message
	field   protoreflect.FieldDescriptor
}

func places(message protoreflect.Message, into []place, depth int) []place {
	fields := message.Descriptor().Fields()
	for i := 0; i < fields.Len() && depth < 6; i++ {
		field := fields.Get(i)
		into = append(into, place{message, field})
		if field.Kind() != protoreflect.MessageKind || field.IsMap() || !message.Has(field) {
			continue
		}
		if field.IsList() {
			list := message.Mutable(field).List()
			for j := 0; j < list.Len() && j < 3; j++ {
				into = places(list.Get(j).Message(), into, depth+1)
			}
		} else {
			into = places(message.Mutable(field).Message(), into, depth+1)
		}
	}
	return into
}

// mutate makes one field what it should not be.
func (g *generator) mutate(message protoreflect.Message) {
	all := places(message, nil, 0)
	if len(all) == 0 {
		return
	}
	at := all[g.random.Intn(len(all))]
	if g.random.Intn(4) == 0 || at.field.IsMap() {
		at.message.Clear(at.field)
		return
	}
	if at.field.IsList() {
		g.mutateList(at)
		return
	}
	if at.field.Kind() == protoreflect.MessageKind {
		// There, and empty.
		at.message.Set(at.field, at.message.NewField(at.field))
		return
	}
	at.message.Set(at.field, g.nasty(at.field))
}

func (g *generator) mutateList(at place) {
	list := at.message.Mutable(at.field).List()
	count := g.random.Intn(4)
	if g.random.Intn(10) == 0 {
		count = g.random.Intn(500)
	}
	for i := 0; i < count; i++ {
		switch {
		case list.Len() > 0 && i%2 == 0:
			list.Append(list.Get(g.random.Intn(list.Len())))
		case at.field.Kind() == protoreflect.MessageKind:
			list.Append(list.NewElement())
		default:
			list.Append(g.nasty(at.field))
		}
	}
}

func (g *generator) nasty(field protoreflect.FieldDescriptor) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.nastyText())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(g.nastyBytes(g.content(string(field.Name()))))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.random.Intn(2) == 0)
	case protoreflect.EnumKind:
		numbers := []protoreflect.EnumNumber{-1, 99, math.MaxInt32, math.MinInt32}
		return protoreflect.ValueOfEnum(numbers[g.random.Intn(len(numbers))])
	default:
		numbers := []int64{0, -1, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64, 1 << 53, 253402300800, -62135596801}
		return number(field.Kind(), numbers[g.random.Intn(len(numbers))])
	}
}

func (g *generator) nastyText() string {
	switch g.random.Intn(12) {
	case 0:
		return strings.Repeat("a", 1<<g.random.Intn(17))
	case 1:
		return strings.Repeat("/a", g.random.Intn(2000))
	case 2:
		return marker
	case 3:
		return "before" + marker + "after"
	case 4:
		return strings.Repeat("%00", 1+g.random.Intn(10))
	default:
		return g.one("", " ", "\x00", "a\nb", "../../etc/passwd", "/", "//", "/a/../b", "/a/./b", "/a/", "a b", "ü", "*", "*.*", "a..b", "-",
			"spiffe://", "spiffe://example.org", "spiffe://EXAMPLE.org/a", "spiffe://user@example.org/a", "spiffe://example.org:1/a?b#c",
			"http://user:password@[::1]:99999/%zz", "https://", "'; DROP TABLE entries; --", "${jndi:x}", "{{.}}", "18446744073709551616", "-1",
			"1e9", "0x10", "NaN", "null", "\u202e", "\U0010ffff", "xn--", "xn--a.xn--b", "\r\nHost: x", "1.2.3.4")
	}
}

func (g *generator) nastyBytes(from []byte) []byte {
	changed := bytes.Clone(from)
	switch g.random.Intn(6) {
	case 0:
		return nil
	case 1:
		return changed[:g.random.Intn(len(changed)+1)]
	case 2:
		return append(changed, changed...)
	case 3:
		return bytes.Repeat([]byte{byte(g.random.Intn(256))}, 1<<g.random.Intn(17))
	default:
		for count := 1 + g.random.Intn(8); count > 0 && len(changed) > 0; count-- {
			changed[g.random.Intn(len(changed))] ^= 1 << g.random.Intn(8)
		}
		return changed
	}
}

// damage changes the encoded message.
func (g *generator) damage(wire []byte) []byte {
	switch {
	case len(wire) == 0 || g.random.Intn(5) == 0:
		return g.unknown(wire)
	case g.random.Intn(4) == 0:
		return wire[:g.random.Intn(len(wire))]
	case g.random.Intn(4) == 0 && len(wire) < messageMax/2:
		return append(bytes.Clone(wire), wire...)
	default:
		return g.nastyBytes(wire)
	}
}

// unknown appends a field that the message does not have, or has as another type.
func (g *generator) unknown(wire []byte) []byte {
	field := protowire.Number(1 + g.random.Intn(40))
	switch g.random.Intn(4) {
	case 0:
		return protowire.AppendVarint(protowire.AppendTag(wire, field, protowire.VarintType), g.random.Uint64())
	case 1:
		return protowire.AppendFixed32(protowire.AppendTag(wire, field, protowire.Fixed32Type), g.random.Uint32())
	case 2:
		return protowire.AppendBytes(protowire.AppendTag(wire, field, protowire.BytesType), []byte("unknown"))
	default:
		return protowire.AppendTag(wire, field, protowire.StartGroupType)
	}
}
