package conformance

func trustDomainCases() []Case {
	const create, update = "TrustDomain/BatchCreateFederationRelationship", "TrustDomain/BatchUpdateFederationRelationship"
	relationship := func(name, method, body string) Case {
		return one("relationship: "+name, Local, method, `{"federation_relationships": [`+body+`]}`)
	}
	return []Case{
		one("relationship: list none", Local, "TrustDomain/ListFederationRelationships", `{}`),
		one("relationship: get no name", Local, "TrustDomain/GetFederationRelationship", `{}`),
		one("relationship: get no domain", Local, "TrustDomain/GetFederationRelationship", `{"trust_domain": "not a domain"}`),
		one("relationship: get unknown", Admin, "TrustDomain/GetFederationRelationship", `{"trust_domain": "fed.test"}`),
		one("relationship: create nothing", Local, create, `{}`),
		relationship("create an empty one", create, `{}`),
		relationship("create, no domain", create, `{"trust_domain": "not a domain", "bundle_endpoint_url": "https://fed.test/b", "https_web": {}}`),
		relationship("create, the own", create, `{"trust_domain": "example.org", "bundle_endpoint_url": "https://fed.test/b", "https_web": {}}`),
		relationship("create, no URL", create, `{"trust_domain": "fed.test", "https_web": {}}`),
		relationship("create, URL without TLS", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "http://fed.test/b", "https_web": {}}`),
		relationship("create, URL without a host", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https:///b", "https_web": {}}`),
		relationship("create, URL with a user", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://user:pass@fed.test/b", "https_web": {}}`),
		relationship("create, URL is none", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed test/%zz", "https_web": {}}`),
		relationship("create, no profile", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed.test/b"}`),
		relationship("create, endpoint ID is none", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed.test/b", "https_spiffe": {"endpoint_spiffe_id": "nonsense"}}`),
		relationship("create, no endpoint ID", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed.test/b", "https_spiffe": {}}`),
		relationship("create, bundle of another domain", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed.test/b", "https_web": {}, "trust_domain_bundle": {"trust_domain": "strange.test"}}`),
		relationship("create, bundle is none", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed.test/b", "https_web": {}, "trust_domain_bundle": {"trust_domain": "fed.test", "x509_authorities": [{"asn1": "$bytes x"}]}}`),
		relationship("create, web", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed.test:8443/b?c=d", "https_web": {}}`),
		relationship("create, again", create, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://fed.test/b", "https_web": {}}`),
		one("relationship: create, SPIFFE with a bundle", Admin, create, `{"federation_relationships": [{"trust_domain": "fed2.test", "bundle_endpoint_url": "https://fed2.test/b", "https_spiffe": {"endpoint_spiffe_id": "spiffe://fed2.test/bundle"}, "trust_domain_bundle": {"trust_domain": "fed2.test", "x509_authorities": [{"asn1": "$cert one"}], "refresh_hint": "30"}}], "output_mask": {"bundle_endpoint_profile": true}}`),
		one("relationship: its bundle", Local, "Bundle/GetFederatedBundle", `{"trust_domain": "fed2.test"}`),
		one("relationship: get", Local, "TrustDomain/GetFederationRelationship", `{"trust_domain": "fed2.test"}`),
		one("relationship: get with a mask", Local, "TrustDomain/GetFederationRelationship", `{"trust_domain": "fed.test", "output_mask": {"bundle_endpoint_url": true}}`),
		one("relationship: list", Local, "TrustDomain/ListFederationRelationships", `{}`),
		one("relationship: list names", AdminByEntry, "TrustDomain/ListFederationRelationships", `{"output_mask": {}}`),
		one("relationship: first page", Local, "TrustDomain/ListFederationRelationships", `{"page_size": 1, "output_mask": {}}`).saving("relationships page", "next_page_token"),
		one("relationship: second page", Local, "TrustDomain/ListFederationRelationships", `{"page_size": 1, "page_token": "$saved relationships page", "output_mask": {}}`),
		one("relationship: bad page token", Local, "TrustDomain/ListFederationRelationships", `{"page_size": 1, "page_token": "x"}`),
		one("relationship: update nothing", Local, update, `{}`),
		relationship("update unknown", update, `{"trust_domain": "unknown.test", "bundle_endpoint_url": "https://x.test/b", "https_web": {}}`),
		relationship("update, no domain", update, `{"trust_domain": "not a domain"}`),
		relationship("update, URL without TLS", update, `{"trust_domain": "fed.test", "bundle_endpoint_url": "http://fed.test/b", "https_web": {}}`),
		relationship("update whole", update, `{"trust_domain": "fed.test", "bundle_endpoint_url": "https://new.test/b", "https_spiffe": {"endpoint_spiffe_id": "spiffe://new.test/b"}}`),
		one("relationship: update the URL only", Admin, update, `{"federation_relationships": [{"trust_domain": "fed2.test", "bundle_endpoint_url": "https://newer.test/b", "https_web": {}}], "input_mask": {"bundle_endpoint_url": true}}`),
		one("relationship: update nothing of it", Local, update, `{"federation_relationships": [{"trust_domain": "fed2.test", "bundle_endpoint_url": "https://not-taken.test/b", "https_web": {}}], "input_mask": {}}`),
		one("relationship: refresh no domain", Local, "TrustDomain/RefreshBundle", `{"trust_domain": "not a domain"}`),
		one("relationship: refresh unknown", Local, "TrustDomain/RefreshBundle", `{"trust_domain": "unknown.test"}`),
		one("relationship: delete nothing", Local, "TrustDomain/BatchDeleteFederationRelationship", `{}`),
		one("relationship: delete one, unknown, none", Local, "TrustDomain/BatchDeleteFederationRelationship", `{"trust_domains": ["fed2.test", "unknown.test", "", "not a domain"]}`),
		one("relationship: its bundle stays", Local, "Bundle/GetFederatedBundle", `{"trust_domain": "fed2.test", "output_mask": {}}`),
		one("relationship: delete the other", Admin, "TrustDomain/BatchDeleteFederationRelationship", `{"trust_domains": ["fed.test"]}`),
	}
}
