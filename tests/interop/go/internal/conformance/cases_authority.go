package conformance

// authorityCases take both authorities through their lives: the bundle is looked at
// after each step.
func authorityCases() []Case {
	var cases []Case
	for _, kind := range []string{"X509", "JWT"} {
		do := func(step, verb, id string) Case {
			return one(kind+" authority: "+step, Local, "LocalAuthority/"+verb+kind+"Authority", `{"authority_id": "`+id+`"}`)
		}
		state := func(when, who string) Case {
			return one(kind+" authority: state "+when, who, "LocalAuthority/Get"+kind+"AuthorityState", `{}`)
		}
		first, second, third := "first "+kind, "second "+kind, "third "+kind
		mask := map[string]string{"X509": "x509_authorities", "JWT": "jwt_authorities"}[kind]
		bundle := func(when string) Case {
			return one(kind+" authority: bundle "+when, Anonymous, "Bundle/GetBundle", `{"output_mask": {"`+mask+`": true}}`)
		}
		prepare := func(step, name string) Case {
			return one(kind+" authority: "+step, Admin, "LocalAuthority/Prepare"+kind+"Authority", `{}`).saving(name, "prepared_authority.authority_id")
		}
		cases = append(cases,
			state("at first", Local).saving(first, "active.authority_id"),
			do("activate, no id", "Activate", ""),
			do("activate an unknown one", "Activate", "0000"),
			do("activate the active one", "Activate", "$saved "+first),
			do("taint, no id", "Taint", ""),
			do("taint the active one", "Taint", "$saved "+first),
			do("taint an unknown one", "Taint", "0000"),
			do("revoke, no id", "Revoke", ""),
			do("revoke the active one", "Revoke", "$saved "+first),
			do("revoke an unknown one", "Revoke", "0000"),
			prepare("prepare", second),
			state("after prepare", Admin),
			bundle("after prepare"),
			do("taint the prepared one", "Taint", "$saved "+second),
			do("revoke the prepared one", "Revoke", "$saved "+second),
			do("activate", "Activate", "$saved "+second),
			do("activate again", "Activate", "$saved "+second),
			state("after activate", AdminByEntry),
			do("activate the old one", "Activate", "$saved "+first),
			do("revoke the old one, not tainted", "Revoke", "$saved "+first),
			do("taint", "Taint", "$saved "+first),
			do("taint again", "Taint", "$saved "+first),
			state("after taint", Local),
			bundle("after taint"),
			do("revoke", "Revoke", "$saved "+first),
			do("revoke again", "Revoke", "$saved "+first),
			state("after revoke", Local),
			bundle("after revoke"),
			prepare("prepare anew", third),
			prepare("prepare once more", third),
			state("at the end", Local),
		)
	}
	for _, verb := range []string{"Taint", "Revoke"} {
		name := "upstream authority: " + verb
		method := "LocalAuthority/" + verb + "X509UpstreamAuthority"
		cases = append(cases,
			one(name+", no id", Local, method, `{}`),
			one(name+" an unknown one", Admin, method, `{"subject_key_id": "0000"}`),
		)
	}
	for _, verb := range []string{"Activate", "Taint", "Revoke"} {
		cases = append(cases, one("WIT authority: "+verb, Local, "LocalAuthority/"+verb+"WITAuthority", `{"authority_id": "x"}`))
	}
	return append(cases,
		one("WIT authority: state", Local, "LocalAuthority/GetWITAuthorityState", `{}`),
		one("WIT authority: prepare", Admin, "LocalAuthority/PrepareWITAuthority", `{}`),
	)
}
