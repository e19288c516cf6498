"""The plan is pure: every symbol and set exactly once, within the budget or refused before work."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.costs import ACCOUNT_NS, LONGEST_NS
from atc_backtest.pipelines.plan import Shape, format_bytes, make_plan, parse_bytes, plan_again


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
    for part in plan.partitions:
        touched = {s // chunk for s in part.symbols}
        assert len(touched) == 1 or set(part.symbols) == {s for s in symbols if s // chunk in touched}
    assert limit is None or plan.projected_bytes <= limit


def test_symbols_that_fit_one_vector_are_shared_by_splitting_the_sets() -> None:
    assert len(make_plan(shape((0, 1, 2), n_sets=10), 2, False, None).partitions) == 2
    assert len(make_plan(shape((0, 1, 2), n_sets=1), 2, False, None).partitions) == 1


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_one_chunk_of_symbols_is_shared_by_as_many_workers_as_it_has_vectors_for(workers: int) -> None:
    found = make_plan(shape(tuple(range(64))), workers, False, None).partitions
    assert [len(part.symbols) for part in found] == [64 // workers] * workers


def test_chunks_enough_for_all_workers_stay_whole() -> None:
    assert len(make_plan(shape(tuple(range(64 * 64))), 2, False, None).partitions) == 64


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_tasks_that_would_be_over_in_a_moment_are_gathered_and_nobody_idles(workers: int) -> None:
    """5,000 symbols of 1,500 bars are 79 chunks of some 10 ms each."""
    whole = shape(tuple(range(5000)), n_bars=1_500)
    found = make_plan(whole, workers, False, None)
    assert workers <= len(found.partitions) <= 10 + workers
    sizes = [len(part.symbols) for part in found.partitions]
    assert sum(sizes) == 5000
    assert max(sizes) - min(sizes) <= 64
    alone = make_plan(shape(tuple(range(64)), n_bars=1_500), 1, False, None)
    assert found.seconds <= 79 * alone.seconds / workers
    assert found.projected_bytes < 2 * make_plan(shape(tuple(range(128))), workers, False, None).projected_bytes


def test_parts_of_saved_series_are_larger_where_tasks_stay_short_enough() -> None:
    plain = shape(tuple(range(64 * 64)), n_bars=20_000)
    saving = replace(plain, saved_bytes=40, written_bytes=8)
    found = make_plan(saving, 2, False, None)
    assert len(found.partitions) < len(make_plan(plain, 2, False, None).partitions)
    assert 64e6 <= 8 * 20_000 * max(len(part.symbols) for part in found.partitions) <= 256e6
    assert found.seconds * 2 / len(found.partitions) <= LONGEST_NS / 1e9


@pytest.mark.parametrize("n_sets", [1, 20, 1000])
def test_a_gpu_is_given_tasks_as_the_cpu_is_and_the_accounts_bound_the_run(n_sets: int) -> None:
    """1,000 symbols on 16 threads are 16 chunks at once, which together are as many series as a GPU takes at once."""
    on_cpu = shape(tuple(range(1000)), n_sets)
    on_gpu = replace(on_cpu, kernel="cuda")
    cpu, gpu = (make_plan(one, 16, False, None) for one in (on_cpu, on_gpu))
    assert {len(part.symbols) for part in gpu.partitions} == {64, 40}
    assert len(gpu.partitions) <= len(cpu.partitions)
    assert 16 * gpu.seconds / len(gpu.partitions) <= LONGEST_NS / 1e9
    assert 2 < cpu.seconds / gpu.seconds < 3
    counted = 1000 * 100_000 * n_sets * ACCOUNT_NS / 1e9 / 16
    assert counted < gpu.seconds < 4 * counted


def test_what_goes_to_a_device_is_counted_up_to_the_most_that_is_on_its_way() -> None:
    on_gpu = replace(shape(tuple(range(64)), n_sets=100, n_bars=1_000), kernel="cuda")
    free = make_plan(on_gpu, 1, False, None)
    staging = make_plan(replace(on_gpu, staging_bytes=10**6), 1, False, None)
    assert staging.projected_bytes == free.projected_bytes + 10**6
    most = make_plan(replace(on_gpu, staging_bytes=10**12), 1, False, None)
    prices_and_signals = 8 * 16_384 * 64 * (2 + 100)
    assert most.projected_bytes == free.projected_bytes + 2 * prices_and_signals


def test_what_is_over_in_a_moment_is_not_split() -> None:
    assert len(make_plan(shape(tuple(range(64)), n_bars=500), 8, False, None).partitions) == 1


def test_tasks_that_would_be_long_have_fewer_sets() -> None:
    found = make_plan(shape(tuple(range(64)), n_sets=1000), 1, False, None)
    assert all(len(part.symbols) == 64 for part in found.partitions)
    assert 0 < found.seconds / len(found.partitions) <= LONGEST_NS / 1e9


def test_memory_depends_on_neither_bars_nor_symbols() -> None:
    small = make_plan(shape(tuple(range(128)), n_bars=10**5), 2, False, None)
    assert make_plan(shape(tuple(range(5000))), 2, False, None).projected_bytes == small.projected_bytes
    assert make_plan(shape((0,), n_bars=10**5), 2, False, None).projected_bytes == (
        make_plan(shape((0,), n_bars=10**9), 2, False, None).projected_bytes
    )


def test_a_tighter_budget_computes_smaller_blocks_then_fewer_sets() -> None:
    everything = shape(tuple(range(64)), n_sets=2_000, n_bars=1_000)
    free = make_plan(everything, 1, False, None)
    tight = make_plan(everything, 1, False, 10**9)
    assert tight.block_bars < free.block_bars
    assert tight.projected_bytes <= 10**9 < free.projected_bytes


def test_without_a_limit_half_of_the_machine_is_aimed_at_and_nothing_refused() -> None:
    everything = shape(tuple(range(64)), n_sets=2_000, n_bars=1_000)
    free = make_plan(everything, 1, False, None)
    half = make_plan(everything, 1, False, None, ram_bytes=free.projected_bytes)
    assert half.memory_limit is None
    assert half.projected_bytes <= free.projected_bytes // 2
    assert make_plan(everything, 1, False, None, ram_bytes=2 * free.projected_bytes) == free
    with pytest.raises(ConfigError) as refused:
        make_plan(everything, 1, False, 1)
    least = int(re.findall(r"\((\d+) bytes\)", str(refused.value))[0])
    assert make_plan(everything, 1, False, None, ram_bytes=1).projected_bytes == least


def test_a_run_that_goes_on_aims_at_half_of_the_machine_too() -> None:
    everything = shape(tuple(range(64)), n_sets=2_000, n_bars=1_000)
    free = make_plan(everything, 1, False, None)
    cut = free.partitions
    half = plan_again(everything, cut, 1, False, None, ram_bytes=free.projected_bytes)
    assert half.partitions == cut
    assert half.memory_limit is None
    assert half.block_bars < free.block_bars
    assert half.projected_bytes <= free.projected_bytes // 2
    assert plan_again(everything, cut, 1, False, None, ram_bytes=2 * free.projected_bytes).block_bars == free.block_bars
    with pytest.raises(ConfigError) as refused:
        plan_again(everything, cut, 1, False, 1)
    least = int(re.findall(r"\((\d+) bytes\)", str(refused.value))[0])
    assert plan_again(everything, cut, 1, False, None, ram_bytes=1).projected_bytes == least


@given(
    n_symbols=st.integers(1, 300),
    n_sets=st.integers(1, 300),
    n_bars=st.sampled_from([100, 10**5, 10**8]),
    workers=st.integers(1, 9),
    processes=st.booleans(),
)
def test_the_smallest_budget_that_works_is_named_to_the_byte(
    n_symbols: int, n_sets: int, n_bars: int, workers: int, processes: bool
) -> None:
    wanted = shape(tuple(range(n_symbols)), n_sets, n_bars)
    with pytest.raises(ConfigError, match=r"too small for .*Raise --memory-limit") as caught:
        make_plan(wanted, workers, processes, 10**6)
    named = [int(size) for size in re.findall(r"\((\d+) bytes\)", str(caught.value))]
    assert len(named) == (2 if workers > 1 else 1)
    for budget, n in zip(named, (workers, 1), strict=False):
        assert make_plan(wanted, n, processes, budget).projected_bytes <= budget
        with pytest.raises(ConfigError, match="is too small"):
            make_plan(wanted, n, processes, budget - 1)


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


@given(
    n_symbols=st.integers(1, 400),
    n_sets=st.integers(1, 20),
    before=st.integers(1, 8),
    workers=st.integers(1, 8),
    saved=st.sampled_from([0, 80]),
)
def test_a_run_that_goes_on_keeps_its_cut_and_is_promised_what_that_needs(
    n_symbols: int, n_sets: int, before: int, workers: int, saved: int
) -> None:
    whole = replace(shape(tuple(range(n_symbols)), n_sets), saved_bytes=saved)
    begun = make_plan(whole, before, False, None)
    same = plan_again(whole, begun.partitions, before, False, None)
    assert (same.partitions, same.projected_bytes) == (begun.partitions, begun.projected_bytes)
    again = plan_again(whole, begun.partitions, workers, False, None)
    assert again.partitions == begun.partitions
    assert again.task_bytes == begun.task_bytes
    with pytest.raises(ConfigError, match="at least") as refused:
        plan_again(whole, begun.partitions, workers, False, 1)
    least = int(re.findall(r"\((\d+) bytes\)", str(refused.value))[0])
    assert plan_again(whole, begun.partitions, workers, False, least).projected_bytes == least
    with pytest.raises(ConfigError, match="at least"):
        plan_again(whole, begun.partitions, workers, False, least - 1)
