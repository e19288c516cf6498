"""What people see of guards: a table, and a verdict in words that gives its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from atc_backtest.display.terminal import Side, iso, print_json, print_table

if TYPE_CHECKING:
    from atc_backtest.pipelines.guards.assessing import Deflation, WalkedForward
    from atc_backtest.pipelines.guards.causal import Checked
    from atc_backtest.pipelines.guards.ledger import Ledger
    from atc_backtest.pipelines.guards.rerunning import Case, CostTable, DelayTable
    from atc_backtest.pipelines.guards.shuffle import Shuffled
    from atc_backtest.resampling import CrossValidation, Overfitting, WalkForward

ROWS = 40
"""Rows of a table that are shown; --json has all."""


def show_walk_forward(found: WalkedForward, as_json: bool) -> None:
    """The whole's folds, each symbol's sums, the verdict."""
    if as_json:
        _json(asdict(found), walk_forward_verdict(found.whole))
        return
    rows = []
    for step in found.whole.steps:
        start, stop = step.test
        last = iso(found.starts[stop - 1])
        chosen = "-" if step.chosen is None else str(step.chosen)
        rows.append([iso(found.starts[start]), last, chosen, _number(step.in_sample), _number(step.out_of_sample)])
    title = f"all symbols, tested {found.period} by {found.period}: Sharpe ratios of the chosen set"
    _table(("test from", "to", "set", "in sample", "out of sample"), rows, title)
    each = [
        [name, _number(one.in_sample), _number(one.out_of_sample), _number(one.efficiency), f"{one.growth - 1:+.1%}"]
        for name, one in found.symbols.items()
    ]
    print()
    _table(("symbol", "in sample", "out of sample", "efficiency", "return"), each, "each symbol by itself")
    _verdict(walk_forward_verdict(found.whole))


def walk_forward_verdict(found: WalkForward) -> str:
    """In one sentence."""
    folds = len(found.steps)
    if found.out_of_sample is None:
        return f"nothing to judge: the chosen sets never moved in {folds} tests."
    outside, inside = _number(found.out_of_sample), _number(found.in_sample)
    kept = "none of it is comparable" if found.efficiency is None else f"{found.efficiency:.0%} of it was kept"
    judged = "holds up" if (found.efficiency or 0) >= 0.5 else "does not hold up"
    return (
        f"choosing {judged}: chosen at a Sharpe ratio of {inside}, the sets had {outside} afterwards ({kept}), "
        f"above 0 in {found.positive} of {folds} tests, {found.growth - 1:+.1%} in all."
    )


def show_cross_validation(found: CrossValidation, as_json: bool) -> None:
    """Paths in order, which sets were chosen, the verdict."""
    verdict = cross_validation_verdict(found)
    if as_json:
        _json(asdict(found), verdict)
        return
    n = len(found.paths)
    at = sorted({0, n // 4, n // 2, 3 * n // 4, n - 1})
    _table(("path", "Sharpe"), [[f"{i + 1} of {n}", _number(found.paths[i])] for i in at], "from the worst to the best")
    print()
    _table(("set", "chosen"), [[str(trial), f"{times} of {found.splits}"] for trial, times in found.chosen], "")
    _verdict(verdict)


def cross_validation_verdict(found: CrossValidation) -> str:
    """In one sentence."""
    good = "gains on most paths" if found.negative < 0.5 and (found.median or 0) > 0 else "gains on no more than half"
    return (
        f"{good}: over {len(found.paths)} paths ({found.splits} splits of {found.groups} groups, {found.test_groups} "
        f"tested) the median out-of-sample Sharpe ratio is {_number(found.median)}; "
        f"{found.negative:.0%} are not above 0."
    )


def show_overfitting(found: Overfitting, by: str, as_json: bool) -> None:
    """The figures and the verdict."""
    verdict = overfitting_verdict(found)
    if as_json:
        _json(asdict(found), verdict)
        return
    what = "Sharpe ratio" if by == "sharpe" else "logarithmic growth"
    rows = [
        ["probability of overfitting", f"{found.pbo:.1%}"],
        ["probability of a loss", f"{found.loss:.1%}"],
        [f"{what} in sample, mean", _number(found.in_sample)],
        [f"{what} out of sample, mean", _number(found.out_of_sample)],
        ["slope, out of sample over in sample", _number(found.slope)],
        ["logits: least, median, most", ", ".join(_number(found.logits[i]) for i in (0, 5, 10))],
    ]
    _table(("", "value"), rows, f"{found.trials} sets, {found.blocks} blocks, {found.splits:,} splits")
    _verdict(verdict)


def overfitting_verdict(found: Overfitting) -> str:
    """In one sentence."""
    judged = "likely" if found.pbo >= 0.5 else "possible" if found.pbo >= 0.1 else "unlikely"
    return (
        f"overfitting is {judged}: the best of {found.trials} sets in one half of the time was below the middle in the "
        f"other half in {found.pbo:.1%} of {found.splits:,} splits, and lost in {found.loss:.1%}."
    )


def show_deflation(found: Deflation, as_json: bool) -> None:
    """The figures and the verdict."""
    verdict = deflation_verdict(found)
    if as_json:
        _json(asdict(found), verdict)
        return
    trials = f"{found.trials:,.4g} independent" if found.independent else f"{found.trials:,.0f}"
    needed = "never" if found.needed is None else f"{found.needed:,.0f}"
    rows = [
        ["best set", str(found.best)],
        ["Sharpe ratio, yearly", _number(found.sharpe)],
        ["returns", f"{found.observations:,} over {found.years:.1f} years"],
        ["skewness, kurtosis", f"{found.skewness:.2f}, {found.kurtosis:.2f}"],
        ["trials", f"{trials} (ledger {found.ledger_trials:,}, this run {found.run_trials:,})"],
        ["their deviation", _number(found.spread)],
        ["best to expect of luck", _number(found.benchmark)],
        ["probability above 0", _share(found.probabilistic)],
        ["deflated: above luck", _share(found.deflated)],
        ["returns needed for 95 %", needed],
    ]
    if found.correlation is not None:
        rows.insert(5, ["mean correlation of sets", _number(found.correlation)])
    _table(("", "value"), rows, "Sharpe ratio, deflated")
    _verdict(verdict)


def deflation_verdict(found: Deflation) -> str:
    """In one sentence."""
    if found.deflated is None:
        return "nothing to judge: the returns are too few or too odd for a probability."
    judged = "more than luck" if found.deflated >= 0.95 else "not to be told from luck"
    return (
        f"{judged}: a Sharpe ratio of {found.sharpe:.2f} beats the {found.benchmark:.2f} to expect of the luckiest of "
        f"{found.trials:,.4g} trials with a probability of {found.deflated:.1%}; 95 % is asked for."
    )


def show_ledger(found: Ledger, as_json: bool) -> None:
    """Every run, newest last, and how many trials there are."""
    from atc_backtest.pipelines.guards.ledger import growing

    runs = "run" if len(found.entries) == 1 else "runs"
    verdict = (
        f"{found.trials:,} distinct parameter sets were tried in {len(found.entries):,} {runs}: "
        "a best one among them must beat the luckiest of as many."
    )
    if as_json:
        facts = {"place": str(found.place), "store_id": found.store_id, "trials": found.trials}
        facts |= {"damaged": list(found.damaged), "others": found.others}
        entries = [asdict(entry) | {"trials": len(entry.trials)} for entry in found.entries]
        _json(facts | {"runs": entries}, verdict)
        return
    rows = [
        [entry.when, f"{len(entry.trials):,}", f"{total:,}", f"{entry.symbols:,}", entry.run]
        for entry, total in growing(found.entries)
    ]
    _table(("when (UTC)", "sets", "distinct so far", "symbols", "run"), rows[-ROWS:], f"ledger {found.place}")
    if found.others:
        print(f"note: {found.others} more entries are of other stores, and do not count")
    for name in found.damaged:
        print(f"warning: {found.place / name} cannot be read and does not count")
    _verdict(verdict)


def show_costs(found: CostTable, as_json: bool) -> None:
    """A row a fee, and where the Sharpe ratio reaches 0."""
    verdict = costs_verdict(found)
    if as_json:
        _json(asdict(found), verdict)
        return
    title = f"set {found.param_id} over {found.symbols} symbols, slippage {found.slippage_bps:g} bps"
    _cases("fee, bps", found.cases, title)
    _verdict(verdict)


def costs_verdict(found: CostTable) -> str:
    """In one sentence."""
    least, most = found.cases[0], found.cases[-1]
    between = f"from {_number(least.sharpe)} at {least.value:g} bps to {_number(most.sharpe)} at {most.value:g} bps"
    if found.break_even is not None:
        return f"costs eat it at {found.break_even:.1f} bps a side: the mean Sharpe ratio goes {between}."
    if (least.sharpe or 0) <= 0:
        return f"nothing to eat: the mean Sharpe ratio goes {between}, and is not above 0 at the least fee."
    return f"it outlives these fees: the mean Sharpe ratio goes {between}."


def show_delay(found: DelayTable, as_json: bool) -> None:
    """A row a delay, and what is kept."""
    verdict = delay_verdict(found)
    if as_json:
        _json(asdict(found), verdict)
        return
    _cases("bars later", found.cases, f"set {found.param_id} over {found.symbols} symbols")
    _verdict(verdict)


def delay_verdict(found: DelayTable) -> str:
    """In one sentence."""
    now, then = found.cases[0], found.cases[-1]
    said = f"the mean Sharpe ratio is {_number(now.sharpe)} now and {_number(then.sharpe)} {then.value:g} bars later"
    if found.kept is None:
        return f"nothing to lose: {said}."
    judged = "does not hang on the moment" if found.kept >= 0.5 else "hangs on the moment"
    return f"it {judged}: {said}, {found.kept:.0%} of it."


def show_shuffle(found: Shuffled, as_json: bool) -> None:
    """A row a symbol, the whole, the verdict."""
    verdict = shuffle_verdict(found)
    if as_json:
        _json(asdict(found), verdict)
        return
    everything = {**dict(list(found.symbols.items())[:ROWS]), "all, mean": found.whole}
    rows = [
        [name, _number(one.real), _number(one.mean), _number(one.high), f"{one.p_value:.3f}"]
        for name, one in everything.items()
    ]
    title = f"Sharpe ratio, best of {found.sets} sets, {found.trials} shuffles, seed {found.seed}"
    _table(("symbol", "real", "shuffled, mean", "95 %", "p"), rows, title)
    _verdict(verdict)


def shuffle_verdict(found: Shuffled) -> str:
    """In one sentence."""
    whole = found.whole
    judged = "the order of bars matters" if whole.p_value <= 0.05 else "chance does as well"
    return (
        f"{judged}: on shuffled prices the search found {whole.mean:.2f} in the mean, on the real ones "
        f"{whole.real:.2f} (p = {whole.p_value:.3f} of {found.trials} shuffles)."
    )


def show_causality(checked: Sequence[Checked], points: int, as_json: bool) -> None:
    """A row a kernel and symbol, and every leak."""
    leaks = [(one, leak) for one in checked for leak in one.leaks]
    kernels = ", ".join(dict.fromkeys(one.kernel for one in checked))
    verdict = (
        f"LOOKS AHEAD: {len(leaks)} outputs changed with prices that came later."
        if leaks
        else f"causal: nothing that kernels {kernels} said up to a bar changed with what followed it."
    )
    if as_json:
        _json({"checked": [asdict(one) for one in checked], "points": points}, verdict)
        return
    rows = [
        [one.kernel, one.symbol, f"{one.bars:,}", ", ".join(one.outputs), str(len(one.leaks) or "none")]
        for one in checked
    ]
    _table(("kernel", "symbol", "bars", "outputs", "leaks"), rows, f"prices poisoned after {points} bars, in five ways")
    for one, leak in leaks[:ROWS]:
        print(f"{one.kernel}, {one.symbol}: {leak}")
    _verdict(verdict)


def _cases(heading: str, cases: Sequence[Case], title: str) -> None:
    rows = [
        [
            f"{case.value:g}",
            _number(case.sharpe),
            "-" if case.total_return is None else f"{case.total_return:+.1%}",
            f"{case.profitable:.0%}",
            f"{case.trades:,.0f}",
        ]
        for case in cases
    ]
    _table((heading, "Sharpe, mean", "return, median", "symbols with gains", "trades, mean"), rows, title)


def _table(columns: Sequence[str], rows: list[list[str]], title: str) -> None:
    left = ("", "symbol", "run", "kernel", "outputs", "path", "test from", "to", "when (UTC)")
    sides: dict[str, Side] = {name: "left" if name in left else "right" for name in columns}
    if title:
        print(title)
    print_table(sides, rows[:ROWS])
    if len(rows) > ROWS:
        print(f"... {len(rows) - ROWS} more rows: --json")


def _verdict(text: str) -> None:
    print()
    print(f"verdict   {text}")


def _json(facts: dict[str, Any], verdict: str) -> None:
    print_json(facts | {"verdict": verdict})


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
