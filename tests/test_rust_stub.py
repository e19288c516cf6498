"""The Rust extension against its stub, and what its door refuses."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import operator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from atc_backtest.config import AtcConfig
from atc_backtest.errors import UnavailableError
from atc_backtest.kernels.protocol import Outputs, Prices, State
from atc_backtest.kernels.rust import RustKernel

STUB = Path(__file__).parent.parent / "atc_backtest" / "kernels" / "_rust.pyi"


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    if importlib.util.find_spec("atc_backtest.kernels._rust") is None:
        pytest.skip("the Rust extension is not built here")
    return importlib.import_module("atc_backtest.kernels._rust")


def stub_members() -> dict[str, ast.FunctionDef]:
    """Functions of the stub, and of its classes what is made (under the class's name) and the methods."""
    members = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            members[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    members[node.name if item.name == "__new__" else f"{node.name}.{item.name}"] = item
    return members


def stub_signatures() -> dict[str, list[tuple[str, str | None]]]:
    """Per member of the stub: its parameters without self/cls, with their defaults."""
    return {
        name: [p for p in _parameters(node) if p[0] not in ("self", "cls")] for name, node in stub_members().items()
    }


def in_binary(extension: ModuleType, name: str) -> object:
    return operator.attrgetter(name)(extension)


def _parameters(function: ast.FunctionDef) -> list[tuple[str, str | None]]:
    names = [argument.arg for argument in function.args.args]
    defaults = [ast.unparse(default) for default in function.args.defaults]
    return list(zip(names, [None] * (len(names) - len(defaults)) + defaults, strict=True))


def binary_signature(member: object) -> list[tuple[str, str | None]]:
    parameters = inspect.signature(member).parameters.values()  # type: ignore[arg-type]
    return [(p.name, None if p.default is p.empty else repr(p.default)) for p in parameters if p.name != "self"]


def test_the_stub_names_what_the_binary_has(extension: ModuleType) -> None:
    public = {name for name in dir(extension) if not name.startswith("_")}
    classes = [name for name in public if inspect.isclass(getattr(extension, name))]
    methods = {f"{name}.{m}" for name in classes for m in dir(getattr(extension, name)) if not m.startswith("_")}
    assert public | methods == set(stub_members())


def test_the_signatures_agree(extension: ModuleType) -> None:
    for name, parameters in stub_signatures().items():
        assert binary_signature(in_binary(extension, name)) == parameters, name


def test_the_docstrings_begin_alike(extension: ModuleType) -> None:
    classes = {node.name: node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef)}
    for name, node in (stub_members() | classes).items():
        stub, binary = ast.get_docstring(node), inspect.getdoc(in_binary(extension, name))
        assert stub is not None
        assert binary is not None
        assert stub.splitlines()[0] == binary.splitlines()[0], name


def test_levels_are_those_that_run(extension: ModuleType) -> None:
    levels = extension.levels()
    assert levels[-1] == "portable"
    close = 100 + np.arange(60.0).reshape(1, 60) % 7
    signals = []
    for level in ["auto", *levels]:
        kernel, outputs = RustKernel(level), Outputs.allocate(["signal"], 1, 1, 60)
        kernel.advance(kernel.new_state([AtcConfig()], 1), Prices(close), outputs)
        signals.append(outputs.signal)
    for signal in signals:
        np.testing.assert_array_equal(signal, signals[0])


def test_an_unknown_level_is_refused(extension: ModuleType) -> None:
    kernel = RustKernel("sse9")
    with pytest.raises(ValueError, match=r'level = "sse9".*auto, or one of .*portable'):
        kernel.advance(kernel.new_state([AtcConfig()], 1), Prices(np.ones((1, 1))), Outputs())


def test_arrays_that_share_memory_are_refused(extension: ModuleType) -> None:
    kernel, close = RustKernel(), np.full((1, 8), 5.0)
    state = kernel.new_state([AtcConfig()], 1)
    with pytest.raises(ValueError, match="share memory"):
        kernel.advance(state, Prices(close), Outputs(signal=close.reshape(1, 1, 8)))
    assert state.bars.tolist() == [0]
    assert (close == 5.0).all()


def test_arrays_of_other_shapes_or_types_are_refused(extension: ModuleType) -> None:
    good = State.new([AtcConfig()], 2)
    prices = Prices(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"equities has 66 values, .* ask for 132"):
        extension.advance([], good.bars, np.zeros((1, 66, 1)), prices, Outputs(), "auto")
    with pytest.raises(BufferError):
        extension.advance([], good.bars.astype(np.float64), good.equities, prices, Outputs(), "auto")
    frozen = good.bars.copy()
    frozen.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        extension.advance([], frozen, good.equities, prices, Outputs(), "auto")


def test_a_missing_extension_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "atc_backtest.kernels._rust", None)
    with pytest.raises(UnavailableError, match=r"Rust toolchain.*rustup\.rs.*install"):
        RustKernel()
