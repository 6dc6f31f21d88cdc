# Everything a checkout needs, from nothing but Python >= 3.11, make and git.
#
# Set-up happens by itself, once: .venv/.set-up is newer than what it was made from.
# uv.lock holds public addresses only (pypi.org, files.pythonhosted.org); `make lock` keeps it so.

VENV := .venv/bin
READY := .venv/.set-up
CODE := .
DEMO = $(if $(BROKER),--broker $(BROKER)) $(if $(SECONDS),--seconds $(SECONDS))

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench lint format lock set-up clean brokers

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## supervised agents at work: no key, no broker, under 10 s; PROCESSES=2 [BROKER=URL SECONDS=60]: in processes that are killed meanwhile
	@$(VENV)/python examples/$(if $(PROCESSES),killed_processes.py --processes $(PROCESSES) $(DEMO),distributed.py)

test: $(READY) brokers ## everything a change must pass: format, lint, types, tests
	@status=0; \
	$(MAKE) --no-print-directory lint || status=$$?; \
	$(VENV)/python -m pytest -q -n 5 --dist worksteal -m "not soak" || status=$$?; \
	exit $$status

soak: $(READY) brokers ## the long fault runs
	@$(VENV)/python -m pytest -q -m soak --timeout=3600
	@PATH="$$(tools/nats.sh):$$PATH" $(VENV)/python -m pytest -q -n 2 -m "not soak" -k nats  # on a current server

bench: $(READY) brokers ## measure, and write what was measured
	@$(VENV)/python -m benchmarks

lint: $(READY) ## ruff and mypy
	@status=0; \
	$(VENV)/ruff format --check -q $(CODE) || { status=1; echo "murmur: not formatted as above; mend: make format" >&2; }; \
	$(VENV)/ruff check -q $(CODE) || status=1; \
	$(VENV)/mypy --no-error-summary || status=1; \
	exit $$status

format: $(READY) ## write the code as `lint` wants it
	@$(VENV)/ruff format -q $(CODE)
	@$(VENV)/ruff check -q --fix $(CODE)

# The index is said here, so that no machine's own mirror gets into the lock.
lock: $(READY) ## choose the newest versions that pyproject.toml allows
	@env -u UV_INDEX -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS UV_NO_CONFIG=1 \
		$(VENV)/uv lock -q --upgrade --default-index https://pypi.org/simple
	@if grep -nE 'file:|path = |directory = ' uv.lock; then echo "murmur: uv.lock names this machine" >&2; exit 1; fi

set-up: $(READY) ## what all others do first

clean: ## forget .venv, caches and what was built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml uv.lock tools/set_up.sh
	@tools/set_up.sh
	@touch $@

brokers: $(READY)
	@command -v redis-server >/dev/null || tools/apt.sh "the tests need redis-server" redis-server
	@test -x /usr/sbin/nats-server || command -v nats-server >/dev/null || tools/apt.sh "the tests need nats-server" nats-server
	@tools/kafka.sh
	@tools/node.sh
	@command -v rabbitmq-server >/dev/null || tools/apt.sh "the tests need rabbitmq-server" rabbitmq-server
