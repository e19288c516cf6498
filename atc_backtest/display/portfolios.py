"""What people see of returns over time, of one symbol and of a portfolio."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from atc_backtest.display.runs import cell
from atc_backtest.display.terminal import Side, iso, print_json, print_table

if TYPE_CHECKING:
    import pyarrow as pa

    from atc_backtest.pipelines.portfolio import Portfolio

RETURN_COLUMNS = {
    "period_ts": ("period", "date"),
    "n_bars": ("bars", "{:,}"),
    "total_return": ("return", "{:+.1%}"),
    "hold_return": ("hold", "{:+.1%}"),
    "volatility": ("volat.", "{:.1%}"),
    "sharpe": ("Sharpe", "{:.2f}"),
    "exposure": ("in mkt", "{:.0%}"),
    "trades": ("trades", "{:,}"),
    "fees_paid": ("fees", "{:,.0f}"),
    "beta": ("beta", "{:.2f}"),
    "alpha": ("alpha", "{:+.1%}"),
    "information_ratio": ("IR", "{:.2f}"),
}

FIGURES = {
    "total_return": ("return", "{:+.1%}"),
    "cagr": ("CAGR", "{:+.1%}"),
    "volatility": ("volatility", "{:.1%}"),
    "sharpe": ("Sharpe", "{:.2f}"),
    "sortino": ("Sortino", "{:.2f}"),
    "max_drawdown": ("max drawdown", "{:.1%}"),
    "calmar": ("Calmar", "{:.2f}"),
    "buy_hold_return": ("benchmark", "{:+.1%}"),
    "beta": ("beta", "{:.2f}"),
    "alpha": ("alpha a year", "{:+.1%}"),
    "correlation": ("correlation", "{:.2f}"),
    "information_ratio": ("information ratio", "{:.2f}"),
    "mean_gross": ("mean gross exposure", "{:.0%}"),
    "max_gross": ("most", "{:.0%}"),
    "mean_net": ("mean net exposure", "{:+.0%}"),
    "rebalances": ("rebalances", "{:,}"),
    "rebalance_costs": ("their costs", "{:.2%}"),
}


def show_returns(symbol: str, table: pa.Table, as_json: bool) -> None:
    """A line a period."""
    from atc_backtest.pipelines.report import to_records

    if as_json:
        print_json({"symbol": symbol, "rows": to_records(table)})
        return
    columns: dict[str, Side] = {}
    for name, (heading, _) in RETURN_COLUMNS.items():
        columns[heading] = "left" if name == "period_ts" else "right"
    rows = table.to_pylist()
    lines = [[cell(row[name], how) for name, (_, how) in RETURN_COLUMNS.items()] for row in rows]
    print_table(columns, lines, symbol, wrap=False)


def show_portfolio(found: Portfolio, as_json: bool) -> None:
    """The figures, what they are measured against, and where the series is."""
    if as_json:
        about = {"weighting": asdict(found.weighting), "param_id": found.param_id, "benchmark": found.benchmark}
        print_json({"path": str(found.path)} | about | {"figures": found.figures})
        return
    figures = found.figures
    span = f"{iso(figures['start_ts'])} to {iso(figures['end_ts'])}"
    print(f"{len(found.weights.symbols):,} symbols, set {found.param_id}, {figures['n_bars']:,} bars, {span}")
    print_table(
        {"figure": "left", "": "right"},
        [(heading, cell(figures[name], how)) for name, (heading, how) in FIGURES.items()],
    )
    print(f"against   {found.benchmark or 'buy-and-hold with the same weights'}")
    print(f"portfolio {found.path}")
