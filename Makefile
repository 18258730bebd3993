# The commands of a checkout. Each sets up what it needs; none needs more than Python 3.11+, pip and make.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PIP_INSTALL := pip install -q --root-user-action ignore --disable-pip-version-check

# uv where the set-up could have it, else pip.
INSTALL = $(shell test -x $(VENV)/uv/bin/uv && echo "$(VENV)/uv/bin/uv pip install -q --python $(BIN)/python" \
	|| echo "$(BIN)/python -m $(PIP_INSTALL)")

.PHONY: demo test browser-test chaos fuzz files bench calibrate notebook notebooks docs image image-test deploy-test lint lock clean
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/python -m worker demo $(ARGS)

# Bytecode is kept, also where the environment says otherwise: hundreds of processes would compile the same.
test: $(READY)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder $(ARGS)

# The status page and the notebooks in a browser; CHROMIUM names it where it is called otherwise.
browser-test: $(READY)
	@$(INSTALL) -e '.[notebook,map,worker,browser]'
	@$(BIN)/python -m pytest -m browser tests/acceptance/test_status_in_browser.py tests/browser $(ARGS)

chaos: $(READY)
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: $(READY)
	@$(INSTALL) -e '.[bench]'
	@$(BIN)/python -m benchmarks.compare $(or $(ARGS),cog)

calibrate: $(READY)
	@$(INSTALL) -e '.[bench]'
	@$(BIN)/python -m benchmarks.run $(ARGS)

fuzz: $(READY)
	@$(BIN)/python -m tests.fuzz_cog $(ARGS)

# ARGS=FOLDER takes every raster below it through each function; without, a zoo of rasters of every kind.
files: $(READY)
	@$(BIN)/python -m tests.real_files $(ARGS)

notebook: $(READY)
	@$(INSTALL) -e '.[notebook,map,worker]'
	@cd notebooks && ../$(BIN)/jupyter lab $(ARGS)

# Runs all from top to bottom and keeps what they show; ARGS=01 runs one.
notebooks: $(READY)
	@$(INSTALL) -e '.[notebook,map,worker]'
	@$(BIN)/python -m notebooks.execute $(ARGS)

docs: $(READY)
	@$(INSTALL) -e '.[docs]'
	@$(BIN)/mkdocs build --strict $(ARGS)

image:
	@deploy/image/build.sh $(or $(TARGET),full worker)

image-test: $(READY)
	@$(BIN)/python -m tests.image $(ARGS)

# The Azure CLI in an environment of its own (half a gigabyte): its own parser reads each command of a deployment.
deploy-test: $(READY)
	@test -x .az/bin/python || $(BIN)/python -m venv .az || $(VENV)/uv/bin/uv venv -q --seed --python $(BIN)/python .az
	@.az/bin/python -m $(PIP_INSTALL) azure-cli==2.91.0
	@AZ_PYTHON=$(CURDIR)/.az/bin/python $(BIN)/python -m pytest -m az tests/acceptance/test_az_commands.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/hadolint Dockerfile

# uv where it can be had (a tenth of pip's time), else pip. uv is put beside the environment and not into it,
# so that it also serves where the system's Python has no ensurepip.
$(READY): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON)"
	@rm -rf $(VENV) && mkdir $(VENV)
	@if $(PYTHON) -m $(PIP_INSTALL) --target $(VENV)/uv uv; then \
		$(VENV)/uv/bin/uv venv -q --allow-existing --python $(PYTHON) $(VENV) && \
		$(VENV)/uv/bin/uv pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock && \
		$(VENV)/uv/bin/uv pip install -q --python $(BIN)/python --no-deps -e .; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m $(PIP_INSTALL) --require-hashes -r requirements.lock && \
		$(BIN)/python -m $(PIP_INSTALL) --no-deps -e .; \
	fi
	@touch $(READY)

# Names, versions and hashes only: nothing in the lock says where a package came from.
lock: $(READY)
	@$(PYTHON) -m $(PIP_INSTALL) --target $(VENV)/uv uv
	$(VENV)/uv/bin/uv pip compile -q --universal --fork-strategy requires-python --python-version 3.11 \
		--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--extra test pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .az .node demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
