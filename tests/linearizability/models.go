package main

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"
)

// unknown is the result of an operation that may or may not have taken effect.
const unknown = "?"

// models by name. A result that a model does not name is never legal.
var models = map[string]porcupine.Model{
	"entry":     model(entry{}, stepEntry),
	"token":     model(token{}, stepToken),
	"agent":     model(agent{}, stepAgent),
	"authority": model(authority{}, stepAuthority),
}

// model makes a Porcupine model of a first state and a step; states are compared by ==.
func model[S comparable](first S, step func(S, Operation) (bool, S)) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return first },
		Step: func(state, input, _ any) (bool, any) {
			return step(state.(S), input.(Operation))
		},
		Equal: func(a, b any) bool { return a.(S) == b.(S) },
	}
}

// entry is one registration entry under an id that the clients chose.
type entry struct {
	present  bool
	value    string
	revision int64
}

func (e entry) told() string { return fmt.Sprintf("%s@%d", e.value, e.revision) }

func stepEntry(e entry, op Operation) (bool, entry) {
	after := e
	switch op.Op {
	case "read":
		if e.present {
			return op.Result == e.told(), e
		}
		return op.Result == "absent", e
	case "create":
		if e.present {
			return op.Result == "exists" || op.Result == unknown, e
		}
		after = entry{present: true, value: op.Arg}
	case "update":
		if !e.present {
			return op.Result == "absent" || op.Result == unknown, e
		}
		after = entry{present: true, value: op.Arg, revision: e.revision + 1}
	case "delete":
		if !e.present {
			return op.Result == "absent" || op.Result == unknown, e
		}
		return op.Result == "done" || op.Result == unknown, entry{}
	default:
		return false, e
	}
	return op.Result == after.told() || op.Result == unknown, after
}

// token is a join token; it is made before its history begins.
type token struct{ used bool }

func stepToken(t token, op Operation) (bool, token) {
	if op.Op != "redeem" {
		return false, t
	}
	if t.used {
		return op.Result == "used" || op.Result == unknown, t
	}
	return op.Result == "won" || op.Result == unknown, token{used: true}
}

// agent is an attested agent, banned once and for ever.
type agent struct{ banned bool }

func stepAgent(a agent, op Operation) (bool, agent) {
	switch op.Op {
	case "ban":
		return op.Result == "done" || op.Result == unknown, agent{banned: true}
	case "renew":
		want := "done"
		if a.banned {
			want = "banned"
		}
		return op.Result == want || op.Result == unknown, a
	case "read":
		return op.Result == map[bool]string{false: "active", true: "banned"}[a.banned], a
	}
	return false, a
}

// authority is the slot of the JWT authorities that the nodes share. A history begins
// with a read, which says what was there before. What is there without anybody having
// been told, a prepared authority or the old one below a revoked one, is called "*"
// until a read tells it.
type authority struct {
	begun                 bool
	active, prepared, old string
	tainted               bool
	revoked               string
}

const nobodyKnows = "*"

// told is what a read shows: no taint, and nothing of what was revoked.
func (a authority) told() string { return strings.Join([]string{a.active, a.prepared, a.old}, "|") }

// isNew says whether an id is none of those that were told.
func (a authority) isNew(id string) bool {
	return id != a.active && id != a.prepared && id != a.old && id != a.revoked
}

func stepAuthority(a authority, op Operation) (bool, authority) {
	not := op.Result == "refused" || op.Result == unknown
	done := op.Result == "done" || op.Result == unknown
	switch op.Op {
	case "read":
		parts := strings.Split(op.Result, "|")
		if len(parts) != 3 {
			return false, a
		}
		if !a.begun {
			return true, authority{begun: true, active: parts[0], prepared: parts[1], old: parts[2]}
		}
		if a.prepared == nobodyKnows && parts[1] != "" && a.isNew(parts[1]) {
			a.prepared = parts[1]
		}
		if a.old == nobodyKnows && (parts[2] == "" || a.isNew(parts[2])) {
			a.old = parts[2]
		}
		return op.Result == a.told(), a
	case "prepare":
		if op.Result == "refused" {
			return true, a
		}
		a.prepared = nobodyKnows
		if op.Result != unknown {
			a.prepared = op.Result
		}
		return true, a
	case "activate":
		if a.prepared == nobodyKnows && a.isNew(op.Arg) {
			a.prepared = op.Arg
		}
		if a.prepared != op.Arg {
			return not, a
		}
		return done, authority{begun: true, active: op.Arg, old: a.active}
	case "taint":
		if a.old != op.Arg || a.tainted {
			return not, a
		}
		a.tainted = true
		return done, a
	case "revoke":
		if a.old != op.Arg || !a.tainted {
			return not, a
		}
		a.old, a.tainted, a.revoked = nobodyKnows, false, op.Arg
		return done, a
	}
	return false, a
}
