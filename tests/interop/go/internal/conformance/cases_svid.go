package conformance

func svidCases() []Case {
	x509 := func(name, request string) Case {
		return one("mint X.509: "+name, Local, "SVID/MintX509SVID", request)
	}
	jwt := func(name, request string) Case {
		return one("mint JWT: "+name, Local, "SVID/MintJWTSVID", request)
	}
	return []Case{
		x509("no CSR", `{}`),
		x509("CSR is none", `{"csr": "$bytes x"}`),
		x509("CSR with a broken signature", `{"csr": "$csr-bad spiffe:///mint"}`),
		x509("no URI", `{"csr": "$csr"}`),
		x509("two URIs", `{"csr": "$csr spiffe:///mint spiffe:///mint2"}`),
		x509("foreign", `{"csr": "$csr spiffe://other.test/mint"}`),
		x509("reserved", `{"csr": "$csr spiffe:///spire/mint"}`),
		x509("trust domain", `{"csr": "$csr spiffe://example.org"}`),
		x509("bad DNS name", `{"csr": "$csr spiffe:///mint a..b"}`),
		x509("wildcard over another name", `{"csr": "$csr spiffe:///mint *.example.org a.example.org"}`),
		x509("plain", `{"csr": "$csr spiffe:///mint"}`),
		x509("by an admin, with a TTL", `{"csr": "$csr spiffe:///mint", "ttl": 120}`),
		x509("negative TTL", `{"csr": "$csr spiffe:///mint", "ttl": -5}`),
		x509("TTL beyond the authority", `{"csr": "$csr spiffe:///mint", "ttl": 2000000000}`),
		x509("DNS names", `{"csr": "$csr spiffe:///mint b.example.org a.example.org"}`),
		x509("wildcard", `{"csr": "$csr spiffe:///mint *.example.org"}`),
		x509("subject of its own", `{"csr": "$csr CN=somebody spiffe:///mint"}`),
		x509("subject of its own and DNS names", `{"csr": "$csr CN=somebody spiffe:///mint b.example.org"}`),
		x509("no subject", `{"csr": "$csr no-subject spiffe:///mint"}`),
		one("mint X.509: over the network", Admin, "SVID/MintX509SVID", `{"csr": "$csr spiffe:///mint"}`),

		jwt("nothing", `{}`),
		jwt("no audience", `{"id": "@/mint"}`),
		jwt("empty audiences", `{"id": "@/mint", "audience": ["", ""]}`),
		jwt("foreign", `{"id": "@other.test/mint", "audience": ["a"]}`),
		jwt("reserved", `{"id": "@/spire/mint", "audience": ["a"]}`),
		jwt("no path", `{"id": "@", "audience": ["a"]}`),
		jwt("plain", `{"id": "@/mint", "audience": ["a"]}`),
		jwt("TTL and audiences", `{"id": "@/mint", "audience": ["a", "", "b"], "ttl": 77}`),
		jwt("negative TTL", `{"id": "@/mint", "audience": ["a"], "ttl": -5}`),
		jwt("TTL beyond the key", `{"id": "@/mint", "audience": ["a"], "ttl": 2000000000}`),
		one("mint JWT: over the network", AdminByEntry, "SVID/MintJWTSVID", `{"id": "@/mint", "audience": ["a"]}`),
		one("mint WIT", Local, "SVID/MintWITSVID", `{"id": "@/mint", "public_key": "$key wit", "signing_algorithm": "ES256"}`),
		one("mint WIT: nothing", Admin, "SVID/MintWITSVID", `{}`),

		one("new X.509: nothing", Agent, "SVID/BatchNewX509SVID", `{}`),
		one("new X.509: good and bad in one batch", Agent, "SVID/BatchNewX509SVID", `{"params": [{"entry_id": "child", "csr": "$csr"}, {"csr": "$csr"}, {"entry_id": "child"}, {"entry_id": "child", "csr": "$bytes x"}, {"entry_id": "child", "csr": "$csr-bad"}, {"entry_id": "nobody", "csr": "$csr"}, {"entry_id": "strange", "csr": "$csr"}, {"entry_id": "on-nodes", "csr": "$csr"}, {"entry_id": "grandchild", "csr": "$csr spiffe:///ignored ignored.example.org"}]}`),
		one("new X.509: through a node alias", PopAgent, "SVID/BatchNewX509SVID", `{"params": [{"entry_id": "on-nodes", "csr": "$csr"}, {"entry_id": "nodes", "csr": "$csr"}, {"entry_id": "child", "csr": "$csr"}]}`),
		one("new X.509: banned", Banned, "SVID/BatchNewX509SVID", `{"params": [{"entry_id": "child", "csr": "$csr"}]}`),
		one("new X.509: old SVID", OldSerial, "SVID/BatchNewX509SVID", `{"params": [{"entry_id": "child", "csr": "$csr"}]}`),
		one("new JWT: nothing", Agent, "SVID/NewJWTSVID", `{}`),
		one("new JWT: no audience", Agent, "SVID/NewJWTSVID", `{"entry_id": "child"}`),
		one("new JWT: unknown entry", Agent, "SVID/NewJWTSVID", `{"entry_id": "nobody", "audience": ["a"]}`),
		one("new JWT: somebody else's entry", Agent, "SVID/NewJWTSVID", `{"entry_id": "on-nodes", "audience": ["a"]}`),
		one("new JWT", Agent, "SVID/NewJWTSVID", `{"entry_id": "child", "audience": ["a"]}`),
		one("new JWT: with a jti", Agent, "SVID/NewJWTSVID", `{"entry_id": "grandchild", "audience": ["a", "b", ""]}`),
		one("new JWT: evicted", Evicted, "SVID/NewJWTSVID", `{"entry_id": "child", "audience": ["a"]}`),
		one("new WIT: nothing", Agent, "SVID/BatchNewWITSVID", `{}`),
		one("new WIT", Agent, "SVID/BatchNewWITSVID", `{"params": [{"entry_id": "child", "public_key": "$key wit", "signing_algorithm": "ES256"}]}`),

		one("downstream CA: no CSR", Downstream, "SVID/NewDownstreamX509CA", `{}`),
		one("downstream CA: CSR is none", Downstream, "SVID/NewDownstreamX509CA", `{"csr": "$bytes x"}`),
		one("downstream CA: CSR with a broken signature", Downstream, "SVID/NewDownstreamX509CA", `{"csr": "$csr-bad"}`),
		one("downstream CA", Downstream, "SVID/NewDownstreamX509CA", `{"csr": "$csr spiffe://example.org"}`),
		one("downstream CA: with a TTL", Downstream, "SVID/NewDownstreamX509CA", `{"csr": "$csr", "preferred_ttl": 600}`),
		one("downstream CA: negative TTL", Downstream, "SVID/NewDownstreamX509CA", `{"csr": "$csr", "preferred_ttl": -1}`),
		one("downstream CA: by an admin", Admin, "SVID/NewDownstreamX509CA", `{"csr": "$csr"}`),
	}
}
