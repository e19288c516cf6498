"""Vectors of float64 lanes for Numba: formulas written once in Python, traced into LLVM's own vectors.

Left alone, Numba vectorises a loop or does not, by rules that change with its version. Here the width is
stated: a `vector_pass` is Python that runs while Numba compiles, on `Vector`s instead of numbers, and
leaves the instructions behind; a Python `for` over nine lengths is unrolled by being run, `code.loop` is
a loop at run time. Every operation is IEEE, lane by lane; nothing is fused or reordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

NUMBER = ir.DoubleType()
INTEGER = ir.IntType(64)


def host_lanes() -> int:
    """float64 lanes of this processor's widest vectors: 8 with AVX-512, 4 with AVX, else 2."""
    features = binding.get_host_cpu_features()
    return 8 if features.get("avx512f") else 4 if features.get("avx") else 2


LANES = host_lanes()
VECTOR = ir.VectorType(NUMBER, LANES)


@dataclass(frozen=True)
class Vector:
    """`LANES` numbers of the code being written."""

    code: Code
    value: ir.Value

    def _with(self, value: ir.Value) -> Vector:
        return Vector(self.code, value)

    def __add__(self, other: Vector) -> Vector:
        return self._with(self.code.builder.fadd(self.value, other.value))

    def __sub__(self, other: Vector) -> Vector:
        return self._with(self.code.builder.fsub(self.value, other.value))

    def __mul__(self, other: Vector) -> Vector:
        return self._with(self.code.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Vector) -> Vector:
        return self._with(self.code.builder.fdiv(self.value, other.value))

    def __lt__(self, other: Vector) -> Mask:
        return self._compare("<", other)

    def __gt__(self, other: Vector) -> Mask:
        return self._compare(">", other)

    def __ge__(self, other: Vector) -> Mask:
        return self._compare(">=", other)

    def equals(self, other: Vector) -> Mask:
        return self._compare("==", other)

    def _compare(self, how: str, other: Vector) -> Mask:
        """False where either is NaN."""
        return Mask(self.code, self.code.builder.fcmp_ordered(how, self.value, other.value))

    def larger(self, other: Vector) -> Vector:
        """`self > other ? self : other`: `other` where either is NaN."""
        return (self > other).select(self, other)

    def smaller(self, other: Vector) -> Vector:
        """`self < other ? self : other`: `other` where either is NaN."""
        return (self < other).select(self, other)

    def abs(self) -> Vector:
        return self._with(self.code.lanewise("fabs", self.value))

    def rint(self) -> Vector:
        """To the nearest integer, ties to even."""
        return self._with(self.code.lanewise("rint", self.value))


@dataclass(frozen=True)
class Mask:
    """A truth in each lane."""

    code: Code
    value: ir.Value

    def select(self, yes: Vector, no: Vector) -> Vector:
        return Vector(self.code, self.code.builder.select(self.value, yes.value, no.value))

    def __and__(self, other: Mask) -> Mask:
        return Mask(self.code, self.code.builder.and_(self.value, other.value))

    def __invert__(self) -> Mask:
        return Mask(self.code, self.code.builder.not_(self.value))


@dataclass(frozen=True)
class Integer:
    """A whole number known at run time only: a bar, a row."""

    code: Code
    value: ir.Value

    def __add__(self, other: Integer | int) -> Integer:
        return Integer(self.code, self.code.builder.add(self.value, self.code.integer(other).value))

    def __sub__(self, other: Integer | int) -> Integer:
        return Integer(self.code, self.code.builder.sub(self.value, self.code.integer(other).value))

    def __mul__(self, other: int) -> Integer:
        return Integer(self.code, self.code.builder.mul(self.value, self.code.integer(other).value))

    def as_vector(self) -> Vector:
        return self.code.splat(self.code.builder.sitofp(self.value, NUMBER))


class Variable:
    """A vector that changes; LLVM keeps it in a register."""

    def __init__(self, code: Code, start: Vector) -> None:
        self._code = code
        self._place = cgutils.alloca_once(code.builder, VECTOR)
        self.value = start

    @property
    def value(self) -> Vector:
        return Vector(self._code, self._code.builder.load(self._place))

    @value.setter
    def value(self, value: Vector) -> None:
        self._code.builder.store(value.value, self._place)


class Array:
    """A C-contiguous array of the caller's, indexed flat: as vectors, numbers or integers."""

    def __init__(self, code: Code, data: ir.Value) -> None:
        self._code = code
        self._data = data

    def _at(self, index: Integer | int, kind: ir.Type) -> ir.Value:
        pointer = self._code.builder.bitcast(self._data, kind.as_pointer())
        return self._code.builder.gep(pointer, [self._code.integer(index).value], source_etype=kind)

    def __getitem__(self, index: Integer | int) -> Vector:
        """The vector of row `index`."""
        return Vector(self._code, self._code.builder.load(self._at(index, VECTOR), align=8, typ=VECTOR))

    def __setitem__(self, index: Integer | int, vector: Vector) -> None:
        self._code.builder.store(vector.value, self._at(index, VECTOR), align=8)

    def number(self, index: Integer | int) -> Vector:
        """The number at `index`, in every lane."""
        return self._code.splat(self._code.builder.load(self._at(index, NUMBER), typ=NUMBER))

    def integer(self, index: Integer | int) -> Integer:
        return Integer(self._code, self._code.builder.load(self._at(index, INTEGER), typ=INTEGER))


class Code:
    """What a pass writes into."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def splat(self, number: float | ir.Value) -> Vector:
        """One number in every lane."""
        if isinstance(number, float):
            return Vector(self, ir.Constant(VECTOR, [NUMBER(number)] * LANES))
        one = self.builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, INTEGER(0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return Vector(self, self.builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), everywhere))

    def integer(self, value: Integer | int) -> Integer:
        return Integer(self, INTEGER(value)) if isinstance(value, int) else value

    def variable(self, start: Vector) -> Variable:
        return Variable(self, start)

    @contextmanager
    def loop(self, start: Integer | int, stop: Integer | int) -> Iterator[Integer]:
        with cgutils.for_range_slice(
            self.builder, self.integer(start).value, self.integer(stop).value, INTEGER(1), INTEGER
        ) as (index, _):
            yield Integer(self, index)

    def lanewise(self, name: str, value: ir.Value) -> ir.Value:
        kind = ir.FunctionType(VECTOR, [VECTOR])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.v{LANES}f64")
        return self.builder.call(function, [value])


class Region:
    """Rows of a larger array, from `start` on."""

    def __init__(self, array: Array, start: Integer) -> None:
        self._array, self._start = array, start

    def __getitem__(self, index: Integer | int) -> Vector:
        return self._array[self._start + index]

    def __setitem__(self, index: Integer | int, vector: Vector) -> None:
        self._array[self._start + index] = vector


class Fields:
    """A named tuple's members: arrays as `Array`, whole numbers as `Integer`, numbers as splat vectors.

    Whole numbers that the tuple's class calls `Row` are where a region of its array `work` begins.
    """

    def __init__(self, code: Code, context: Any, kind: types.NamedTuple, value: ir.Value) -> None:
        parts = cgutils.unpack_tuple(code.builder, value, len(kind.fields))
        found = zip(kind.fields, kind.types, parts, strict=True)
        self._parts = {name: _wrapped(code, context, part_kind, part) for name, part_kind, part in found}
        for name, called in kind.instance_class.__annotations__.items():
            if getattr(called, "__forward_arg__", None) == "Row":  # as written: Row itself is int
                self._parts[name] = Region(self._parts["work"], self._parts[name])

    def __getattr__(self, name: str) -> Any:
        return self._parts[name]


def _wrapped(code: Code, context: Any, kind: types.Type, value: ir.Value) -> Any:
    if isinstance(kind, types.NamedTuple):
        return Fields(code, context, kind, value)
    if isinstance(kind, types.Array):
        return Array(code, context.make_array(kind)(context, code.builder, value).data)
    if isinstance(kind, types.Integer):
        return Integer(code, code.builder.sext(value, INTEGER) if value.type.width < INTEGER.width else value)
    return code.splat(value)


def vector_pass(write: Callable[..., None]) -> Callable[..., None]:
    """A function for compiled code whose body is what `write(code, one, two, three, *arguments)` writes.

    Called as `made(one, two, three, arguments)`: three whole numbers known while compiling, and a tuple.
    """

    def typed(typing_context: Any, one: Any, two: Any, three: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            code = Code(builder)
            *known, arguments = signature.args
            parts = cgutils.unpack_tuple(builder, values[3], len(arguments.types))
            wrapped = (_wrapped(code, context, kind, part) for kind, part in zip(arguments.types, parts, strict=True))
            write(code, *(constant.literal_value for constant in known), *wrapped)
            return context.get_dummy_value()

        return types.void(one, two, three, arguments), generate

    made: Callable[..., None] = intrinsic(prefer_literal=True)(typed)
    return made
