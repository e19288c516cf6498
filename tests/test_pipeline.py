"""The main job: the same rows whatever the kernel, the cut, the executor or the interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from filling import fill_store
from prices import tick_walk

from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig, resolve
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.kernels.protocol import Kernel, warmup_bars
from atc_backtest.pipelines import costs
from atc_backtest.pipelines.backtest import Options, Progress, backtest, prepare
from atc_backtest.pipelines.runs import open_run
from atc_backtest.pipelines.slabs import Slab, Slabs
from atc_backtest.reference import atc
from atc_backtest.stores.synth import SynthSpec, synth
from atc_backtest.stores.zarr_store import open_store

COSTS = ExecutionConfig(fee_bps=5.0, slippage_bps=2.0, shorts=True)
RUN = RunConfig(AtcConfig(), COSTS, calendar="24/7")
ALL = ("signals", "equity", "trades")


def closes(n_symbols: int, n_bars: int) -> np.ndarray:
    close = np.stack([tick_walk(n_bars, seed) for seed in range(n_symbols)])
    if n_symbols > 2:
        close[1, :90] = np.nan
        close[2, n_bars // 2 :: 5] = np.nan
    return close


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy symbols (two chunks of them) x 900 hourly bars; the last symbol has no bars but one."""
    path = tmp_path_factory.mktemp("stores") / "prices.zarr"
    close = closes(70, 900)
    close[69, 1:] = np.nan
    fill_store(path, close)
    return path


def run(store: Path, out: Path, sets: list[RunConfig] | None = None, **options: object) -> pa.Table:
    return backtest(store, out, sets or [RUN], Options(**options)).table()  # type: ignore[arg-type]


def test_saved_signals_are_the_reference_and_figures_end_where_the_equity_does(store: Path, tmp_path: Path) -> None:
    opened = backtest(store, tmp_path / "run", [RUN], Options(kernel="numba", save=ALL, symbols=("S001", "S065")))
    close = open_store(store).read("close", (1, 2), (0, 900))[0]
    signals = opened.table("signals").to_pandas()
    expected = atc(close, AtcConfig())
    present = ~np.isnan(close)
    got = signals[signals.symbol == "S001"]
    assert np.array_equal(got.signal.to_numpy(), expected.signal[present])
    metrics = opened.table().to_pandas().set_index("symbol")
    equity = opened.table("equity").to_pandas().groupby("symbol").equity
    trades = opened.table("trades").to_pandas()
    for symbol in ("S001", "S065"):
        assert equity.last()[symbol] == metrics.final_equity[symbol]
        assert equity.count()[symbol] == metrics.n_bars[symbol]
        pnl = trades[trades.symbol == symbol].pnl.sum()
        assert pnl == pytest.approx(metrics.final_equity[symbol] - 10_000, rel=1e-9)
        closed = trades[(trades.symbol == symbol) & (trades.status == "closed")]
        assert len(closed) == metrics.trades[symbol] > 0
    assert trades[trades.status == "open"].exit_price.isna().all()


def test_rust_and_numba_give_the_same_rows(store: Path, tmp_path: Path, need_kernel: Callable[[str], Kernel]) -> None:
    need_kernel("rust")
    runs = [backtest(store, tmp_path / name, [RUN], Options(kernel=name, save=ALL)) for name in ("rust", "numba")]
    for dataset in ("metrics", *ALL):
        one, other = (opened.table(dataset) for opened in runs)
        assert one.num_rows > 0
        assert as_bytes(one) == as_bytes(other), dataset


def as_bytes(table: pa.Table) -> bytes:
    """The table's logical content as bytes: an Arrow file of its rows in one batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch, apart: None) -> None:
    """Plans that cut as finely as they would with a lot of work, over stores that have little."""
    monkeypatch.setattr(costs, "TASK_NS", 0.0)
    monkeypatch.setattr(costs, "WORTH_NS", 0.0)


@pytest.mark.usefixtures("eager")
def test_threads_blocks_and_sets_per_partition_change_nothing(store: Path, tmp_path: Path) -> None:
    sets = [RUN, replace(RUN, atc=AtcConfig(lambda_=0.3)), replace(RUN, execution=replace(COSTS, shorts=False))]
    sets.append(replace(RUN, source="hlc3"))
    whole = run(store, tmp_path / "one", sets, threads=1)
    assert whole.num_rows == 70 * 4
    least = prepare(store, tmp_path / "x", sets, Options(threads=1)).plan
    job = prepare(store, tmp_path / "x", sets, Options(threads=3, memory_limit=None))
    assert job.plan.partitions != least.partitions
    assert run(store, tmp_path / "three", sets, threads=3).equals(whole)
    for index, config in enumerate(sets):
        alone = run(store, tmp_path / f"alone{index}", [config])
        rows = whole.filter(pa.compute.equal(whole["param_id"], index)).drop_columns(["param_id"])
        assert rows.select(alone.drop_columns(["param_id"]).column_names).equals(alone.drop_columns(["param_id"]))


@pytest.mark.usefixtures("eager")
def test_a_split_chunk_gives_the_same_rows(store: Path, tmp_path: Path) -> None:
    one = backtest(store, tmp_path / "one", [RUN], Options(threads=1, save=ALL))
    split = backtest(store, tmp_path / "split", [RUN], Options(threads=8, save=ALL))
    assert len(one.partitions) == 2
    assert len(split.partitions) > 4
    assert max(len(part.symbols) for part in split.partitions) < 64
    for dataset in ("metrics", *ALL):
        assert as_bytes(split.table(dataset)) == as_bytes(one.table(dataset)), dataset


@pytest.mark.parametrize("budget", ["free", "least"])
def test_chunks_gathered_into_one_task_give_the_same_rows(
    store: Path, tmp_path: Path, request: pytest.FixtureRequest, budget: str
) -> None:
    sets = [RUN, replace(RUN, atc=AtcConfig(lambda_=0.3))]
    limit = None
    if budget == "least":
        with pytest.raises(ConfigError) as refused:
            prepare(store, tmp_path / "x", sets, Options(threads=1, save=ALL, memory_limit=1))
        limit = int(str(refused.value).rsplit("(", 1)[1].split()[0])
    together = backtest(store, tmp_path / "together", sets, Options(threads=1, save=ALL, memory_limit=limit))
    assert [len(part.symbols) for part in together.partitions][:1] == [70 if budget == "free" else 64]
    request.getfixturevalue("apart")
    apart = backtest(store, tmp_path / "apart", sets, Options(threads=1, save=ALL))
    assert {len(part.symbols) for part in apart.partitions} == {64, 6}
    assert together.content_hash() == apart.content_hash()
    for dataset in ("metrics", *ALL):
        assert as_bytes(together.table(dataset)) == as_bytes(apart.table(dataset)), dataset


def test_saved_positions_are_what_the_signals_ask_for(store: Path, tmp_path: Path) -> None:
    """Of every row, also those that wait in a writer while later ones are computed."""
    run = replace(RUN, execution=replace(COSTS, shorts=True, neutral="flat"))
    rows = backtest(store, tmp_path / "run", [run], Options(save=("signals",))).table("signals").to_pandas()
    asked = np.where(rows.signal > run.atc.long_threshold, 1, np.where(rows.signal < run.atc.short_threshold, -1, 0))
    t = rows.groupby("symbol").cumcount()
    counted = (t >= warmup_bars(run.atc)).to_numpy()
    assert counted.sum() > 10_000
    assert np.array_equal(rows.position.to_numpy()[counted], asked[counted])
    assert not rows.position.to_numpy()[~counted].any()


@pytest.mark.parametrize("ahead", [True, False])
def test_slabs_come_in_order_and_one_ahead_at_most(store: Path, ahead: bool) -> None:
    opened = open_store(store)
    slabs = Slabs(opened, (1, 2, 5), ("close",), 256)
    with slabs.reading(ahead) as reading:
        found = list(reading)
    close = opened.read("close", (0, 6), (0, 900))[[1, 2, 5]]
    assert [slab.ts.size for slab in found] == [256, 256, 256, 132]
    assert np.array_equal(np.concatenate([slab.fields["close"] for slab in found], axis=1), close, equal_nan=True)
    asked: list[int] = []

    class Counted(Slabs):
        def read(self, start: int) -> Slab:
            asked.append(start)
            return super().read(start)

    with Counted(opened, (1,), ("close",), 256).reading(ahead) as reading:
        next(reading)
        next(reading)
    assert len(asked) <= 2 + ahead
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("atc-read")]


@pytest.mark.parametrize("ahead", [True, False])
def test_what_a_read_raises_comes_where_its_slab_is_asked_for(store: Path, ahead: bool) -> None:
    class Broken(Slabs):
        def read(self, start: int) -> Slab:
            if start:
                raise StoreError("a damaged chunk")
            return super().read(start)

    with Broken(open_store(store), (1,), ("close",), 256).reading(ahead) as reading:
        assert next(reading).ts.size == 256
        with pytest.raises(StoreError, match="a damaged chunk"):
            next(reading)


def test_a_small_budget_computes_in_smaller_blocks_with_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "long.zarr"
    fill_store(path, closes(3, 20_000))
    free = prepare(path, tmp_path / "x", [RUN], Options(threads=1)).plan
    limit = free.projected_bytes - 1
    tight = prepare(path, tmp_path / "x", [RUN], Options(threads=1, memory_limit=limit)).plan
    assert tight.block_bars < free.block_bars
    assert run(path, tmp_path / "a", threads=1).equals(run(path, tmp_path / "b", threads=1, memory_limit=limit))


def test_varying_settings_become_columns(store: Path, tmp_path: Path) -> None:
    sets = [RUN, replace(RUN, atc=AtcConfig(profile="pine")), replace(RUN, atc=AtcConfig(decay=0.5))]
    table = run(store, tmp_path / "run", sets, symbols=("S000",))
    assert table.column_names[-2:] == ["decay", "profile"]
    assert table["profile"].to_pylist() == ["enhance", "pine", "enhance"]
    assert table["decay"].to_pylist() == [0.03, 0.03, 0.5]


def test_a_symbol_without_evaluated_bars_has_null_figures(store: Path, tmp_path: Path) -> None:
    row = run(store, tmp_path / "run", symbols=("S069",)).to_pylist()[0]
    assert row["n_bars"] == 0
    assert row["sharpe"] is row["total_return"] is row["start_ts"] is None


@pytest.mark.usefixtures("apart")
def test_interrupted_and_resumed_equals_uninterrupted(store: Path, tmp_path: Path) -> None:
    whole = run(store, tmp_path / "whole", save=ALL)

    def interrupt(n_bars: int) -> None:
        if open_run(tmp_path / "cut").done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backtest(store, tmp_path / "cut", [RUN], Options(save=ALL, threads=1), Progress(advanced=interrupt))
    half = open_run(tmp_path / "cut")
    assert len(half.done) == 1 < len(half.partitions)
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.parquet")}
    (tmp_path / "cut" / "equity" / ".part-00001.parquet.1.tmp").write_text("of a killed worker")
    resumed = backtest(store, tmp_path / "cut", [RUN], Options(save=ALL, resume=True))
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    assert resumed.table().equals(whole)
    for name in ALL:
        assert resumed.table(name).equals(open_run(tmp_path / "whole").table(name))
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())
    again = backtest(store, tmp_path / "cut", [RUN], Options(save=ALL, resume=True))
    assert again.table().equals(whole)


def test_resuming_with_other_settings_is_refused(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path / "run", symbols=("S000",))
    other = replace(RUN, atc=AtcConfig(lambda_=0.5))
    with pytest.raises(ConfigError, match="begun with other settings"):
        run(store, tmp_path / "run", [other], symbols=("S000",), resume=True)
    with pytest.raises(ConfigError, match="begun with other --symbols"):
        run(store, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="begun with other saved series"):
        run(store, tmp_path / "run", symbols=("S000",), resume=True, save=("equity",))
    with pytest.raises(StoreError, match="is not a run"):
        run(store, tmp_path / "absent", resume=True)


def test_prices_that_change_under_a_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.zarr"
    fill_store(path, closes(1, 200))
    run(path, tmp_path / "run")
    fill_store(path, closes(1, 200)[:, :10], start=500)
    with pytest.raises(ConfigError, match="begun with other store version"):
        run(path, tmp_path / "run", resume=True)


def test_nothing_in_the_way_is_touched(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path / "run", symbols=("S000",))
    with pytest.raises(StoreError, match=r"already holds a run.*--resume.*--overwrite"):
        run(store, tmp_path / "run", symbols=("S000",))
    assert run(store, tmp_path / "run", symbols=("S001",), overwrite=True)["symbol"].to_pylist() == ["S001"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(StoreError, match="is not a run: choose another --out; nothing was touched"):
        run(store, precious, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": ("S000", "NOPE")}, "NOPE: not in .*S000, S001"),
        ({"save": ("prices",)}, "cannot save 'prices': choose from signals, equity, trades"),
        ({"workers": 0}, "--workers 0 is not allowed: at least 1"),
        ({"workers": 1, "scheduler": "tcp://x:1"}, "give one of them"),
        ({"kernel": "fortran"}, "unknown kernel 'fortran'"),
        ({"memory_limit": 10**7}, "memory limit of 10 MB is too small.*needs at least"),
    ],
)
def test_what_cannot_run_is_refused_before_work(
    store: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(store, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_fields_that_a_store_lacks_are_named(tmp_path: Path) -> None:
    fill_store(tmp_path / "closes.zarr", closes(1, 100), fields=("close",))
    with pytest.raises(ConfigError, match=r"source = 'hl2' needs the fields high, low.*lacks"):
        run(tmp_path / "closes.zarr", tmp_path / "run", [replace(RUN, source="hl2")])
    with pytest.raises(ConfigError, match=r"needs opening prices.*next_close"):
        run(tmp_path / "closes.zarr", tmp_path / "run", [replace(RUN, execution=ExecutionConfig(fill="next_open"))])
    assert run(tmp_path / "closes.zarr", tmp_path / "run", save=("trades",)).num_rows == 1


def test_the_manifest_says_what_was_run(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path / "run", kernel="numba", symbols=("S000",))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    info = open_store(store).info
    assert manifest["kernel"] == "numba"
    assert manifest["store"] == {"path": str(store), "id": info.id, "version": info.version}
    assert {"atc-backtest", "numba", "zarr"} <= set(manifest["versions"])
    assert manifest["sets"][0]["bars_per_year"] == 8766
    assert (manifest["sets"][0]["calendar"], manifest["sets"][0]["fill"]) == ("24/7", "next_open")
    assert open_run(tmp_path / "run").sets == (RUN,)


def test_a_local_cluster_gives_the_same_rows(store: Path, tmp_path: Path) -> None:
    whole = run(store, tmp_path / "threads", save=ALL, kernel="numba")
    seen: list[int] = []
    clustered = backtest(
        store,
        tmp_path / "cluster",
        [RUN],
        Options(workers=2, save=ALL, kernel="numba"),
        Progress(advanced=seen.append),
    )
    assert clustered.table().equals(whole)
    for name in ALL:
        assert clustered.table(name).equals(open_run(tmp_path / "threads").table(name))
    assert len(clustered.partitions) == 2
    assert sum(seen) == sum(symbol.n_bars for symbol in open_store(store).info.symbols)


def test_a_scheduler_that_is_not_there_is_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run(store, tmp_path / "run", scheduler="tcp://127.0.0.1:9")


def peak_and_projection(store: Path, out: Path, options: str) -> tuple[int, int]:
    """Most memory a process held that ran a backtest with `options`, and what its plan had promised."""
    program = f"""
import json, re
from pathlib import Path
from atc_backtest.config import RunConfig
from atc_backtest.pipelines.backtest import Options, backtest, prepare
options = Options({options})
args = Path({str(store)!r}), Path({str(out)!r}), [RunConfig()], options
projected = prepare(*args).plan.projected_bytes
backtest(*args)
status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
print(json.dumps([int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024, projected]))
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    peak, projected = json.loads(found.stdout)
    return peak, projected


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


@needs_proc
@pytest.mark.parametrize(
    ("kernel", "symbols", "bars"), [("numba", 128, 40_000), ("auto", 128, 40_000), ("auto", 1280, 2_000)]
)
def test_measured_peak_memory_stays_under_the_projection(tmp_path: Path, kernel: str, symbols: int, bars: int) -> None:
    """A chunk a task, and ten chunks gathered into one."""
    path = tmp_path / "big.zarr"
    fill_store(path, np.tile(np.stack([tick_walk(bars, seed) for seed in range(128)]), (symbols // 128, 1)))
    options = f"threads=2, kernel={kernel!r}, save=('signals', 'equity', 'trades')"
    peak, projected = peak_and_projection(path, tmp_path / "run", options)
    assert 10**8 < peak <= projected


@needs_proc
@pytest.mark.slow
def test_a_hundred_times_the_bars_need_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for n_bars in (10**5, 10**7):
        path = tmp_path / f"{n_bars}.zarr"
        synth(path, SynthSpec(1, n_bars, seed=1, bar_ns=10**9, fields=("close",)))
        peak, projected = peak_and_projection(path, tmp_path / f"run-{n_bars}", "threads=1")
        assert peak <= projected
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 16 * 2**20  # its closes are 80 MB; the manifest grows by a line a chunk


def test_the_environment_reaches_the_configuration() -> None:
    assert resolve(environment={"ATC_SHORTS": "true"}).execution.shorts
