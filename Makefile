# Every target runs `setup` first: it installs what is missing and takes a
# fraction of a second when nothing is.

.PHONY: help setup build bin-dir demo test test-long faults reliability sim planted bench token-rate lint fmt clean

# One feature set for every development build: cargo then builds nothing twice.
# `faults` is among them, and never part of `make build`.
DEV := --workspace --features chancery-node/faults,chancery-hsm/testing
CARGO := cargo

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## install what is missing; build RocksDB once
	@scripts/setup

build: setup ## every binary, release mode
	@scripts/progress $(CARGO) build --release --bins -p chancery-node -p chancery-agent -p chancery-tests

bin-dir: ## the folder of `make build`
	@scripts/bin-dir

demo: build ## three nodes, a workload, a killed leader
	@scripts/demo

test: setup ## every test, small counts
	@scripts/progress $(CARGO) build $(DEV)
	@$(CARGO) test $(DEV) --no-fail-fast

test-long: setup ## every test, full counts
	@scripts/progress $(CARGO) build $(DEV)
	@CHANCERY_TEST_LONG=1 $(CARGO) test $(DEV) --no-fail-fast -- --nocapture
	@$(MAKE) --no-print-directory reliability

reliability: setup ## the counts of docs/reliability.md; goes on where it was interrupted (SEED=n)
	@scripts/progress $(CARGO) build $(DEV)
	@bin="$$(scripts/bin-dir debug)"; "$$bin/chancery-faults" --counts full --seed $(or $(SEED),1) \
		--record "$$bin/reliability-$$(git rev-parse --short HEAD)-$(or $(SEED),1).jsonl"

faults: setup ## faults on real processes for a quarter of an hour; needs root (ARGS="--list": which)
	@scripts/progress $(CARGO) build $(DEV)
	@$$(scripts/bin-dir debug)/chancery-faults $(ARGS)

sim: setup ## simulated clusters: SEED=n runs one again, SEEDS=n that many
	@CHANCERY_SIM_SEED=$(SEED) CHANCERY_SIM_SEEDS=$(SEEDS) \
		$(CARGO) test $(DEV) -p chancery-sim --test simulation -- --nocapture seeds_keep_every_invariant

planted: setup ## planted bugs: each must be caught (ONLY=name,name: these)
	@CHANCERY_PLANTED=$(or $(ONLY),all) \
		$(CARGO) test $(DEV) -p chancery-tests --test planted -- --nocapture planted_bugs_are_caught

bench: setup ## criterion benches
	@$(CARGO) bench -p chancery-node --bench issue

token-rate: setup ## what nodes sign beside what a token makes, at three rates of the token
	@scripts/progress $(CARGO) build --release --bins --lib -p chancery-node -p chancery-tests -p chancery-pkcs11-shim
	@$$(scripts/bin-dir)/chancery-token-rate $(ARGS)

lint: setup ## rustfmt, dependencies (licences, advisories), clippy
	@$(CARGO) fmt --all --check
	@scripts/deny
	@$(CARGO) clippy $(DEV) --all-targets -- -D warnings

fmt: setup ## format
	@$(CARGO) fmt --all

clean: ## remove build output, not the RocksDB archive
	@$(CARGO) clean
