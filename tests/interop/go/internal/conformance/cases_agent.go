package conformance

func agentCases() []Case {
	return []Case{
		// CreateJoinToken
		one("token: no ttl", Local, "Agent/CreateJoinToken", `{}`),
		one("token: negative ttl", Local, "Agent/CreateJoinToken", `{"ttl": -1}`),
		one("token: made by the server", Local, "Agent/CreateJoinToken", `{"ttl": 300}`),
		one("token: of one's own", Local, "Agent/CreateJoinToken", `{"ttl": 300, "token": "interop-token"}`),
		one("token: the same again", Local, "Agent/CreateJoinToken", `{"ttl": 300, "token": "interop-token"}`),
		one("token: with an alias", Admin, "Agent/CreateJoinToken", `{"ttl": 300, "token": "interop-alias", "agent_id": "@/alias"}`),
		one("token: alias in another trust domain", Local, "Agent/CreateJoinToken", `{"ttl": 300, "agent_id": "@other.test/alias"}`),
		one("token: alias in the reserved namespace", Local, "Agent/CreateJoinToken", `{"ttl": 300, "agent_id": "@/spire/alias"}`),
		one("token: alias without a path", Local, "Agent/CreateJoinToken", `{"ttl": 300, "agent_id": "@"}`),
		one("token: alias with a broken path", Local, "Agent/CreateJoinToken", `{"ttl": 300, "agent_id": "@/a//b"}`),
		one("token: the alias entry", Local, "Entry/ListEntries", `{"filter": {"by_spiffe_id": "@/alias"}}`),

		// AttestAgent
		one("attest: nothing", Anonymous, "Agent/AttestAgent", `{}`),
		one("attest: challenge response first", Anonymous, "Agent/AttestAgent", `{"challenge_response": "$bytes x"}`),
		one("attest: no data", Anonymous, "Agent/AttestAgent", `{"params": {"params": {"csr": "$csr"}}}`),
		one("attest: no params", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes x"}}}`),
		one("attest: no CSR", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes x"}, "params": {}}}`),
		one("attest: no type", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"payload": "$bytes x"}, "params": {"csr": "$csr"}}}`),
		one("attest: no payload", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token"}, "params": {"csr": "$csr"}}}`),
		one("attest: unknown type", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "astrology", "payload": "$bytes x"}, "params": {"csr": "$csr"}}}`),
		one("attest: unknown token", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes nobody-made-this"}, "params": {"csr": "$csr"}}}`),
		one("attest: by token", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes interop-alias"}, "params": {"csr": "$csr"}}}`),
		one("attest: by the same token again", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes interop-alias"}, "params": {"csr": "$csr"}}}`),
		one("attest: a token to lose", Local, "Agent/CreateJoinToken", `{"ttl": 300, "token": "interop-lost"}`),
		one("attest: by token, CSR is none", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes interop-lost"}, "params": {"csr": "$bytes not-a-csr"}}}`),
		one("attest: CSR was none, the token is spent", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes interop-lost"}, "params": {"csr": "$csr"}}}`),
		one("attest: CSR was none, no agent came of it", Local, "Agent/DeleteAgent", `{"id": "@/spire/agent/join_token/interop-lost"}`),
		one("attest: an agent attests too", Agent, "Agent/AttestAgent", `{"params": {"data": {"type": "join_token", "payload": "$bytes nobody-made-this"}, "params": {"csr": "$csr"}}}`),

		// AttestAgent by x509pop
		pop("P-256"), pop("P-384"), pop("P-521"), pop("RSA"), pop("intermediates"), pop("selectors in URIs"),
		pop("too many intermediates"), pop("expired"), pop("not for signatures"), pop("unknown CA"), pop("wrong key"),
		one("attest x509pop: payload is no JSON", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "x509pop", "payload": "$bytes nonsense"}, "params": {"csr": "$csr"}}}`),
		one("attest x509pop: no certificate", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "x509pop", "payload": "$bytes {}"}, "params": {"csr": "$csr"}}}`),
		one("attest x509pop: certificate is none", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "x509pop", "payload": "$bytes {\"certificates\":[\"AAAA\"]}"}, "params": {"csr": "$csr"}}}`),
		one("attest x509pop: certificate is no base64", Anonymous, "Agent/AttestAgent", `{"params": {"data": {"type": "x509pop", "payload": "$bytes {\"certificates\":[\"%\"]}"}, "params": {"csr": "$csr"}}}`),

		// Reading agents
		one("agents: count", Local, "Agent/CountAgents", `{}`),
		one("agents: count banned", Admin, "Agent/CountAgents", `{"filter": {"by_banned": true}}`),
		one("agents: count not banned", Local, "Agent/CountAgents", `{"filter": {"by_banned": false}}`),
		one("agents: count that can re-attest", Local, "Agent/CountAgents", `{"filter": {"by_can_reattest": true}}`),
		one("agents: count by type", Local, "Agent/CountAgents", `{"filter": {"by_attestation_type": "join_token"}}`),
		one("agents: count by unknown type", Local, "Agent/CountAgents", `{"filter": {"by_attestation_type": "astrology"}}`),
		one("agents: count that expire before 2100", Local, "Agent/CountAgents", `{"filter": {"by_expires_before": "2100-01-01 00:00:00 +0000 +00"}}`),
		one("agents: count that expire before 2000", Local, "Agent/CountAgents", `{"filter": {"by_expires_before": "2000-01-01 00:00:00 +0000 +00"}}`),
		one("agents: count, expiry is none", Local, "Agent/CountAgents", `{"filter": {"by_expires_before": "tomorrow"}}`),
		one("agents: count by no selectors", Local, "Agent/CountAgents", `{"filter": {"by_selector_match": {}}}`),
		one("agents: count by a bad selector", Local, "Agent/CountAgents", `{"filter": {"by_selector_match": {"selectors": [{"type": "a:b", "value": "c"}]}}}`),
		one("agents: count by selector", Local, "Agent/CountAgents", `{"filter": {"by_selector_match": {"selectors": [{"type": "x509pop", "value": "subject:cn:interop P-384"}], "match": "MATCH_SUPERSET"}}}`),
		one("agents: list", Local, "Agent/ListAgents", `{}`).unordered(),
		one("agents: list nothing but ids", Admin, "Agent/ListAgents", `{"output_mask": {}}`).unordered(),
		one("agents: list selectors only", AdminByEntry, "Agent/ListAgents", `{"output_mask": {"selectors": true}}`).unordered(),
		one("agents: list by selector, any", Local, "Agent/ListAgents", `{"filter": {"by_selector_match": {"selectors": [{"type": "x509pop", "value": "subject:cn:interop P-384"}, {"type": "x509pop", "value": "subject:cn:interop RSA"}], "match": "MATCH_ANY"}}, "output_mask": {}}`),
		one("agents: list by selector, exact", Local, "Agent/ListAgents", `{"filter": {"by_selector_match": {"selectors": [{"type": "x509pop", "value": "subject:cn:interop P-384"}]}}, "output_mask": {}}`),
		one("agents: first page", Local, "Agent/ListAgents", `{"page_size": 2, "output_mask": {"attestation_type": true}}`).saving("agents page", "next_page_token"),
		one("agents: second page", Local, "Agent/ListAgents", `{"page_size": 2, "page_token": "$saved agents page", "output_mask": {"banned": true}}`),
		one("agents: page after the last", Local, "Agent/ListAgents", `{"page_size": 2, "page_token": "999999", "output_mask": {}}`),
		one("agents: bad page token", Local, "Agent/ListAgents", `{"page_size": 2, "page_token": "x"}`),
		one("agents: negative page size", Local, "Agent/ListAgents", `{"page_size": -1, "output_mask": {}}`).unordered(),
		one("agent: get", Local, "Agent/GetAgent", `{"id": "@/spire/agent/join_token/interop-agent"}`),
		one("agent: get banned", Local, "Agent/GetAgent", `{"id": "@/spire/agent/join_token/interop-banned"}`),
		one("agent: get with a mask", Local, "Agent/GetAgent", `{"id": "@/spire/agent/join_token/interop-agent", "output_mask": {"x509svid_expires_at": true}}`),
		one("agent: get no id", Local, "Agent/GetAgent", `{}`),
		one("agent: get unknown", Local, "Agent/GetAgent", `{"id": "@/spire/agent/join_token/nobody"}`),
		one("agent: get no agent", Local, "Agent/GetAgent", `{"id": "@/workload"}`),
		one("agent: get foreign", Local, "Agent/GetAgent", `{"id": "@other.test/spire/agent/x"}`),
		one("agent: get broken path", Local, "Agent/GetAgent", `{"id": "@/spire/agent//x"}`),
		one("agent: get broken trust domain", Local, "Agent/GetAgent", `{"id": "@UPPER.test/spire/agent/x"}`),

		// RenewAgent, PostStatus
		one("renew: no params", Agent, "Agent/RenewAgent", `{}`),
		one("renew: no CSR", Agent, "Agent/RenewAgent", `{"params": {}}`),
		one("renew: CSR is none", Agent, "Agent/RenewAgent", `{"params": {"csr": "$bytes nonsense"}}`),
		one("renew", Agent, "Agent/RenewAgent", `{"params": {"csr": "$csr"}}`),
		one("renew: an agent that can re-attest", PopAgent, "Agent/RenewAgent", `{"params": {"csr": "$csr"}}`),
		one("renew: old SVID", OldSerial, "Agent/RenewAgent", `{"params": {"csr": "$csr"}}`),
		one("renew: banned", Banned, "Agent/RenewAgent", `{"params": {"csr": "$csr"}}`),
		one("renew: evicted", Evicted, "Agent/RenewAgent", `{"params": {"csr": "$csr"}}`),
		one("status", Agent, "Agent/PostStatus", `{"agent_version": "1.2.3"}`),
		one("status: shown", Local, "Agent/GetAgent", `{"id": "@/spire/agent/join_token/interop-agent", "output_mask": {"agent_version": true}}`),
		one("status: no version", Agent, "Agent/PostStatus", `{}`),
		one("status: longest version", Agent, "Agent/PostStatus", `{"agent_version": "$long 255"}`),
		one("status: version too long", Agent, "Agent/PostStatus", `{"agent_version": "$long 256"}`),

		// DeleteAgent, BanAgent
		one("ban: no id", Local, "Agent/BanAgent", `{}`),
		one("ban: unknown", Local, "Agent/BanAgent", `{"id": "@/spire/agent/join_token/nobody"}`),
		one("ban: no agent", Local, "Agent/BanAgent", `{"id": "@/workload"}`),
		one("ban", Admin, "Agent/BanAgent", `{"id": "@/spire/agent/join_token/interop-alias"}`),
		one("ban: again", Local, "Agent/BanAgent", `{"id": "@/spire/agent/join_token/interop-alias"}`),
		one("evict: no id", Local, "Agent/DeleteAgent", `{}`),
		one("evict: unknown", Local, "Agent/DeleteAgent", `{"id": "@/spire/agent/join_token/nobody"}`),
		one("evict: no agent", Local, "Agent/DeleteAgent", `{"id": "@/spire/server"}`),
		one("evict", AdminByEntry, "Agent/DeleteAgent", `{"id": "@/spire/agent/join_token/interop-alias"}`),
		one("evict: again", Local, "Agent/DeleteAgent", `{"id": "@/spire/agent/join_token/interop-alias"}`),
		one("evict: its token's entry is gone", Local, "Entry/ListEntries", `{"filter": {"by_spiffe_id": "@/alias"}}`),
	}
}

func pop(kind string) Case {
	return Case{Name: "attest x509pop: " + kind, Caller: Anonymous, Method: "Agent/AttestAgent", Pop: kind}
}
