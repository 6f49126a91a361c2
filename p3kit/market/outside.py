"""Bars outside the splits of a run, made ready for a backtest with the features that the run recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p3kit.errors import BarsError, DataError, InputError
from p3kit.market.annual import yearly_of_splits
from p3kit.market.bars import Bars
from p3kit.market.features import compute_features
from p3kit.market.fingerprint import fingerprint
from p3kit.market.run_bars import RunBars, rows_between
from p3kit.market.splits import MIN_BARS
from p3kit.market.symbol_data import AnySplit, SymbolData
from p3kit.spec import Spec


@dataclass(frozen=True)
class OutsideBars:
    """Bars of a backtest outside the splits."""

    data: SymbolData
    """With a split `outside`, and with `train` where these bars hold the run's training split."""
    overlaps: dict[str, int]
    """Split of the run → bars of the backtest that are in it."""


def outside_bars(bars: Bars, run: RunBars, spec: Spec, first_day: str | None, last_day: str | None) -> OutsideBars:
    """Bars from `first_day` to `last_day`, both included. Default: from the run's last bar to the end.

    Bars in the time of the run's bars have to be those of the run, or have another factor per stretch. Raises DataError
    for changed bars, BarsError for too few of them, InputError for a run that recorded no features.
    """
    recipe = run.recipe
    if recipe is None:
        what = "was made by an older p3kit, which recorded no features"
        raise InputError("the run", what, "train it again, or use the p3kit that made it")
    known = run.rows(bars)
    notes, fault = _compared(bars, run, known)
    warm_up = spec.env.window + recipe.look_back
    first, last = _range(bars, known[1], first_day, last_day, warm_up)
    if fault is not None and first < known[1]:
        raise fault
    splits: dict[AnySplit, tuple[int, int]] = {"outside": (first, last)}
    train = rows_between(bars, *run.facts["split_days"]["train"])
    if fault is None and known[1] - known[0] == run.facts["bars"]:
        splits["train"] = train
    stated = None if spec.data.bars_per_year == "auto" else spec.data.bars_per_year
    yearly = yearly_of_splits(bars.timestamps, {"validation": splits["outside"]}, stated)["validation"].bars
    recorded = run.facts["split_bars_per_year"]
    table = compute_features(bars, recipe.columns, recipe.bars_per_year, recipe.own)
    data = SymbolData(
        symbol=bars.symbol,
        timestamps=bars.timestamps,
        close=bars.close,
        open=bars.open,
        high=bars.high,
        low=bars.low,
        volume=bars.volume,
        features=recipe.features(bars),
        feature_names=recipe.names,
        feature_mean=np.array(recipe.mean),
        feature_scale=np.array(recipe.scale),
        volatility=table.volatility * np.sqrt(recipe.bars_per_year),
        regime=table.regime,
        bars_per_year=recipe.bars_per_year,
        fingerprint=fingerprint(bars),
        price_fingerprint=fingerprint(bars, own=False),
        splits=splits,
        source=bars.source,
        synthetic=bars.synthetic or bool(run.facts.get("synthetic")),
        notes=[*bars.notes, *notes],
        split_bars_per_year={"outside": yearly, "train": recorded.get("train", recipe.bars_per_year)},
        recipe=recipe,
    )
    return OutsideBars(data, _overlaps(bars, run, (first, last)))


def _compared(bars: Bars, run: RunBars, known: tuple[int, int]) -> tuple[list[str], DataError | None]:
    """Notes on the bars in the time of the run's bars, and the fault of bars that have changed."""
    part = bars.part(*known)
    if not len(part):
        return [], None
    try:
        if part.timestamps[0].astype("datetime64[s]") == np.datetime64(run.facts["first"], "s"):
            return list(run.select(bars.part(0, known[1]), exact=False).notes[len(bars.notes) :]), None
        return run.compare(replace(part, notes=())), None
    except DataError as error:
        return [], error


def _range(bars: Bars, after: int, first_day: str | None, last_day: str | None, warm_up: int) -> tuple[int, int]:
    """Rows of the backtest, (first, last exclusive)."""
    where = bars.source or bars.symbol
    day = bars.timestamps.astype("datetime64[D]")
    last = len(bars) if last_day is None else int(np.searchsorted(day, np.datetime64(last_day), side="right"))
    first = after if first_day is None else int(np.searchsorted(day, np.datetime64(first_day)))
    if last - first < MIN_BARS:
        what = (
            f"has {max(last - first, 0)} bars from {first_day or 'the last bar of the run'} to {last_day or 'the end'}"
        )
        raise BarsError(where, what, f"a backtest needs {MIN_BARS}; --from and --to take other days")
    if first < warm_up and first_day is None and after == 0:
        first = warm_up
    if first < warm_up or last - first < MIN_BARS:
        what = f"has {first} bars before the first one of the backtest; its features need {warm_up}"
        raise BarsError(where, what, "give more past bars, or a later --from")
    return first, last


def _overlaps(bars: Bars, run: RunBars, span: tuple[int, int]) -> dict[str, int]:
    found = {}
    for name, days in run.facts["split_days"].items():
        first, last = rows_between(bars, *days)
        found[name] = max(0, min(last, span[1]) - max(first, span[0]))
    return {name: bars for name, bars in found.items() if bars}
