# Needs Python 3.11 or newer and a POSIX make. `make PYTHON=/path/to/python3.12 demo` chooses the Python.
.POSIX:

PYTHON =
PY = .venv/bin/python
ATC = .venv/bin/atc-backtest
PIP = PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install --quiet
CRATE = atc_backtest/kernels/rust
CARGO = --locked --manifest-path $(CRATE)/Cargo.toml
INGEST = --tz UTC --calendar XNYS --overwrite
BACKTEST = --config examples/demo.toml --overwrite
BUILT_FROM = pyproject.toml setup.py $(CRATE)/Cargo.toml $(CRATE)/Cargo.lock $(CRATE)/src

help:
	@echo "make demo       set up, ingest the bundled prices, backtest them with costs, print the reports"
	@echo "make test       set up what is missing and run every test"
	@echo "make check      format, lint and types of Python and Rust: what CI and pre-commit run"
	@echo "make docs       build the documentation's site into site/; it must build without a warning"
	@echo "make bench      the speed of kernels, stores, ingest and fetch, as ratios measured side by side"
	@echo "make venv       set up .venv for development and nothing more"
	@echo "make clean      remove what was built and the demo's output; distclean removes .venv too"

demo: .venv/.plain
	$(ATC) ingest examples/data/us_indices --store demo/indices.zarr $(INGEST)
	$(ATC) backtest demo/indices.zarr --out demo/indices $(BACKTEST)
	$(ATC) report demo/indices
	$(ATC) ingest examples/data/us_stocks.parquet --store demo/stocks.zarr $(INGEST)
	$(ATC) backtest demo/stocks.zarr --out demo/stocks $(BACKTEST)
	$(ATC) report demo/stocks

test: .venv/.dev
	@if command -v cargo >/dev/null; then \
	  echo cargo test $(CARGO); cargo test --quiet $(CARGO); \
	else \
	  echo "skipped: cargo test, for there is no Rust toolchain on PATH (https://rustup.rs)"; \
	fi
	$(PY) -m pytest -n auto --maxprocesses 4

check: .venv/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	@if command -v cargo >/dev/null; then \
	  echo "cargo fmt --check and cargo clippy, in $(CRATE)"; \
	  cargo fmt --check --manifest-path $(CRATE)/Cargo.toml && \
	  cargo clippy --quiet $(CARGO) --all-targets --all-features -- -D warnings; \
	else \
	  echo "skipped: cargo fmt and clippy, for there is no Rust toolchain on PATH (https://rustup.rs)"; \
	fi

docs: .venv/.dev
	$(PY) -m mkdocs build --strict

bench: .venv/.dev
	$(PY) benchmarks/kernel.py
	$(PY) benchmarks/stores.py
	$(PY) benchmarks/storage_size.py
	$(PY) benchmarks/ingest.py
	$(PY) benchmarks/fetch.py
	$(PY) benchmarks/out_of_core.py

venv: .venv/.dev

# The demo needs what users need; tests and checks need the dev extra, which includes it.
.venv/.plain: .venv/.made
	@echo "installing atc-backtest into .venv: a minute or two"
	@rm -f atc_backtest/kernels/_rust*.so
	$(PIP) --editable .
	@touch $@
	@$(SAY_KERNEL)

.venv/.dev: .venv/.made
	@echo "installing atc-backtest and its development tools into .venv: a few minutes"
	@rm -f atc_backtest/kernels/_rust*.so
	$(PIP) --editable '.[dev]'
	@touch .venv/.plain $@
	@$(SAY_KERNEL)

SAY_KERNEL = kernel=`$(PY) -c 'from atc_backtest.kernels import get_kernel; print(get_kernel().name)'`; \
	case $$kernel in \
	rust) echo "kernel: rust";; \
	*) if command -v cargo >/dev/null; then \
	     echo "kernel: $$kernel. The Rust kernel was not built; why: $(PY) -m pip install -v -e ."; \
	   else \
	     echo "kernel: $$kernel. No Rust toolchain on PATH; with one (https://rustup.rs) this builds the faster one."; \
	   fi;; \
	esac

# Looked at every time, written only when the Python, the toolchain, the folder or what is built changed since.
.venv/.made: FORCE
	@found=; modern='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! .venv/bin/python -c "$$modern" 2>/dev/null; then \
	  for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	    if $$python -c "import ensurepip; $$modern" 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No Python 3.11 or newer with venv found (python3 is: `python3 -V 2>&1`)." >&2; \
	    echo "Install one (on Debian or Ubuntu: apt install python3 python3-venv)," >&2; \
	    echo "or name it: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "making .venv with $$found, `$$found -V`"; \
	  $$found -m venv --clear .venv || exit 1; \
	fi; \
	$(PY) -c 'import pip' 2>/dev/null || $(PY) -m ensurepip || exit 1; \
	built_from=`find $(BUILT_FROM) -type f | LC_ALL=C sort | xargs cat | cksum`; \
	now="`$(PY) -V`, `cargo --version 2>/dev/null || echo no cargo`, `pwd`, $$built_from"; \
	[ "$$now" = "`cat $@ 2>/dev/null`" ] || echo "$$now" > $@

clean:
	rm -rf build dist demo site atc_backtest.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf $(CRATE)/target atc_backtest/kernels/_rust*.so
	rm -f .venv/.plain .venv/.dev .venv/.made
	find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv

FORCE:

.PHONY: help demo test check docs bench venv clean distclean FORCE
