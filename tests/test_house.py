"""The house: who may import whom, one door for each library, links, lengths, versions, bundled prices."""

from __future__ import annotations

import ast
import os
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import atc_backtest
from atc_backtest.config import resolve
from atc_backtest.kernels.protocol import Kernel

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "atc_backtest"

LAYERS = (
    ("errors", "limits", "config", "growth", "accounts", "symbol_costs", "jit"),
    ("booking", "stops", "fills", "sums", "execution"),
    (
        "calendars",
        "reference",
        "booking",
        "stops",
        "fills",
        "sums",
        "execution",
        "metrics",
        "moments",
        "periods",
        "weights",
        "trials",
        "resampling",
        "causality",
        "stores",
    ),
    ("kernels",),
    ("pipelines", "live"),
    ("diagnosis", "display"),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""From the ground up, the twin of the README's picture: a module imports its own layer or lower ones."""

DOORS = {
    "zarr": (
        "atc_backtest.stores.codecs",
        "atc_backtest.stores.zarr_store",
        "atc_backtest.stores.zarr_view",
    ),
    "numcodecs": ("atc_backtest.stores.coding",),
    "blosc2": ("atc_backtest.stores.compressors",),
    "pcodec": ("atc_backtest.stores.compressors",),
    "exchange_calendars": ("atc_backtest.calendars",),
    "fsspec": ("atc_backtest.stores.remote",),
    "fcntl": ("atc_backtest.jit", "atc_backtest.stores.fetch.partial", "atc_backtest.stores.lock"),
    "dask": ("atc_backtest.pipelines.cluster",),
    "distributed": ("atc_backtest.pipelines.cluster", "atc_backtest.pipelines.workers"),
    "cupy": ("atc_backtest.kernels.cupy_device",),
    "typer": ("atc_backtest.cli",),
    "optuna": ("atc_backtest.pipelines.search",),
    "bokeh": ("atc_backtest.pipelines.connecting", "atc_backtest.pipelines.pages.charts"),
    "rich": ("atc_backtest.display.terminal",),
    "aiohttp": ("atc_backtest.stores.fetch.download",),
    "yarl": ("atc_backtest.stores.fetch.download",),
    "ccxt": ("atc_backtest.stores.fetch.exchange",),
    "PIL": ("atc_backtest.pipelines.pages.pictures",),
    "matplotlib": ("atc_backtest.api", "atc_backtest.pipelines.pages.pictures"),
    "pandas": ("atc_backtest.api.results",),
}
"""The only modules, or packages of them, that import a library."""

STORES_MAY_USE = ("atc_backtest.errors", "atc_backtest.jit", "atc_backtest.stores")

MAX_LINES = 400


@dataclass(frozen=True)
class Module:
    """One source file of the package, and every module it names in an import, wherever that stands."""

    name: str
    path: Path
    imports: tuple[str, ...]

    @property
    def layer(self) -> int:
        return next(i for i, names in enumerate(LAYERS) if self.name.split(".")[1] in names)


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file() or path.with_suffix(".pyi").is_file()


def imports_of(path: Path) -> Iterator[str]:
    """`from a import b` names a.b where that is a module of ours, else a."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if base.startswith("atc_backtest") and is_module(inner) else base


def sources(folder: Path) -> Iterator[Path]:
    """Python files below, links followed (os.walk, for Python 3.11), builds left out."""
    for at, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if f not in ("__pycache__", "target") and not f.startswith("."))
        yield from (Path(at, file) for file in sorted(files) if file.endswith(".py"))


def package_modules() -> list[Module]:
    modules = []
    for path in sources(PACKAGE):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        modules.append(Module(dotted, path, tuple(imports_of(path))))
    return modules


MODULES = package_modules()
LAYERED = [module for module in MODULES if module.name != "atc_backtest"]


def names_or_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_every_module_has_its_layer() -> None:
    known = {name for layer in LAYERS for name in layer}
    homeless = [module.name for module in LAYERED if module.name.split(".")[1] not in known]
    assert homeless == [], "put the module into LAYERS here and into the README's picture"
    assert len(LAYERED) > 20


def test_imports_run_downward() -> None:
    layer_of = {module.name: module.layer for module in LAYERED}
    upward = [
        f"{module.name} imports {name}"
        for module in LAYERED
        for name in module.imports
        if name in layer_of and layer_of[name] > module.layer
    ]
    assert upward == []


def test_the_root_imports_nothing_heavy() -> None:
    root = next(module for module in MODULES if module.name == "atc_backtest")
    light = ("__future__", "importlib", "typing", "atc_backtest")
    assert [name for name in root.imports if not name.startswith(light)] == []


@pytest.mark.parametrize("library", DOORS)
def test_one_door_each(library: str) -> None:
    users = {module.name for module in MODULES for name in module.imports if names_or_inside(name, library)}
    assert [user for user in users if not any(names_or_inside(user, door) for door in DOORS[library])] == []


def test_a_kernel_imports_no_store_and_no_other_kernel() -> None:
    home = "atc_backtest.kernels"
    table = next(module for module in MODULES if module.name == home)
    backends = {name for name in table.imports if names_or_inside(name, home)} - {f"{home}.protocol"}
    assert len(backends) >= 3
    broken = [
        f"{module.name} imports {name}"
        for module in MODULES
        if module.name.startswith(home + ".")
        for name in module.imports
        if names_or_inside(name, "atc_backtest.stores") or name in backends - {module.name} or name == home
    ]
    assert broken == []


def test_a_store_knows_prices_only() -> None:
    broken = [
        f"{module.name} imports {name}"
        for module in MODULES
        if names_or_inside(module.name, "atc_backtest.stores")
        for name in module.imports
        if name.startswith("atc_backtest") and not any(names_or_inside(name, one) for one in STORES_MAY_USE)
    ]
    assert broken == []


def test_nobody_imports_the_bare_folders() -> None:
    everywhere = [ROOT / "setup.py", *sources(PACKAGE)]
    for folder in ("tests", "benchmarks", "examples"):
        everywhere += sources(ROOT / folder)
    bare = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in everywhere
        for name in imports_of(path)
        if name.split(".")[0] in ("stores", "pipelines")
    ]
    assert bare == []


@pytest.mark.parametrize("name", ["stores", "pipelines"])
def test_links_are_committed_as_links(name: str) -> None:
    if not (ROOT / name).is_dir():
        pytest.skip(f"no {name}/ here: a source distribution holds the folder inside atc_backtest/")
    assert (PACKAGE / name).readlink() == Path("..", name)
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--stage", f"atc_backtest/{name}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert listed.stdout.startswith("120000 ")


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {module.path.parent for module in MODULES}
    assert sorted(str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()) == []


def test_files_stay_short_and_named_for_what_they_hold() -> None:
    tree = {path.resolve() for folder in (PACKAGE, ROOT / "tests", ROOT / "examples") for path in sources(folder)}
    tree |= set((PACKAGE / "kernels" / "rust" / "src").glob("*.rs"))
    for path in sorted(tree):
        name = path.relative_to(ROOT).as_posix()
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= MAX_LINES, f"{name} has {lines} lines, at most {MAX_LINES}: cut it"
        assert path.stem not in ("utils", "helpers", "core", "common", "misc"), f"{name}: name it for what it holds"


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    crate = tomllib.loads((PACKAGE / "kernels" / "rust" / "Cargo.toml").read_text(encoding="utf-8"))["package"]
    assert project["version"] == crate["version"] == atc_backtest.__version__


def test_the_kernels_that_must_be_here_are(required_kernels: list[str], need_kernel: Callable[[str], Kernel]) -> None:
    assert [need_kernel(name).name for name in required_kernels] == required_kernels


def test_bundled_prices() -> None:
    data = ROOT / "examples" / "data"
    assert sum(path.stat().st_size for path in data.rglob("*.parquet")) < 1_500_000
    stocks = pq.read_table(data / "us_stocks.parquet")
    assert stocks.column_names == ["date", "symbol", "close"]
    assert stocks["symbol"].value_counts().field("counts").to_pylist() == [8313] * 20
    assert stocks["close"].null_count == 0
    assert pc.min(stocks["close"]).as_py() > 0
    for name in ("SP500", "NASDAQ"):
        quotes = pq.read_table(data / "us_indices" / f"{name}.parquet")
        assert quotes.column_names == ["date", "open", "high", "low", "close", "volume"]
        assert quotes.num_rows == 5031


def test_the_demo_pays_costs() -> None:
    execution = resolve(ROOT / "examples" / "demo.toml", environment={}).execution
    assert execution.fee_bps > 0
    assert execution.slippage_bps > 0
