package conformance

// Selectors and ids that the entries of these cases have in common.
const plain = `"parent_id": "@/host", "spiffe_id": "@/web", "selectors": [{"type": "unix", "value": "uid:1"}]`

func entryCases() []Case {
	create := func(name, entry string) Case {
		return one("create: "+name, Local, "Entry/BatchCreateEntry", `{"entries": [`+entry+`]}`)
	}
	list := func(name, filter string) Case {
		return one("list: "+name, Local, "Entry/ListEntries", `{"filter": `+filter+`, "output_mask": {}}`)
	}
	count := func(name, filter string) Case {
		return one("count: "+name, Admin, "Entry/CountEntries", `{"filter": `+filter+`}`)
	}
	update := func(name, entry, mask string) Case {
		return one("update: "+name, Local, "Entry/BatchUpdateEntry", `{"entries": [`+entry+`], "input_mask": `+mask+`}`)
	}
	cases := []Case{
		one("create: nothing", Local, "Entry/BatchCreateEntry", `{}`),
		create("an empty entry", `{}`),
		create("no parent", `{"spiffe_id": "@/web", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("no id", `{"parent_id": "@/host", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("no selectors", `{"parent_id": "@/host", "spiffe_id": "@/web"}`),
		create("foreign parent", `{"parent_id": "@other.test/host", "spiffe_id": "@/web", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("foreign id", `{"parent_id": "@/host", "spiffe_id": "@other.test/web", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("parent without a path", `{"parent_id": "@", "spiffe_id": "@/web", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("reserved id", `{"parent_id": "@/host", "spiffe_id": "@/spire/web", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("id without a path", `{"parent_id": "@/host", "spiffe_id": "@", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("id with dots", `{"parent_id": "@/host", "spiffe_id": "@/a/../b", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("id with a trailing slash", `{"parent_id": "@/host", "spiffe_id": "@/a/", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("id with a percent sign", `{"parent_id": "@/host", "spiffe_id": "@/a%20b", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("selector without a type", `{"parent_id": "@/host", "spiffe_id": "@/web", "selectors": [{"value": "uid:1"}]}`),
		create("selector without a value", `{"parent_id": "@/host", "spiffe_id": "@/web", "selectors": [{"type": "unix"}]}`),
		create("selector type with a colon", `{"parent_id": "@/host", "spiffe_id": "@/web", "selectors": [{"type": "unix:uid", "value": "1"}]}`),
		create("bad DNS name", `{`+plain+`, "dns_names": ["not..good"]}`),
		create("DNS name with a trailing dot", `{`+plain+`, "dns_names": ["web.example.org."]}`),
		create("DNS name with an inner wildcard", `{`+plain+`, "dns_names": ["web.*.org"]}`),
		create("DNS name, empty", `{`+plain+`, "dns_names": [""]}`),
		create("DNS wildcard over another name", `{"id": "overlap", "parent_id": "@/host", "spiffe_id": "@/overlap", "selectors": [{"type": "unix", "value": "uid:9"}], "dns_names": ["*.example.org", "web.example.org"]}`),
		create("hint too long", `{`+plain+`, "hint": "$long 1025"}`),
		create("negative X.509 TTL", `{`+plain+`, "x509_svid_ttl": -1}`),
		create("negative JWT TTL", `{`+plain+`, "jwt_svid_ttl": -1}`),
		create("entry id with a slash", `{"id": "a/b", `+plain+`}`),
		create("entry id too long", `{"id": "$long 256", `+plain+`}`),
		create("store_svid over two types", `{"parent_id": "@/host", "spiffe_id": "@/web", "store_svid": true, "selectors": [{"type": "a", "value": "1"}, {"type": "b", "value": "1"}]}`),
		create("store_svid without prefetch", `{`+plain+`, "store_svid": true, "additional_attributes": {"disable_x509_svid_prefetch": true}}`),
		create("federates with an unknown domain", `{`+plain+`, "federates_with": ["unknown.test"]}`),
		create("federates with no domain", `{`+plain+`, "federates_with": ["not a domain"]}`),

		create("plain", `{"id": "plain", `+plain+`}`),
		create("similar, with another id", `{"id": "plain-2", `+plain+`, "x509_svid_ttl": 77}`),
		create("the same id, another entry", `{"id": "plain", "parent_id": "@/host", "spiffe_id": "@/other", "selectors": [{"type": "unix", "value": "uid:1"}]}`),
		create("id made by the server", `{"parent_id": "@/host", "spiffe_id": "@/made", "selectors": [{"type": "unix", "value": "uid:1"}]}`).saving("made", "results.0.entry.id"),
		create("everything", `{"id": "whole", "parent_id": "@/host", "spiffe_id": "@/whole", "selectors": [{"type": "unix", "value": "uid:1"}, {"type": "unix", "value": "gid:2"}], "x509_svid_ttl": 60, "jwt_svid_ttl": 30, "admin": true, "downstream": true, "expires_at": "4102444800", "dns_names": ["b.example.org", "a.example.org"], "store_svid": true, "hint": "external", "additional_attributes": {"jwt_svid_include_jti": true}}`),
		create("wildcard DNS name", `{"id": "wild", "parent_id": "@/host", "spiffe_id": "@/wild", "selectors": [{"type": "unix", "value": "uid:3"}], "dns_names": ["*.example.org"]}`),
		create("expired long ago", `{"id": "past", "parent_id": "@/host", "spiffe_id": "@/past", "selectors": [{"type": "unix", "value": "uid:4"}], "expires_at": "1000"}`),
		create("longest hint", `{"id": "hint", "parent_id": "@/host", "spiffe_id": "@/hint", "selectors": [{"type": "unix", "value": "uid:5"}], "hint": "$long 1024"}`),
		one("create: good and bad in one batch", Admin, "Entry/BatchCreateEntry", `{"entries": [{"id": "batch-1", "parent_id": "@/host", "spiffe_id": "@/batch", "selectors": [{"type": "unix", "value": "uid:6"}, {"type": "unix", "value": "uid:7"}]}, {"id": "batch-2"}, {"id": "batch-3", "parent_id": "@/host", "spiffe_id": "@/batch", "selectors": [{"type": "unix", "value": "uid:7"}, {"type": "unix", "value": "uid:6"}]}], "output_mask": {"spiffe_id": true}}`),
		one("create: answered by an empty mask", AdminByEntry, "Entry/BatchCreateEntry", `{"entries": [{"id": "masked", "parent_id": "@/host", "spiffe_id": "@/masked", "selectors": [{"type": "unix", "value": "uid:8"}]}], "output_mask": {}}`),

		one("get: no id", Local, "Entry/GetEntry", `{}`),
		one("get: unknown", Local, "Entry/GetEntry", `{"id": "nobody"}`),
		one("get", Admin, "Entry/GetEntry", `{"id": "plain"}`),
		one("get: everything", Local, "Entry/GetEntry", `{"id": "whole"}`),
		one("get: made by the server", Local, "Entry/GetEntry", `{"id": "$saved made"}`),
		one("get: nothing but the id", Local, "Entry/GetEntry", `{"id": "whole", "output_mask": {}}`),

		one("list: first page", Local, "Entry/ListEntries", `{"page_size": 3, "output_mask": {"spiffe_id": true}}`).saving("entries page", "next_page_token"),
		one("list: second page", Local, "Entry/ListEntries", `{"page_size": 3, "page_token": "$saved entries page", "output_mask": {"spiffe_id": true}}`),
		one("list: page after the last", Local, "Entry/ListEntries", `{"page_size": 3, "page_token": "999999", "output_mask": {}}`),
		one("list: bad page token", Local, "Entry/ListEntries", `{"page_size": 3, "page_token": "x"}`),
		one("list: negative page token", Local, "Entry/ListEntries", `{"page_size": 3, "page_token": "-1", "output_mask": {}}`),
		one("list: page token without a size", Local, "Entry/ListEntries", `{"page_token": "2", "output_mask": {}}`),
		one("list: pages of what a filter leaves", Local, "Entry/ListEntries", `{"page_size": 1, "filter": {"by_parent_id": "@/host"}, "output_mask": {}}`),
	}
	for _, filtered := range []func(string, string) Case{list, count} {
		cases = append(cases,
			filtered("everything", `{}`),
			filtered("by id", `{"by_spiffe_id": "@/web"}`),
			filtered("by foreign id", `{"by_spiffe_id": "@other.test/web"}`),
			filtered("by reserved id", `{"by_spiffe_id": "@/spire/agent/x"}`),
			filtered("by parent", `{"by_parent_id": "@/host"}`),
			filtered("by foreign parent", `{"by_parent_id": "@other.test/host"}`),
			filtered("by parent without a path", `{"by_parent_id": "@"}`),
			filtered("by hint", `{"by_hint": "external"}`),
			filtered("by empty hint", `{"by_parent_id": "@/host", "by_hint": ""}`),
			filtered("downstream", `{"by_downstream": true}`),
			filtered("not downstream", `{"by_parent_id": "@/host", "by_downstream": false}`),
			filtered("selectors, none", `{"by_selectors": {}}`),
			filtered("selectors, bad", `{"by_selectors": {"selectors": [{"type": "unix"}]}}`),
			filtered("selectors, unknown rule", `{"by_selectors": {"selectors": [{"type": "unix", "value": "uid:1"}], "match": 9}}`),
			filtered("selectors, exact", `{"by_selectors": {"selectors": [{"type": "unix", "value": "uid:7"}, {"type": "unix", "value": "uid:6"}], "match": "MATCH_EXACT"}}`),
			filtered("selectors, subset", `{"by_selectors": {"selectors": [{"type": "unix", "value": "uid:1"}, {"type": "unix", "value": "gid:2"}], "match": "MATCH_SUBSET"}}`),
			filtered("selectors, superset", `{"by_selectors": {"selectors": [{"type": "unix", "value": "uid:1"}], "match": "MATCH_SUPERSET"}}`),
			filtered("selectors, any", `{"by_selectors": {"selectors": [{"type": "unix", "value": "gid:2"}, {"type": "unix", "value": "uid:6"}], "match": "MATCH_ANY"}}`),
			filtered("federates with, none", `{"by_federates_with": {}}`),
			filtered("federates with, bad", `{"by_federates_with": {"trust_domains": ["not a domain"]}}`),
			filtered("federates with, unknown", `{"by_federates_with": {"trust_domains": ["other.test"]}}`),
			filtered("several filters", `{"by_parent_id": "@/host", "by_spiffe_id": "@/whole", "by_hint": "external", "by_selectors": {"selectors": [{"type": "unix", "value": "uid:1"}], "match": "MATCH_SUPERSET"}}`),
		)
	}
	return append(cases,
		one("update: nothing", Local, "Entry/BatchUpdateEntry", `{}`),
		update("no id", `{`+plain+`}`, `null`),
		update("unknown id", `{"id": "nobody", `+plain+`}`, `null`),
		update("bad id", `{"id": "a/b", `+plain+`}`, `null`),
		update("whole", `{"id": "plain", "parent_id": "@/host-2", "spiffe_id": "@/web-2", "selectors": [{"type": "unix", "value": "uid:11"}], "x509_svid_ttl": 90, "hint": "h"}`, `null`),
		update("hint only", `{"id": "plain", "hint": "other", "x509_svid_ttl": 5}`, `{"hint": true}`),
		update("nothing of it", `{"id": "plain", "hint": "not taken"}`, `{}`),
		update("no selectors, whole", `{"id": "plain", "parent_id": "@/host", "spiffe_id": "@/web"}`, `null`),
		update("selectors to none", `{"id": "plain"}`, `{"selectors": true}`),
		update("id of another domain", `{"id": "plain", "spiffe_id": "@other.test/x"}`, `{"spiffe_id": true}`),
		update("negative TTL", `{"id": "plain", "x509_svid_ttl": -5}`, `{"x509_svid_ttl": true}`),
		update("hint too long", `{"id": "plain", "hint": "$long 1025"}`, `{"hint": true}`),
		update("bad DNS name", `{"id": "plain", "dns_names": ["-"]}`, `{"dns_names": true}`),
		update("DNS names", `{"id": "plain", "dns_names": ["z.example.org", "y.example.org"]}`, `{"dns_names": true}`),
		update("unknown federated domain", `{"id": "plain", "federates_with": ["unknown.test"]}`, `{"federates_with": true}`),
		update("store_svid over two types", `{"id": "whole", "selectors": [{"type": "a", "value": "1"}, {"type": "b", "value": "1"}]}`, `{"selectors": true}`),
		update("into another's likeness", `{"id": "hint", "parent_id": "@/host", "spiffe_id": "@/wild", "selectors": [{"type": "unix", "value": "uid:3"}]}`, `{"parent_id": true, "spiffe_id": true, "selectors": true}`),
		one("update: answered by a mask", Admin, "Entry/BatchUpdateEntry", `{"entries": [{"id": "plain", "admin": true}], "input_mask": {"admin": true}, "output_mask": {"admin": true, "revision_number": true}}`),
		one("update: seen", Local, "Entry/GetEntry", `{"id": "plain"}`),

		one("delete: nothing", Local, "Entry/BatchDeleteEntry", `{}`),
		one("delete: no id, unknown, one, the same", Local, "Entry/BatchDeleteEntry", `{"ids": ["", "nobody", "wild", "wild"]}`),
		one("delete: by an admin", Admin, "Entry/BatchDeleteEntry", `{"ids": ["past", "$saved made"]}`),
		one("delete: gone", Local, "Entry/GetEntry", `{"id": "wild"}`),
	)
}

// authorizedCases look at the same entries from an agent's side.
func authorizedCases() []Case {
	all := `{"spiffe_id": true, "selectors": true, "federates_with": true, "admin": true, "downstream": true, "revision_number": true, "store_svid": true, "hint": true, "additional_attributes": true, "created_at": true}`
	return []Case{
		one("authorized: entries below the agent", Local, "Entry/BatchCreateEntry", `{"entries": [`+
			`{"id": "child", "parent_id": "@/spire/agent/join_token/interop-agent", "spiffe_id": "@/child", "selectors": [{"type": "unix", "value": "uid:20"}], "dns_names": ["child.example.org", "alias.example.org"], "x509_svid_ttl": 120, "jwt_svid_ttl": 60, "hint": "h"},`+
			`{"id": "grandchild", "parent_id": "@/child", "spiffe_id": "@/grandchild", "selectors": [{"type": "unix", "value": "uid:21"}], "additional_attributes": {"jwt_svid_include_jti": true}},`+
			`{"id": "nodes", "parent_id": "@/spire/server", "spiffe_id": "@/nodes", "selectors": [{"type": "x509pop", "value": "subject:cn:interop pop agent"}]},`+
			`{"id": "on-nodes", "parent_id": "@/nodes", "spiffe_id": "@/on-nodes", "selectors": [{"type": "unix", "value": "uid:22"}]},`+
			`{"id": "strange", "parent_id": "@/elsewhere", "spiffe_id": "@/strange", "selectors": [{"type": "unix", "value": "uid:23"}]}]}`),
		one("authorized: all", Agent, "Entry/GetAuthorizedEntries", `{}`).settled().unordered(),
		one("authorized: with the stock agent's mask", Agent, "Entry/GetAuthorizedEntries", `{"output_mask": `+all+`}`).unordered(),
		one("authorized: ids only", Agent, "Entry/GetAuthorizedEntries", `{"output_mask": {}}`).unordered(),
		one("authorized: through a node alias", PopAgent, "Entry/GetAuthorizedEntries", `{}`).unordered(),
		one("authorized: old SVID", OldSerial, "Entry/GetAuthorizedEntries", `{}`),
		one("authorized: banned", Banned, "Entry/GetAuthorizedEntries", `{}`),
		one("authorized: evicted", Evicted, "Entry/GetAuthorizedEntries", `{}`),
		one("sync: with the stock agent's mask", Agent, "Entry/SyncAuthorizedEntries", `{"output_mask": `+all+`}`).unordered(),
		one("sync: everything", PopAgent, "Entry/SyncAuthorizedEntries", `{}`).unordered(),
		one("sync: ids at first", Agent, "Entry/SyncAuthorizedEntries", `{"ids": ["child"]}`),
		one("sync: mask without the revision", Agent, "Entry/SyncAuthorizedEntries", `{"output_mask": {"spiffe_id": true}}`),
		one("sync: banned", Banned, "Entry/SyncAuthorizedEntries", `{"output_mask": `+all+`}`),
		one("sync: evicted", Evicted, "Entry/SyncAuthorizedEntries", `{"output_mask": `+all+`}`),
		one("sync: old SVID", OldSerial, "Entry/SyncAuthorizedEntries", `{"output_mask": `+all+`}`),
	}
}
