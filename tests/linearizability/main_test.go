package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// at writes a history: "call-return op(arg)=result" a line, "-" for no return.
func at(t *testing.T, model, history string) Verdict {
	t.Helper()
	var lines bytes.Buffer
	for n, line := range strings.Split(strings.TrimSpace(history), "\n") {
		times, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		call, back, _ := strings.Cut(times, "-")
		what, result, _ := strings.Cut(rest, ")=")
		op, arg, _ := strings.Cut(what, "(")
		if back == "" {
			back = "null"
		}
		fmt.Fprintf(&lines, `{"object":"x","model":%q,"client":%d,"call":%s,"return":%s,"op":%q,"arg":%q,"result":%q}`+"\n",
			model, n, call, back, op, arg, result)
	}
	var out bytes.Buffer
	if err := run(&lines, &out, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	var verdict Verdict
	if err := json.Unmarshal(out.Bytes(), &verdict); err != nil {
		t.Fatal(err)
	}
	return verdict
}

func TestHistories(t *testing.T) {
	cases := []struct{ name, model, verdict, history string }{
		{"a read after a write sees it", "entry", "legal", `
			1-2 create(a)=a@0
			3-4 read()=a@0`},
		{"a stale read", "entry", "illegal", `
			1-2 create(a)=a@0
			3-4 update(b)=b@1
			5-6 read()=a@0`},
		{"a read beside a write may see either", "entry", "legal", `
			1-2 create(a)=a@0
			3-8 update(b)=b@1
			4-5 read()=a@0
			6-7 read()=b@1`},
		{"but not go back", "entry", "illegal", `
			1-2 create(a)=a@0
			3-8 update(b)=b@1
			4-5 read()=b@1
			6-7 read()=a@0`},
		{"an unknown write may take effect late", "entry", "legal", `
			1- create(a)=?
			3-4 read()=absent
			5-6 read()=a@0`},
		{"an unknown write may never take effect", "entry", "legal", `
			1- create(a)=?
			3-4 create(b)=b@0
			5-6 read()=b@0`},
		{"an unknown write takes effect once", "entry", "illegal", `
			1- create(a)=?
			3-4 read()=a@0
			5-6 delete()=done
			7-8 read()=a@0`},
		{"a lost write", "entry", "illegal", `
			1-2 create(a)=a@0
			3-4 read()=absent`},
		{"an update applied twice", "entry", "illegal", `
			1-2 create(a)=a@0
			3-4 update(b)=b@2`},
		{"a token has one winner", "token", "legal", `
			1-4 redeem()=used
			1-5 redeem()=won`},
		{"not two", "token", "illegal", `
			1-4 redeem()=won
			1-5 redeem()=won`},
		{"nor none", "token", "illegal", `
			1-4 redeem()=used
			1-5 redeem()=used`},
		{"but perhaps one that was not told", "token", "legal", `
			1-4 redeem()=used
			1- redeem()=?`},
		{"no renewal after a ban", "agent", "illegal", `
			1-2 ban()=done
			3-4 renew()=done`},
		{"no denial before a ban", "agent", "illegal", `
			1-2 renew()=banned
			3-4 ban()=done`},
		{"a denial of another kind", "agent", "illegal", `
			1-2 renew()=not active`},
		{"a ban beside a renewal", "agent", "legal", `
			1-6 ban()=done
			2-3 renew()=done
			4-5 renew()=banned
			7-8 read()=banned`},
		{"a rotation", "authority", "legal", `
			1-2 read()=a||
			3-4 prepare()=b
			5-6 activate(b)=done
			7-8 read()=b||a
			9-10 taint(a)=done
			11-12 revoke(a)=done
			13-14 read()=b||`},
		{"two activations of one authority", "authority", "illegal", `
			1-2 read()=a||
			3-4 prepare()=b
			5-8 activate(b)=done
			5-8 activate(b)=done`},
		{"a state that was left", "authority", "illegal", `
			1-2 read()=a|b|
			5-6 activate(b)=done
			7-8 read()=a|b|`},
		{"an authority that nobody was told of", "authority", "legal", `
			1-2 read()=a||
			3- prepare()=?
			5-6 read()=a||
			7-8 read()=a|b|
			9- activate(b)=?
			11-12 read()=b||a`},
		{"is one", "authority", "illegal", `
			1-2 read()=a||
			3- prepare()=?
			7-8 read()=a|b|
			9-10 read()=a|c|`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			verdict := at(t, c.model, c.history)
			if verdict.Verdict != c.verdict {
				t.Errorf("%+v, want %s", verdict, c.verdict)
			}
			if (len(verdict.History) > 0) != (c.verdict == "illegal") {
				t.Errorf("what is illegal is told, and only that: %q", verdict.History)
			}
		})
	}
}

func TestWhatIsNoHistoryIsRefused(t *testing.T) {
	for _, line := range []string{
		`{`,
		`{"object":"x","model":"no such","call":1,"return":2,"result":"done"}`,
		`{"object":"x","model":"token","call":1,"result":"won"}`,
	} {
		if err := run(strings.NewReader(line), &bytes.Buffer{}, time.Second); err == nil {
			t.Errorf("accepted: %s", line)
		}
	}
}
