"""What tests share: how hypothesis runs, where real prices are, and which kernels must be here.

ATC_SHARED_DATA        folder of real prices; default: shared/data beside the repository
ATC_REQUIRE_SHARED=1   its absence is a failure, not a skip
ATC_REQUIRE_KERNELS    kernels, separated by commas, whose absence is a failure, not a skip
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filling
import pytest
from archive_server import Archive, archive_server
from hypothesis import settings

from atc_backtest.errors import UnavailableError
from atc_backtest.kernels import KERNELS, get_kernel
from atc_backtest.kernels.protocol import Kernel

ROOT = Path(__file__).resolve().parent.parent

# Time limits fail on busy machines, and a build must not fail by chance: CI repeats the same examples.
settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def _shared_folder() -> Path:
    named = os.environ.get("ATC_SHARED_DATA")
    return Path(named) if named else ROOT.parent / "shared" / "data"


def _required_kernels() -> list[str]:
    return [name.strip() for name in os.environ.get("ATC_REQUIRE_KERNELS", "").split(",") if name.strip()]


def _kernel_line(name: str) -> str:
    try:
        get_kernel(name)
    except UnavailableError as error:
        return f"{name}: MISSING, its tests are skipped. {error}"
    return f"{name}: here"


def pytest_report_header() -> list[str]:
    """Says at the top what the run below cannot show."""
    folder = _shared_folder()
    data = str(folder) if folder.is_dir() else "MISSING, their tests are skipped (set ATC_SHARED_DATA)"
    return [f"real prices: {data}", *(f"kernel {_kernel_line(name)}" for name in KERNELS)]


@pytest.fixture(scope="session", autouse=True)
def _ledgers_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of tests enter no ledger in somebody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("ATC_LEDGER", raising=False)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real prices. Skips where there is none, fails where ATC_REQUIRE_SHARED=1 asks for it."""
    folder = _shared_folder()
    if folder.is_dir():
        return folder
    reason = f"no real prices at {folder}: set ATC_SHARED_DATA to their folder"
    if os.environ.get("ATC_REQUIRE_SHARED") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def need_kernel() -> Callable[[str], Kernel]:
    """Name -> kernel. Skips where it is not installed, fails where ATC_REQUIRE_KERNELS names it."""

    def need(name: str) -> Kernel:
        try:
            return get_kernel(name)
        except UnavailableError as error:
            if name in _required_kernels():
                pytest.fail(f"ATC_REQUIRE_KERNELS names {name}: {error}")
            pytest.skip(f"{name} kernel: {error}")

    return need


@pytest.fixture(scope="session")
def required_kernels() -> list[str]:
    """Names in ATC_REQUIRE_KERNELS."""
    return _required_kernels()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URL of a bucket of a server that ends with the session: fsspec keeps its clients, each with its endpoint."""
    boto3 = pytest.importorskip("boto3", reason="pip install -e '.[dev]' brings moto's S3 server")
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "of-nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "of-nobody")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="prices")
        yield "s3://prices"
        server.stop()


@pytest.fixture
def archive() -> Iterator[Archive]:
    """An archive that has nothing yet, on this machine."""
    with archive_server() as served:
        yield served


@pytest.fixture
def apart() -> Iterator[None]:
    """As `filling.apart`, for a test."""
    with filling.apart():
        yield
