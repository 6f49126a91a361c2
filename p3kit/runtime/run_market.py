"""The bars that a run trains on, and those of a backtest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p3kit.errors import InputError
from p3kit.market import SymbolData, load_market
from p3kit.market.load import bars_of, reading_of, with_path_from
from p3kit.market.outside import OutsideBars, outside_bars
from p3kit.market.run_bars import RunBars, prices_of
from p3kit.rundir import RunDir
from p3kit.rundir.prices import read_prices, write_prices
from p3kit.spec import Spec
from p3kit.spec.paths import template_of


@dataclass(frozen=True)
class OutsideRequest:
    """Bars outside the splits: a file, or those of the run's own source, between two days."""

    file: Path | None
    first_day: str | None
    last_day: str | None


def run_bars(directory: RunDir, info: Mapping[str, Any], symbol: str) -> RunBars:
    """Facts that a run recorded of its bars."""
    return RunBars(info["data"][symbol], read_prices(directory, symbol))


def training_market(directory: RunDir, info: Mapping[str, Any], spec: Spec) -> dict[str, SymbolData]:
    """The bars of a run, bit for bit; bars that were appended since are left out. Their prices are kept with the run.

    Raises DataError where others have changed.
    """
    market = _market_of_run(directory, info, spec, [agent["symbol"] for agent in info["agents"]], exact=True)
    if spec.data.source in ("csv", "parquet"):
        for symbol, bars in market.items():
            write_prices(directory, symbol, prices_of(bars))
    return market


def backtest_market(directory: RunDir, info: Mapping[str, Any], spec: Spec, symbol: str) -> dict[str, SymbolData]:
    """The bars of one symbol of a run. Prices may have been rescaled since; notes report that."""
    return _market_of_run(directory, info, spec, [symbol], exact=False)


def outside_market(
    directory: RunDir, info: Mapping[str, Any], spec: Spec, symbol: str, request: OutsideRequest
) -> OutsideBars:
    """The bars of a request, with the features that the run recorded."""
    from p3kit.market.files import read_bars  # pandas, which a training on the sample does not need
    from p3kit.market.folder import bars_in, kind_of

    if request.file is None:
        bars = bars_of(with_path_from(spec, directory.paths_from()), symbol)
    else:
        files = bars_in(request.file)
        reading = replace(reading_of(spec), several=len(files.symbols) > 1)
        if reading.several and symbol not in files.symbols:
            raise InputError(str(request.file), f"has no bars of {symbol}", f"it has {', '.join(files.symbols)}")
        bars = read_bars(kind_of(request.file), template_of(request.file), symbol, reading)
    return outside_bars(bars, run_bars(directory, info, symbol), spec, request.first_day, request.last_day)


def _market_of_run(
    directory: RunDir, info: Mapping[str, Any], spec: Spec, symbols: list[str], *, exact: bool
) -> dict[str, SymbolData]:
    of_run = {symbol: run_bars(directory, info, symbol) for symbol in symbols}
    stored = {symbol: run.facts["bars_per_year"] for symbol, run in of_run.items() if "bars_per_year" in run.facts}
    recipes = {symbol: run.recipe for symbol, run in of_run.items() if run.recipe is not None}
    return load_market(spec, symbols, directory.paths_from(), stored, recipes, of_run, exact=exact)
