# Every way to build, run and check Forewarn. `make help` lists them.
# Variables one may set: CARGO (default cargo), OUT (bundles, screenshots; default out).

CARGO ?= cargo
OUT   ?= out
WEB   := server/console/web
BIN   := target/release
# The release binaries are static. That needs --target, because libraries of the compiler's own
# (derive macros) cannot be static; the flag stays out of .cargo/config.toml so that development
# builds, tests and editors share one ordinary set of artefacts. Packed relocations make the agent 0.35 MB smaller
# (the C library linked in must know them: glibc 2.36 or newer).
STATIC := RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
HOST  := $(shell rustc -vV | sed -n 's/^host: //p')

.DEFAULT_GOAL := help
.PHONY: help families bench-forecast fuzz guest bench-scan torture soak warnbench openapi run demo fleet bench-store bench-agent build test check machine house fmt fmt-check lint doc unit console console-test product images bundle

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## Build everything, start a server and an agent of this host; Ctrl-C stops both (data in ./data)
	@packaging/run-local.sh

demo: build fleet ## Start a server and a simulated fleet with a few stories; Ctrl-C stops both (data in ./data/demo)
	@packaging/run-demo.sh

fleet:
	$(STATIC) $(CARGO) build --locked --release --target $(HOST) -p forewarn-server --example fleet
	@mkdir -p $(BIN)/examples
	@ln -f target/$(HOST)/release/examples/fleet $(BIN)/examples/

bench-store: build fleet ## What storing costs here: intake, merging, memory, bytes, reads, growth, on SQLite and MariaDB (needs mariadb-server, root)
	@tests/bench-store.sh

build: console ## Build the console and both static release binaries into target/release
	$(STATIC) $(CARGO) build --locked --release --target $(HOST) -p forewarn-server
	$(STATIC) $(CARGO) build --locked --profile agent --target $(HOST) -p forewarn-agent
	@mkdir -p $(BIN)
	@ln -f target/$(HOST)/release/forewarn-server target/$(HOST)/agent/forewarn-agent $(BIN)/

console: $(WEB)/dist/index.html ## Build the web console (embedded in the server)

$(WEB)/node_modules/.package-lock.json: $(WEB)/package.json $(WEB)/package-lock.json
	npm --prefix $(WEB) ci
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(shell find $(WEB)/src $(WEB)/public $(WEB)/index.html $(WEB)/vite.config.ts -type f 2>/dev/null)
	npm --prefix $(WEB) run build
	@touch $@ server/console/build.rs # a build before there was a console does not look for one again

openapi: ## Write the API's snapshot and the console's types after a change of the API
	$(CARGO) run --locked -q -p forewarn-server -- openapi > $(OUT)/openapi.json
	cp $(OUT)/openapi.json $(WEB)/openapi.json
	npm --prefix $(WEB) run types

fmt: ## Format the Rust sources
	$(CARGO) fmt --all

test: machine check ## Everything CI runs; on bare Debian as root installs the packages it needs first

check: house fmt-check console-test lint doc unit build product ## What CI runs, cheap first, on a machine that is ready

machine: ## Install (Debian, root) or name the system packages that the tests need
	@tests/machine.sh

house: ## House rules: rooms, imports, names, paths (no build, a second)
	@mkdir -p target
	@rustc --edition 2024 --test -o target/house tests/tests/house.rs
	@RUST_BACKTRACE=0 target/house -q

fmt-check:
	$(CARGO) fmt --all -- --check

lint: ## Clippy with warnings denied, workspace and all targets
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc: ## Documentation builds without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

unit: ## Unit and integration tests of the crates
	@tests/cargo-test.sh --workspace --exclude forewarn-tests

console-test: $(WEB)/dist/index.html ## Type check and tests of the console
	npm --prefix $(WEB) run check
	npm --prefix $(WEB) run test

product: tests/browser/node_modules/.package-lock.json ## End to end, on a real engine, database and browser (needs root)
	@tests/cargo-test.sh -p forewarn-tests

tests/browser/node_modules/.package-lock.json: tests/browser/package.json tests/browser/package-lock.json
	npm --prefix tests/browser ci
	@touch $@

# The folder of the benchmark (its data are not ours to keep here), and the decisions to compare with:
# made by its baselines.py where a PYTHON with numpy is at hand, or given as AGAINST=<decisions.csv>.
WARNBENCH ?= ../shared/warnbench
PYTHON    ?= python3
AGAINST   ?= target/warnbench/kcm_lite.csv

families: ## Replay eighteen kinds of series that the benchmark does not have; only a table
	@$(CARGO) build --locked --release -q -p forewarn-server --example warnbench --example families
	@target/release/examples/families target/families
	@target/release/examples/warnbench target/families --quick --out target/families/out

warnbench: ## Replay the benchmark in WARNBENCH with the shipped code; fails when a bar is missed
	@$(CARGO) build --locked --release -q -p forewarn-server --example warnbench
	@test -s "$(AGAINST)" || ! $(PYTHON) -c 'import numpy' 2>/dev/null || \
		$(PYTHON) $(WARNBENCH)/baselines.py --manifest $(WARNBENCH)/manifest-dev.json --out target/warnbench --only kcm_lite
	@target/release/examples/warnbench $(WARNBENCH) $$(test -s "$(AGAINST)" && echo --against "$(AGAINST)")

SCALE_HOSTS ?= 1000

bench-forecast: warnbench ## How good forecasts are and what they cost: the benchmark, a step, rounds over SCALE_HOSTS of 100 series (half an hour, 2 GB)
	$(CARGO) bench --locked -q -p forewarn-server --bench forecast -- --noplot
	$(CARGO) build --locked --release -q -p forewarn-server --example forecast_scale
	rm -rf target/scale
	target/release/examples/forecast_scale fill target/scale --hosts $(SCALE_HOSTS) --days 14
	MIMALLOC_PURGE_DELAY=0 target/release/examples/forecast_scale run target/scale --rounds 16
	rm -rf target/scale

BENCH_MINUTES ?= 3

bench-agent: build ## What the agent costs, for BENCH_MINUTES, beside installed peers (needs root, a quiet machine)
	$(CARGO) run --locked -q -p forewarn-tests --example bench_agent -- --minutes $(BENCH_MINUTES)

TORTURE_ROUNDS ?= 200
SOAK_MINUTES   ?= 60

torture: build fleet tests/browser/node_modules/.package-lock.json ## The long loops (needs root, prints its seeds): the tailer's model, log storms, TORTURE_ROUNDS of killed servers, databases and networks, a soak of SOAK_MINUTES
	PROPTEST_CASES=20000 $(CARGO) test --locked -p forewarn-agent --lib tailer
	FOREWARN_TORTURE_ROUNDS=$(TORTURE_ROUNDS) $(CARGO) test --locked -p forewarn-tests --test product -- storm:: crash:: cluster:: --nocapture --test-threads 1
	SOAK_MINUTES=$(SOAK_MINUTES) tests/soak.sh

soak: build fleet ## A server under a steady fleet for SOAK_MINUTES: memory and file descriptors stay flat
	SOAK_MINUTES=$(SOAK_MINUTES) tests/soak.sh

guest: ## The built agent in a small guest with cgroup v2, beside the kernel's own files (needs qemu-system-x86)
	tests/guest.sh

images: ## Both FROM scratch images from target/release, with the docker at hand
	packaging/images.sh

bundle: ## One offline archive: images, binaries, compose file, units, install script
	packaging/bundle.sh $(OUT)

# What cargo-fuzz would set, so that it need not be installed.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing -Cdebug-assertions
FUZZ_SECONDS ?= 60

FUZZ_TARGET := x86_64-unknown-linux-gnu/release
fuzz = cd $(1)/fuzz && mkdir -p corpus/$(2) && target/$(FUZZ_TARGET)/$(2) corpus/$(2) -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=1024

fuzz: ## Fuzz every parser of bytes from outside, FUZZ_SECONDS each (needs a nightly toolchain)
	for crate in agent common; do (cd $$crate/fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) +nightly build --release --target x86_64-unknown-linux-gnu) || exit 1; done
	mkdir -p common/fuzz/corpus/block agent/fuzz/corpus/settings agent/fuzz/corpus/text
	cp common/golden/*.bin common/fuzz/corpus/block/ && cp config/agent.toml agent/fuzz/corpus/settings/
	for text in stat meminfo diskstats net/dev mounts loadavg uptime self/cgroup; do cp /proc/$$text agent/fuzz/corpus/text/$$(basename $$text); done
	$(call fuzz,common,block)
	$(call fuzz,agent,log)
	$(call fuzz,agent,text)
	$(call fuzz,agent,settings)
	$(call fuzz,agent,scrape)

bench-scan: ## The log path beside bare aho-corasick and regex, in the profile that ships
	$(CARGO) bench --locked -p forewarn-agent --profile agent --bench scan
