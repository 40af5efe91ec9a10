# Keyway's one entry point: `make help` lists what there is. `make ci` is what CI runs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# rustup's default place, for shells that have not read its profile.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Where `make run` keeps its keys, how often `make crash-loop` kills the server, how long `make fuzz` takes per target.
DATA ?= ./data
N ?= 100
TIME_S ?= 60

# Many times what the tests take on two idle cores: a test that hangs is named, and holds nobody up for longer.
TESTS_TIME_LIMIT ?= 90m

# Most tests wait most of their time, for leases, restarts and time-outs: more of them at a time than there are cores.
export RUST_TEST_THREADS ?= 4

# CI builds from the committed Cargo.lock or not at all.
LOCKED := $(if $(CI),--locked)

# Asked of cargo, since CARGO_TARGET_DIR and cargo's own configuration move it. Expanded only in recipes.
TARGET = $(shell cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: deps-build ## Start keywayd --dev on ./data (DATA=dir elsewhere), in the foreground
	cargo build $(LOCKED) --release -p keyway-server -p keyway-tools
	@echo "The command line is $(TARGET)/release/keyway."
	exec "$(TARGET)/release/keywayd" --dev --data "$(DATA)"

.PHONY: test
test: deps-test ## Run all tests, after installing what they need
	cargo test $(LOCKED) --workspace --no-run
	timeout --foreground $(TESTS_TIME_LIMIT) cargo test $(LOCKED) --workspace || { status=$$?; [ $$status != 124 ] || \
	  echo "a test hangs: the last one above that 'has been running for over 60 seconds' and never ended"; exit $$status; }

.PHONY: test-busy
test-busy: deps-test ## `make test` RUNS=5 times beside SPIN=2 processes that spin: no test depends on speed
	cargo test $(LOCKED) --workspace --no-run
	RUNS=$${RUNS:-5} SPIN=$${SPIN:-2} scripts/test-busy $(MAKE) --no-print-directory test

.PHONY: ci
ci: deps fmt-check check-imports check-docs check-alerts check-bugs lint deny test hit-path sim-same sim-bugs-some ## Everything that CI checks

.PHONY: metrics-page
metrics-page: deps-build ## Write the tables of docs/METRICS.md from the code
	KEYWAY_WRITE_METRICS_PAGE=1 cargo test $(LOCKED) --workspace --lib the_page_of_metrics

.PHONY: bench-s1
bench-s1: bench-build ## S1: steady hot keys, against the bare library call
	"$(TARGET)/release/keyway-bench" s1

.PHONY: bench-s4
bench-s4: bench-build ## S4: the refresh flow; fails when p95 misses its target (DURATION_S=30)
	"$(TARGET)/release/keyway-bench" s4

.PHONY: bench-s5
bench-s5: bench-build deps-test ## S5: a real OpenBao goes away, is slow, throttles, denies and comes back (DURATION_S=30)
	"$(TARGET)/release/keyway-bench" s5

.PHONY: bench-build
bench-build: deps-build
	cargo build $(LOCKED) --release -p keyway-server -p keyway-bench

.PHONY: crash-loop
crash-loop: deps-test ## Kill the server N=100 times during an import; no acknowledged key may be lost
	KEYWAY_CRASH_ROUNDS=$(N) cargo test $(LOCKED) -p keyway-server --test server crash -- --nocapture

.PHONY: interleaved
interleaved: deps-test ## Locks, rotations, restarts and a failing KMS beside clients, ROUNDS=100; nothing acknowledged may be lost
	KEYWAY_INTERLEAVED_ROUNDS=$${ROUNDS:-100} cargo test $(LOCKED) -p keyway-server --test server interleaved -- --nocapture

.PHONY: crowd
crowd: deps-test ## Create, list, change and lock KEYSPACES=10000 keyspaces at a live server
	KEYWAY_CROWD=$${KEYSPACES:-10000} cargo test $(LOCKED) --release -p keyway-server --test server crowds -- --nocapture

.PHONY: hostile
hostile: deps-test ## Random and mutated frames at a live server for a minute (KEYWAY_HOSTILE_S=60)
	KEYWAY_HOSTILE_S=$${KEYWAY_HOSTILE_S:-60} cargo test $(LOCKED) -p keyway-server --test server hostile -- --nocapture

.PHONY: sim
sim: deps-build ## Simulate SEEDS=1000 histories of a whole node and check every invariant (FROM=1000000)
	cargo run $(LOCKED) --quiet --profile sim -p keyway-sim -- regressions
	cargo run $(LOCKED) --quiet --profile sim -p keyway-sim -- run --seeds $${SEEDS:-1000} $(if $(FROM),--from $(FROM))
	cargo run $(LOCKED) --quiet --profile sim -p keyway-sim -- control --seeds $${SEEDS:-1000}
	cargo run $(LOCKED) --quiet --profile sim -p keyway-sim -- disk --seeds $${SEEDS:-1000}
	cargo run $(LOCKED) --quiet --profile sim -p keyway-sim -- node --seeds $${SEEDS:-1000}

.PHONY: sim-same
sim-same: deps-build ## SEEDS=200 histories twice, in two processes: each has to be the same, byte for byte
	scripts/sim-same

.PHONY: sim-replay
sim-replay: deps-build ## Show the history of SEED=n in words; of a failing one the shortest that still fails
	cargo run $(LOCKED) --quiet --profile sim -p keyway-sim -- replay $${SEED:?"make sim-replay SEED=n"}

.PHONY: sim-bugs
sim-bugs: deps-build ## Plant each bug of engine/sim/bugs; the simulator has to catch them all (SEEDS=20000)
	scripts/sim-bugs $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: sim-bugs-some
sim-bugs-some: deps-build
	scripts/sim-bugs --seeds 300 --only 01,14,20,45,50,53,61,71

.PHONY: deb
deb: deps-deb ## Build the Debian package, install it in an empty tree and try it there
	cargo build $(LOCKED) --release -p keyway-server -p keyway-tools
	cargo deb --locked --no-build --strip -p keyway-server --output "$(TARGET)/keyway.deb"
	scripts/check-package "$(TARGET)/keyway.deb"

.PHONY: fuzz
fuzz: deps-fuzz ## Fuzz each decoder, the envelope, the log's recovery, a shard and control; stops at a finding (TIME_S=60 each)
	TIME_S=$(TIME_S) scripts/fuzz

.PHONY: hit-path
hit-path: deps-hit-path ## Count the instructions of a hit; fails when there are 2 % more than engine/node/hit_path.txt says
	scripts/hit-path

.PHONY: mutants
mutants: deps-mutants ## Change the core in 1200 ways; a change that no test notices wants a reason (MUTANTS="-f lease.rs")
	scripts/mutants -j2 $(MUTANTS)

.PHONY: threads
threads: deps-test ## Orders of events where threads meet, many more than in `make test` (KEYWAY_SCHEDULES=50000)
	KEYWAY_SCHEDULES=$${KEYWAY_SCHEDULES:-50000} cargo test $(LOCKED) -p keyway-kms --lib threads
	KEYWAY_SCHEDULES=$${KEYWAY_SCHEDULES:-50000} cargo test $(LOCKED) -p keyway-server --test threads

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt --all

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: lint
lint: deps-build ## Clippy; a warning is an error
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings

.PHONY: check-imports
check-imports: deps-test ## Who may know whom, and the other rules of the tree
	scripts/check-imports --self-test
	scripts/check-imports

.PHONY: check-docs
check-docs: deps-test ## Links and make targets that documents name, decisions, retired phrases
	scripts/check-docs --self-test
	scripts/check-docs

.PHONY: check-alerts
check-alerts: deps-test ## The alerts' own tests, and that alerts and dashboards name what the code exports
	scripts/dashboards --self-test
	scripts/dashboards --check
	promtool check rules docs/alerts/keyway.rules.yml
	promtool check config docs/alerts/prometheus.yml
	promtool test rules docs/alerts/keyway.rules.test.yml

.PHONY: dashboards
dashboards: deps-test ## Write docs/dashboards anew from scripts/dashboards
	scripts/dashboards

.PHONY: check-bugs
check-bugs: deps-test ## Whether the bugs that are planted for the simulator still apply
	scripts/sim-bugs --check

.PHONY: deny
deny: deps ## Licences, advisories and sources of the dependencies
	scripts/deny

.PHONY: deps
deps: ## Install what building, testing and CI need, and only what is missing
	@scripts/deps build test ci

.PHONY: deps-build
deps-build:
	@scripts/deps build

.PHONY: deps-test
deps-test:
	@scripts/deps build test

.PHONY: deps-deb
deps-deb:
	@scripts/deps build deb

.PHONY: deps-fuzz
deps-fuzz:
	@scripts/deps build fuzz

.PHONY: deps-hit-path
deps-hit-path:
	@scripts/deps build hit-path

.PHONY: deps-mutants
deps-mutants:
	@scripts/deps build test mutants
