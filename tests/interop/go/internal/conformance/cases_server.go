package conformance

func healthCases() []Case {
	return []Case{
		one("health: check", Local, "Health/Check", `{}`),
		one("health: check one service", Local, "Health/Check", `{"service": "spire.api.server.entry.v1.Entry"}`),
		one("health: list", Local, "Health/List", `{}`),
		one("health: watch", Local, "Health/Watch", `{}`),
		one("health: over the network", Anonymous, "Health/Check", `{}`),
		one("health: over the network, admin", Admin, "Health/Check", `{}`),
	}
}

func loggerCases() []Case {
	return []Case{
		one("logger: get", Local, "Logger/GetLogger", `{}`),
		one("logger: set to nothing", Local, "Logger/SetLogLevel", `{}`),
		one("logger: set to something unknown", Local, "Logger/SetLogLevel", `{"new_level": 42}`),
		one("logger: set", Local, "Logger/SetLogLevel", `{"new_level": "DEBUG"}`),
		one("logger: set to panic", Local, "Logger/SetLogLevel", `{"new_level": "PANIC"}`),
		one("logger: reset", Local, "Logger/ResetLogLevel", `{}`),
		one("logger: over the network", Anonymous, "Logger/GetLogger", `{}`),
		one("logger: over the network, admin", Admin, "Logger/SetLogLevel", `{"new_level": "DEBUG"}`),
	}
}

func debugCases() []Case {
	return []Case{
		one("debug: info", Local, "Debug/GetInfo", `{}`),
		one("debug: over the network, admin", Admin, "Debug/GetInfo", `{}`),
	}
}
