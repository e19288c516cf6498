"""The plan is pure: every symbol and set exactly once, within the budget or refused before work."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.plan import Shape, format_bytes, make_plan, parse_bytes


def shape(symbols: tuple[int, ...], n_sets: int = 1, n_bars: int = 100_000, chunk_symbols: int = 64) -> Shape:
    return Shape(
        symbols=symbols,
        n_bars=n_bars,
        chunk_symbols=chunk_symbols,
        chunk_bars=16_384,
        n_fields=2,
        n_sets=n_sets,
        state_bytes=2_000,
        set_bytes=1_000,
        process_bytes=400 * 10**6,
    )


@given(
    chosen=st.sets(st.integers(0, 500), min_size=1),
    n_sets=st.integers(1, 50),
    chunk=st.sampled_from([1, 4, 64]),
    workers=st.integers(1, 9),
    limit=st.none() | st.integers(10**9, 10**10),
)
def test_the_union_of_all_partitions_is_every_symbol_and_set_exactly_once(
    chosen: set[int], n_sets: int, chunk: int, workers: int, limit: int | None
) -> None:
    symbols = tuple(sorted(chosen))
    try:
        plan = make_plan(shape(symbols, n_sets, chunk_symbols=chunk), workers, False, limit)
    except ConfigError:
        assert limit is not None
        return
    seen = Counter((s, p) for part in plan.partitions for s in part.symbols for p in range(*part.sets))
    assert set(seen) == {(s, p) for s in symbols for p in range(n_sets)}
    assert set(seen.values()) == {1}
    assert [part.index for part in plan.partitions] == list(range(len(plan.partitions)))
    assert all(len({s // chunk for s in part.symbols}) == 1 for part in plan.partitions)
    assert limit is None or plan.projected_bytes <= limit


def test_one_chunk_of_symbols_is_shared_by_splitting_the_sets() -> None:
    assert len(make_plan(shape((0, 1, 2), n_sets=10), 2, False, None).partitions) == 2
    assert len(make_plan(shape((0, 1, 2), n_sets=1), 2, False, None).partitions) == 1


def test_memory_depends_on_neither_bars_nor_symbols() -> None:
    small = make_plan(shape(tuple(range(64)), n_bars=10**5), 2, False, None)
    large = make_plan(shape(tuple(range(5000)), n_bars=10**9), 2, False, None)
    assert small.projected_bytes == large.projected_bytes


def test_a_tighter_budget_computes_smaller_blocks_then_fewer_sets() -> None:
    everything = shape(tuple(range(64)), n_sets=2_000)
    free = make_plan(everything, 1, False, None)
    tight = make_plan(everything, 1, False, 10**9)
    assert tight.block_bars < free.block_bars
    assert tight.projected_bytes <= 10**9 < free.projected_bytes


def test_too_small_a_budget_is_refused_with_the_smallest_that_works() -> None:
    with pytest.raises(ConfigError, match=r"too small for 4 workers.*Raise --memory-limit") as caught:
        make_plan(shape((0,)), 4, True, 10**8)
    several, single = re.findall(r"[\d.]+ [GM]B", str(caught.value))[1:]
    assert make_plan(shape((0,)), 4, True, parse_bytes(several.replace(" ", "")))
    assert make_plan(shape((0,)), 1, True, parse_bytes(single.replace(" ", "")))


@pytest.mark.parametrize(
    ("text", "size"), [("1GB", 10**9), ("1.5GiB", 3 * 2**29), ("800 MB", 8 * 10**8), ("64kb", 64_000), ("1e9", 10**9)]
)
def test_sizes_people_write(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "1XB", "-1GB", "0", "nanGB", "infMB"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a size: write e\.g\. 1GB"):
        parse_bytes(text)


@given(st.integers(1, 2**60))
def test_printed_sizes_suffice(size: int) -> None:
    assert parse_bytes(format_bytes(size).replace(" ", "")) >= size
