# Every job of this project, each a command that works after nothing but a clone.
PYTHON ?= python3
BIN := .venv/bin
# Real peers that the tests talk to, from Debian.
PEERS := docker-registry skopeo apache2-utils prometheus prometheus-alertmanager chromium fish \
  zsh buildah debootstrap iproute2 strace systemd systemd-container

.PHONY: setup demo test test-slow check format bench lock build image peers clean

setup: .venv/.done ## virtual environment with the locked dependencies

.venv/.done: requirements/dev.lock pyproject.toml
	@echo "installing into .venv; this takes a minute"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# fal's own client pins old versions of common libraries: it gets an environment of its own.
.venv-fal/.done: requirements/fal.lock
	@echo "installing fal's own client into .venv-fal, for tests"
	@$(PYTHON) -m venv .venv-fal
	@.venv-fal/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fal.lock
	@touch $@

demo: .venv/.done ## the main job, against local stand-ins; ends with Ctrl-C
	$(BIN)/refresher demo

test: .venv/.done .venv-fal/.done peers ## everything that is quick
	$(BIN)/pytest -m "not slow" --numprocesses 4

test-slow: .venv/.done .venv-fal/.done peers ## kills, builds, many seeds
	$(BIN)/pytest -m slow --numprocesses 2

check: .venv/.done ## format, lint, strict types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.done .venv-fal/.done ## figures as ratios in one run
	$(BIN)/python -m benchmarks

# Peers are installed where that is possible; a test whose peer is missing says so.
peers:
	@missing=; for package in $(PEERS); do \
	  dpkg-query --show --showformat='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	    || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "peers not installed:$$missing (their tests are skipped)"; exit 0; \
	fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	  || echo "peers could not be installed:$$missing"

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url

lock: ## resolve the dependencies anew, and list their licences; needs uv
	$(LOCK) pyproject.toml --all-extras --output-file requirements/runtime.lock
	$(LOCK) pyproject.toml --all-extras --group dev --output-file requirements/dev.lock
	$(LOCK) --group pyproject.toml:build --output-file requirements/build.lock
	$(LOCK) --group pyproject.toml:fal --output-file requirements/fal.lock
	$(MAKE) setup  # the list is read off what is installed
	$(BIN)/python requirements/generate_licences.py > requirements/licences.md.new
	mv requirements/licences.md.new requirements/licences.md

build: .venv/.done ## wheel and sdist
	$(BIN)/hatchling build

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' refresher/__init__.py)
DOCKER ?= docker

image: ## the container image, by docker or by what DOCKER names, such as podman or buildah
	$(DOCKER) build $(IMAGE_FLAGS) --build-arg VERSION=$(VERSION) --tag refresher:$(VERSION) .

clean:
	rm -rf .venv .venv-fal dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
