# Everything a newcomer types. `make` alone says what there is.
#
# PYTHON     the interpreter to use, 3.11 to 3.14 (default: python3)
# HOMES, DURATION, SPEED, SEED                           what `make run` and `make chaos` play
# POSTGRES_PORT, ANVIL_PORT, API_PORT, IOT_PORT          ports (default: free ones)
# AUTH=true                                              IAM and IoT policies are enforced (default; false: not)
# DATABASE_URL, RPC_URL, ANVIL_BIN                       existing parts to use in place of the embedded ones
# LOCALSTACK_PYTHON, LOCALSTACK_AUTH_TOKEN               a Python 3.13 for LocalStack's core; the token of LocalStack's image
# OPERATOR_WALLETS   who operates the market that `make up` starts: addresses, comma separated (default: nobody)
# RUNTIME    the version of Python that `make deploy` deploys for, 3.11 to 3.14 (default: 3.13)
# TESTS      what `make test` and `make localstack-test` give to pytest (default: all tests)
# WORKERS    how many processes `make test` shares the files among (default: 2; 0: none but its own)
# QUICK, SECTIONS   whether `make bench` is to be short, and what it measures (default: all, in 20 to 30 minutes)
# JOBS, MUTANTS, LIVES   how many mutants are tried at once, which, and how hard the state machine looks for each
# ATTACKS, FUZZ_EXAMPLES what `make security` does (scan, attacks, fuzz; default: all), and how much it sends to each route

PYTHON ?= python3
RUNTIME ?= 3.13
WORKERS ?= 2
SHELL := /bin/bash
LOCAL := $(CURDIR)/.local
VENV := $(LOCAL)/venv/bin
# An active environment or a PYTHONPATH of the person's would leak into ours.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
# SAM runs makefiles of its own, to which PYTHON means something else.
unexport MAKEFLAGS MFLAGS MAKELEVEL PYTHON
export SAM_CLI_TELEMETRY := 0

.DEFAULT_GOAL := help
.PHONY: help set-up run chaos up down reconcile replay deploy test localstack localstack-test bench mutants security check format picture lock clean

help: ## Say what there is
	@echo "make run     the whole system on this machine, with a simulated community (HOMES=10 DURATION=seconds)"
	@echo "make chaos   that community while everything beneath it fails (SEED=1 DURATION=120 HOMES=10)"
	@echo "make up      the same system without the community; it keeps its state until \`make clean\`"
	@echo "make down    stop it"
	@echo "make reconcile  compare database and chain of what runs here, and list each difference"
	@echo "make replay  move messages that failed for good back to their queues"
	@echo "make test    all tests (TESTS=... for some)"
	@echo "make localstack  the same market on LocalStack's image (needs Docker and LOCALSTACK_AUTH_TOKEN)"
	@echo "make localstack-test  the end-to-end tests on LocalStack's open-source core, without either"
	@echo "make bench   measure speed beside its floors and other engines (QUICK=1 for under two minutes, SECTIONS=... for some)"
	@echo "make mutants plant bugs, one at a time, and see that each is found (JOBS=2)"
	@echo "make security  scan, attack and fuzz the product (ATTACKS=... for some of it, FUZZ_EXAMPLES=50)"
	@echo "make check   lint, types, templates, contract artifacts"
	@echo "make format  let ruff put the code in order"
	@echo "make picture record \`make run\` and draw it for the README (docs/run.svg)"
	@echo "make deploy  deploy to an AWS account (SAM's guided deploy)"
	@echo "make lock    resolve the dependencies anew (UPGRADE=1 for newer versions)"
	@echo "make clean   stop what runs and remove all that was made"

set-up:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[0] != 3)' >/dev/null 2>&1 \
		|| { echo "There is no working Python called '$(PYTHON)': name one, 3.11 to 3.14, as in \`make PYTHON=python3.13\`." >&2; exit 1; }
	@$(PYTHON) -B localstack/set_up.py $(SET_UP)

run: set-up
	@$(VENV)/python -m local_market run

chaos: set-up
	@$(VENV)/python -m local_market chaos

up: set-up
	@$(VENV)/python -m local_market up

# From the folder of the package: an environment that an older version made does not know where it is.
down:
	@if [ -x $(VENV)/python ]; then cd localstack && $(VENV)/python -m local_market down; else echo "Nothing of this checkout runs."; fi

reconcile: set-up
	@$(VENV)/python -m local_market reconcile

replay: set-up
	@$(VENV)/python -m local_market replay

deploy: set-up
	@env -u MAKEFLAGS -u MAKEOVERRIDES BUILD_PYTHON=$(VENV)/python UV=$(LOCAL)/bin/uv LAMBDA_PYTHON=$(RUNTIME) SAM_CLI_TELEMETRY=0 \
		$(LOCAL)/bin/sam build --parameter-overrides PythonRuntime=python$(RUNTIME)
	@SAM_CLI_TELEMETRY=0 $(LOCAL)/bin/sam deploy --guided \
		--parameter-overrides PythonRuntime=python$(RUNTIME) DeployedAt=$$(date -u +%Y-%m-%dT%H:%M:%SZ)

test: SET_UP = localstack lambda
test: set-up
	@$(VENV)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

localstack: set-up
	@$(VENV)/python -m local_market compose

localstack-test: SET_UP = localstack lambda
localstack-test: set-up
	@$(VENV)/python -m local_market conformance $(TESTS)

bench: SET_UP = bench
bench: set-up
	@$(LOCAL)/bench/bin/python -m bench $(if $(QUICK),--quick) $(SECTIONS)

mutants: set-up
	@$(VENV)/python -m tests.mutants

security: SET_UP = security slither
security: set-up
	@$(VENV)/python -m tests.security $(ATTACKS)

check: set-up
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/cfn-lint template.yaml infra/watching.yaml
	AWS_DEFAULT_REGION=us-east-1 $(LOCAL)/bin/sam validate --lint
	AWS_DEFAULT_REGION=us-east-1 $(LOCAL)/bin/sam validate --lint --template infra/watching.yaml
	PATH="$(LOCAL)/bin:$$PATH" node infra/contracts/compile.mjs --check
	$(VENV)/python -m pytest -q tests/unit/test_dependencies.py

format: set-up
	@$(VENV)/ruff check --fix-only --quiet .
	@$(VENV)/ruff format .

picture: set-up
	@$(VENV)/python infra/record_run.py

# Without an index's or a find-links address: each machine resolves from its own.
RESOLVE = $(LOCAL)/bin/uv pip compile --quiet --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
COMPILE = $(RESOLVE) --universal --python-version 3.11 --group
lock:
	@$(PYTHON) -B localstack/set_up.py uv
	$(COMPILE) dev -o requirements.txt
	$(COMPILE) layer -c requirements.txt -o layers/energy_market/requirements.txt
	$(COMPILE) settlement -c requirements.txt -o functions/settlement/requirements.txt --no-emit-package pycryptodome
	$(COMPILE) ministack -o localstack/locks/ministack.txt
	$(COMPILE) sam -o localstack/locks/sam.txt
	$(COMPILE) node -o localstack/locks/node.txt
	$(COMPILE) uv -o localstack/locks/uv.txt
	$(COMPILE) bench -c requirements.txt -o localstack/locks/bench.txt
	$(COMPILE) security -o localstack/locks/security.txt
	$(COMPILE) slither -o localstack/locks/slither.txt
	$(COMPILE) lambda -o localstack/locks/lambda.txt
	$(RESOLVE) --python-version 3.13 --group localstack -o localstack/locks/localstack.txt # it has no other
	npm install --package-lock-only --ignore-scripts

clean:
	@if [ -x $(VENV)/python ]; then cd localstack && $(VENV)/python -m local_market down --remove; fi
	@rm -rf .local .aws-sam node_modules build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
