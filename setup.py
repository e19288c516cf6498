"""The Rust kernel, built where there is a Rust toolchain; everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import sys

from setuptools import setup
from setuptools_rust import RustExtension

# A build that must have the kernel says so, and then fails where it cannot be built.
required = "rust" in os.environ.get("ATC_REQUIRE_KERNELS", "").split(",")

if shutil.which("cargo") is None:
    print(
        "atc-backtest: no Rust toolchain found (cargo is not on PATH): the Rust kernel is left out and the "
        "Numba kernel is used. To have it, install Rust (https://rustup.rs) and install again.",
        file=sys.stderr,
    )

setup(
    rust_extensions=[
        RustExtension(
            "atc_backtest.kernels._rust",
            path="atc_backtest/kernels/rust/Cargo.toml",
            features=["python"],
            debug=False,
            optional=not required,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
