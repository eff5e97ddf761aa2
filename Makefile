# What a newcomer, a contributor and CI run. Needs GNU make and Python 3.11 or later; everything else it installs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q --require-hashes
STAMP := $(VENV)/.installed
# Where it was linted last: most changes change no SQL.
SQL_STAMP := $(VENV)/.sql-linted
# Where the servers were started once: the first start downloads Kafka and prepares it, which no test is to wait for.
STACK_STAMP := $(VENV)/.stack-started
SQL := infra/migrations workers/ledger/sql workers/ops

# What is compiled at its first import is kept for the next process.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## Make the virtual environment from the hashed lock file

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is missing or older than Python 3.11: install it, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) comes without venv and ensurepip: install them (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "making $(VENV) and installing what requirements.lock names ..."
	$(PYTHON) -m venv --clear $(VENV)
	@# uv takes seconds for what takes pip a minute of one core. It knows nothing of pip's settings (an index of one's own,
	@# certificates), and not every platform has it: pip does it then.
	@awk '/^uv==/, !/\\$$/' requirements.lock > $(VENV)/uv.lock
	$(PIP) --only-binary :all: -r $(VENV)/uv.lock && \
		$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock || $(PIP) -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation --no-index -e .
	@touch $(STAMP)

.PHONY: demo
demo: $(STAMP) ## Run the whole system on real Kafka and Postgres and play a story through it (3 min the first time, then 20 s)
	$(BIN)/inmail demo

.PHONY: up
up: $(STAMP) ## Run the whole system in the foreground; data stays in .inmail/ (Ctrl-C ends it); BROKERS=3 WORKERS=2 for more
	$(BIN)/inmail up --data .inmail $(if $(BROKERS),--brokers $(BROKERS)) $(if $(WORKERS),--workers $(WORKERS))

.PHONY: test
test: tools $(STAMP) ## Run lint, types and the tests that show each kind of failure: what CI runs on a change
	@# The stack's first start waits for downloads: beside lint.
	@$(MAKE) --no-print-directory -j3 lint-types lint-rest $(STACK_STAMP)
	@# Tests start the command many times.
	$(BIN)/python -m compileall -q infra schemas workers
	@# Three processes on two cores: a test waits for its servers for half of its time.
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		--durations 60 --durations-min 2

$(STACK_STAMP): infra/local/kafka.lock.json $(STAMP)
	@$(BIN)/python -c 'from infra.local.stack import LocalStack as Stack; stack = Stack(report=print); stack.start(); stack.stop()'
	@touch $@

.PHONY: test-all
test-all: ## Run the same with all tests and all their cases: what CI runs on the main branch and each night
	@TESTS=all $(MAKE) --no-print-directory test

.PHONY: tools
tools: ## Install the Debian packages that tests use, where they are missing and this is root
	@infra/local/debian.sh

.PHONY: lint
lint: $(STAMP) ## Check style, types, SQL, and that rendered files are current
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint-types lint-rest

.PHONY: lint-types
lint-types: $(STAMP) ## The part of lint that checks types
	$(BIN)/mypy

.PHONY: lint-rest
lint-rest: $(STAMP) $(SQL_STAMP) ## The part of lint that checks all the rest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m schemas.render --check
	$(BIN)/python -m workers.telemetry.render --check
	$(BIN)/python -m infra.settings_page --check

$(SQL_STAMP): $(shell find $(SQL) -name '*.sql') pyproject.toml $(STAMP)
	$(BIN)/sqlfluff lint --processes 2 --disable-progress-bar $(SQL)
	@touch $@

.PHONY: format
format: $(STAMP) ## Rewrite style where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: render
render: $(STAMP) ## Render what is derived: AsyncAPI, OpenAPI, JSON Schemas, docs/events.md, metrics.md, settings.md, dashboards
	$(BIN)/python -m schemas.render
	$(BIN)/python -m workers.telemetry.render
	$(BIN)/python -m workers.api.openapi
	$(BIN)/python -m infra.settings_page

.PHONY: console-shots
console-shots: tools $(STAMP) ## Take the README's pictures of the console, of runs of its own, into docs/images/ (5 min; ALL=1: every view, into build/shots/)
	$(BIN)/python -m tests.console.shots $(if $(ALL),--all)

.PHONY: crash-render
crash-render: $(STAMP) ## Render docs/crash-matrix.md from build/crash.json (BESIDE="..." says what else ran)
	$(BIN)/python -m tests.crash.table --beside "$(BESIDE)"

.PHONY: bench
bench: $(STAMP) ## Measure against baselines, BENCH="reads balances" or all, into build/bench.json (about 30 min; not part of the tests)
	$(BIN)/python -m tests.bench $(BENCH)

.PHONY: growth
growth: $(STAMP) ## Measure books of ROWS rows (100000000: 31 GB, hours) beside a million: sends, expiry, statements, audits (GROWTH_DATA keeps them)
	ROWS=$(or $(ROWS),100000000) $(BIN)/python -m tests.growth

.PHONY: growth-partitioned
growth-partitioned: $(STAMP) ## Measure the journal in native partitions beside the journal in one, with ROWS rows (5000000: minutes)
	ROWS=$(or $(ROWS),5000000) $(BIN)/python -m tests.growth.partitioned

.PHONY: histories
histories: $(STAMP) ## Compare 5,000 random histories of all events with the oracle (about 10 min; make test plays 20)
	HISTORIES=5000 $(BIN)/python -m pytest tests/ledger/test_histories.py -k random_histories_as --timeout 3600

.PHONY: clients
clients: $(STAMP) ## Run other people's clients against docs/producers.md, LANGUAGES="python java go javascript kcat" (2 min; not part of the tests)
	$(BIN)/python -m tests.clients $(LANGUAGES)

.PHONY: examples
examples: $(STAMP) ## Build and run the sample programs of examples/, LANGUAGES="python go java typescript" (3 min; not part of the tests)
	$(BIN)/python -m tests.examples $(LANGUAGES)

.PHONY: models
models: $(STAMP) ## Make typed models of all events in build/models, LANGUAGES="python java typescript", and read real results with them (3 min)
	$(BIN)/python -m tests.models $(LANGUAGES)

.PHONY: rights
rights: tools $(STAMP) ## Take away each documented right on Kafka, SASL over TLS, and look whether the error names it (3 min)
	$(BIN)/python -m tests.rights

.PHONY: versions
versions: $(STAMP) ## Run the system on Kafka 4.0 to 4.4 and Postgres 14 to 18, and render docs/versions.md (4 min)
	$(BIN)/python -m tests.versions

.PHONY: fuzz
fuzz: $(STAMP) ## Account for 100,000 malformed records from a real broker (about 5 min; make test sends 500)
	$(BIN)/python -m tests.fuzz

.PHONY: life
life: $(STAMP) ## Freeze, restart and drain workers under load, and work off a backlog of 1,000,000 in bounded memory (about 10 min)
	TESTS=all BACKLOG=1000000 $(BIN)/python -m pytest tests/workers/lane/test_life_cycle.py -s

.PHONY: shards
shards: $(STAMP) ## Kill a move of a partition number to another server at each of its calls, there and back: never two holders (5 min)
	SHARD_KILLS=all $(BIN)/python -m pytest tests/workers/ops/shards/test_move_killed.py --timeout 3600

.PHONY: order
order: $(STAMP) ## Restart, replace and cut workers under load, ROUNDS times (3): no send refused; lanes of 20 random speeds: the same books (5 min)
	TESTS=all ORDER_ROUNDS=$(or $(ROUNDS),3) $(BIN)/python -m pytest tests/workers/test_order.py --timeout 3600
	ORDER_RUNS=20 $(BIN)/python -m pytest tests/workers/lane/test_time_order.py

.PHONY: soak
soak: $(STAMP) ## Run all processes under changing load, with restarts, for MINUTES (60): does memory, a file or a connection grow? docs/soak.md
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60); code=$$?; \
		$(BIN)/python -m tests.soak.page --beside "$(BESIDE)" && exit $$code

.PHONY: sizing
sizing: $(STAMP) ## Measure what a send costs at 4, 12 and 48 partitions and 1 to 4 workers: docs/sizing.md (25 min)
	$(BIN)/python -m tests.bench.sizing
	$(BIN)/python -m tests.bench.sizing_page --beside "$(BESIDE)"

.PHONY: crash
crash: $(STAMP) ## Let each fault meet a worker at each await of the lane: 1,792 in random order, those that begin within an hour: build/crash.json
	TESTS=all CRASH=all $(BIN)/python -m pytest tests/crash -k "without_a_protection or with_the_protection"
	$(BIN)/python -m tests.crash

.PHONY: cluster
cluster: $(STAMP) ## Kill brokers of three, and Postgres servers of two, and move numbers, under load, ROUNDS times (10, and 12): build/cluster*.json (10 min)
	@# Both, whatever the first found: a pause that is too long is no reason to leave out the other half.
	$(BIN)/python -m tests.cluster --rounds $(or $(ROUNDS),10) --seed $(or $(SEED),1); brokers=$$?; \
		$(BIN)/python -m tests.cluster --databases 2 --rounds $(or $(ROUNDS),12) --seed $(or $(SEED),1) --rate 60 --partitions 6 --members 1; \
		databases=$$?; exit $$((brokers > databases ? brokers : databases))

.PHONY: cluster-render
cluster-render: $(STAMP) ## Render docs/cluster.md from build/cluster*.json (BESIDE="..." and BESIDE_DATABASES="..." say what else ran)
	$(BIN)/python -m tests.cluster.table --beside "$(BESIDE)" --beside-databases "$(BESIDE_DATABASES)"

.PHONY: states
states: tools $(STAMP) ## Cause each state an operator has to see, and time each surface: docs/states.md (about 15 min)
	$(BIN)/python -m tests.states; code=$$?; \
		$(BIN)/python -m tests.states.table && exit $$code

.PHONY: image-check
image-check: $(STAMP) ## Run the Dockerfile's steps in a clean folder, where no Docker engine is at hand (1 min)
	$(BIN)/python -m tests.house.image_check

.PHONY: lock
lock: $(STAMP) ## Resolve the dependencies of pyproject.toml anew into both lock files
	$(BIN)/uv pip compile pyproject.toml --all-extras $(LOCK_OPTIONS) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra traces $(LOCK_OPTIONS) -o requirements-run.lock

LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet

.PHONY: package
package: $(STAMP) ## Build the sdist, and from it the wheel, into build/dist/
	@mkdir -p build/dist
	cd infra/packaging && ../../$(BIN)/python -c 'import inmail_backend; inmail_backend.build_sdist("../../build/dist")' >/dev/null
	$(BIN)/python -m pip wheel --disable-pip-version-check -q --no-deps --no-build-isolation --no-index -w build/dist \
		build/dist/inmail_ledger-$$($(BIN)/python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])').tar.gz

.PHONY: clean
clean: ## Remove the virtual environment, build results and caches; data of `make up` stays
	rm -rf $(VENV) build .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
