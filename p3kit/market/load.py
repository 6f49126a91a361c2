"""From a spec to market data: bars read or made, refused if they cannot be trusted, turned into features and splits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from p3kit.errors import DataError, Fault
from p3kit.market.annual import interruptions, yearly_notes, yearly_of_splits
from p3kit.market.bars import OPTIONAL_COLUMNS, Bars, Floats
from p3kit.market.column_breaks import break_notes
from p3kit.market.feature_table import NEEDED, needed_columns
from p3kit.market.features import LOOKBACK, compute_features
from p3kit.market.fingerprint import fingerprint
from p3kit.market.foresight import foresight_notes
from p3kit.market.gaps import span_text
from p3kit.market.recipe import FORMULAS, FeatureRecipe, scaled, standard_scale
from p3kit.market.run_bars import RunBars
from p3kit.market.sample import SYMBOLS, sample_bars
from p3kit.market.splits import SPLITS, split_bars
from p3kit.market.symbol_data import SymbolData
from p3kit.market.synthetic import SyntheticMarket, SyntheticSettings, make_market
from p3kit.spec.feature_names import BUILT_IN
from p3kit.spec.paths import beside

if TYPE_CHECKING:
    from p3kit.market.files import Reading
    from p3kit.spec import Spec

_SYMBOL = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9._^=-]{1,32}")

_BIG_MOVE = 0.45
"""A log return beyond this (−36 %, +57 % in one bar) is noted: most are splits without an adjustment."""

_SHORT = 0.75
"""A step shorter than this fraction of the shortest usual one is noted."""
_RARE = 0.02
"""Fraction of the steps below which a short step is no usual one."""
_PARTS = 10
"""Parts of a series whose usual steps are compared."""


def load_market(
    spec: Spec,
    symbols: Sequence[str],
    folder: Path | None = None,
    stored: Mapping[str, float] | None = None,
    recipes: Mapping[str, FeatureRecipe] | None = None,
    of_run: Mapping[str, RunBars] | None = None,
    *,
    exact: bool = True,
) -> dict[str, SymbolData]:
    """The bars of `symbols`, ready for an environment; the same in every process and however symbols are grouped.

    A relative `data.path` is relative to `folder` (default: the current one, as `load_spec` leaves it). `stored` holds
    the bars per year that an agent was trained with, by symbol: its features keep them. `recipes` holds
    recorded recipes by symbol: their statistics are used in place of those of the training split. `of_run` holds the
    bars of a run by symbol: those that were appended since are left out. Unless `exact`, prices may have been rescaled.

    Raises DataError with the faults of all symbols at once: names that are no symbols, missing or unreadable files,
    bars that cannot be trusted (see `files.py`), too few of them, splits that leave nothing to trade on.
    """
    _check_names(spec, symbols)
    spec = with_path_from(spec, folder)
    of_run = of_run or {}
    bars: dict[str, Bars] = {}
    faults: list[Fault] = []
    for symbol in symbols:
        try:
            bars[symbol] = bars_of(spec, symbol)
            if symbol in of_run:
                bars[symbol] = of_run[symbol].select(bars[symbol], exact=exact)
        except DataError as error:
            faults.extend(error.faults)
    columns: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    if not faults:
        columns, dropped = _common_columns(spec, bars)

    market: dict[str, SymbolData] = {}
    for symbol, table in bars.items():
        try:
            recipe = (recipes or {}).get(symbol)
            market[symbol] = _prepare(spec, table, columns, dropped, (stored or {}).get(symbol), recipe)
        except DataError as error:
            faults.extend(error.faults)
    if faults:
        raise DataError.collected(faults)
    return market


def synthetic_market(spec: Spec, symbol: str) -> SyntheticMarket:
    """The market behind a symbol of a spec with `data.source = "synthetic"`: bars, signal, hidden regimes."""
    table = spec.data.synthetic
    settings = SyntheticSettings(
        bars=table.bars, edge=table.edge, volatility=table.volatility, span=table.span, regimes=table.regimes
    )
    return make_market(symbol, settings)


def look_back(spec: Spec) -> int:
    """Bars behind a bar that its observation depends on, itself included: window + longest look-back of a feature."""
    return spec.env.window + LOOKBACK


def _check_names(spec: Spec, symbols: Sequence[str]) -> None:
    """Check the symbols, which become file names: letters, digits and a few harmless signs, from any spec."""
    faults = _faults_of_names(symbols)
    for symbol in symbols:
        if spec.data.source == "sample" and symbol not in SYMBOLS and _SYMBOL.fullmatch(symbol):
            near = difflib.get_close_matches(symbol.upper(), SYMBOLS, n=1)
            others = f'it has {" ".join(SYMBOLS)}; for others set data.source = "csv"'
            hint = f'did you mean "{near[0]}"?' if near else others
            faults.append(Fault("symbols", f'"{symbol}" is not in the shipped sample', hint))
    if faults:
        raise DataError.collected(faults)


def check_symbols(symbols: Sequence[str]) -> None:
    """DataError for every name that could not become the name of a file."""
    if faults := _faults_of_names(symbols):
        raise DataError.collected(faults)


def _faults_of_names(symbols: Sequence[str]) -> list[Fault]:
    hint = "use 1 to 32 letters, digits and . _ ^ = -"
    return [Fault("symbols", f"{name!r} is no symbol", hint) for name in symbols if not _SYMBOL.fullmatch(name)]


def with_path_from(spec: Spec, folder: Path | None) -> Spec:
    """The spec with a relative `data.path` beside `folder`."""
    if folder is None or spec.data.path is None:
        return spec
    path = beside(folder, spec.data.path)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"path": path})})


def bars_of(spec: Spec, symbol: str) -> Bars:
    """The bars of one symbol from the source that the spec names."""
    source = spec.data.source
    if source == "sample":
        return sample_bars(symbol)
    if source == "synthetic":
        return synthetic_market(spec, symbol).bars
    from p3kit.market.files import read_bars

    return read_bars(source, spec.data.path, symbol, reading_of(spec))


def reading_of(spec: Spec) -> Reading:
    """Return the options for reading the files of a spec."""
    from p3kit.market.files import Reading

    columns = spec.data.columns.model_dump(exclude_none=True, exclude={"own"})
    own = {name: spec.data.columns.own.get(name, name) for name in spec.observation.columns}
    return Reading(columns, spec.data.adjust, several=len(spec.symbols) > 1, own=own)


def _common_columns(spec: Spec, bars: dict[str, Bars]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Optional columns that every symbol of the spec has, and those that only some have.

    All symbols of the spec decide, not only the requested ones: a trainer that loads one symbol must build the same
    observation as a trainer that loads them all.
    """
    found = {symbol: set(table.columns) for symbol, table in bars.items()}
    if spec.data.source in ("csv", "parquet"):
        from p3kit.market.files import forget_files, read_columns

        for symbol in spec.symbols:
            if symbol not in found:
                found[symbol] = set(read_columns(spec.data.source, spec.data.path, symbol, reading_of(spec)))
        forget_files()
    common, present = set.intersection(*found.values()), set.union(*found.values())
    return (
        tuple(name for name in OPTIONAL_COLUMNS if name in common),
        tuple(name for name in OPTIONAL_COLUMNS if name in present - common),
    )


def _prepare(
    spec: Spec,
    bars: Bars,
    columns: tuple[str, ...],
    dropped: tuple[str, ...],
    stored: float | None,
    recipe: FeatureRecipe | None,
) -> SymbolData:
    """Features, splits and notes of one symbol. The statistics of a `recipe` take the place of those of the bars."""
    behind, episode = look_back(spec), spec.env.episode_bars
    place = bars.source if spec.data.source in ("csv", "parquet") else f"{bars.source} {bars.symbol}"
    if len(bars) < behind + episode + 1:
        raise DataError(
            place,
            f"{len(bars)} bars; at least {behind + episode + 1} are needed (longest look-back {LOOKBACK} + "
            f"env.window {spec.env.window} + env.episode_bars {episode} + 1)",
            "give more bars, or lower env.window or env.episode_bars",
        )
    embargo = behind if spec.data.embargo == "auto" else int(spec.data.embargo)
    parts = {name: getattr(spec.data.split, name) for name in SPLITS}
    splits, problems = split_bars(bars.timestamps, parts, embargo=embargo, warm_up=behind, episode_bars=episode)
    if problems:
        raise DataError.collected(Fault(place, f"{key} = {what}", hint) for key, what, hint in problems)

    stated = None if spec.data.bars_per_year == "auto" else spec.data.bars_per_year
    yearly = yearly_of_splits(bars.timestamps, splits, stated)
    year = yearly["train"].bars if stored is None else stored
    if recipe is not None:
        columns, year = recipe.columns, recipe.bars_per_year
        recipe.check_columns(bars)
    own = spec.observation.columns
    names = _chosen(spec, columns, place)
    columns = needed_columns(names, columns)
    features = compute_features(bars, columns, year, own).chosen((*names, *own))
    notes = [*bars.notes, *remarks(bars), *yearly_notes(yearly)]
    if spec.data.source == "synthetic":
        notes.append("synthetic bars: made by a formula, no market ever traded them")
    if dropped:
        notes.append(
            f"features use the columns that every symbol has; left out here or elsewhere: {', '.join(dropped)}"
        )
    if embargo < behind:
        notes.append(
            f"data.embargo = {embargo} is shorter than window + look-back ({behind}): the first observations of "
            "validation and test see bars that training acted on"
        )
    if recipe is not None:
        recipe.check_names(features.names, place)
        mean, scale = np.array(recipe.mean), np.array(recipe.scale)
    elif spec.observation.normalize == "train":
        mean, scale, constant = standard_scale(features, *splits["train"], own)
        if constant:
            notes.append(f"constant in the training split, so without information: {', '.join(constant)}")
    else:
        mean, scale = np.zeros(len(features.names)), np.ones(len(features.names))

    data = SymbolData(
        symbol=bars.symbol,
        timestamps=bars.timestamps,
        close=bars.close,
        open=bars.open,
        high=bars.high,
        low=bars.low,
        volume=bars.volume,
        features=scaled(features.values, mean, scale),
        feature_names=features.names,
        feature_mean=mean,
        feature_scale=scale,
        volatility=features.volatility * np.sqrt(year),
        regime=features.regime,
        bars_per_year=year,
        split_bars_per_year={name: one.bars for name, one in yearly.items()},
        fingerprint=fingerprint(bars),
        price_fingerprint=fingerprint(bars, own=False),
        splits=dict(splits.items()),
        source=bars.source,
        synthetic=bars.synthetic,
        notes=notes,
        recipe=FeatureRecipe(
            formulas=FORMULAS,
            names=features.names,
            columns=columns,
            own=own,
            bars_per_year=year,
            mean=tuple(mean.tolist()),
            scale=tuple(scale.tolist()),
            adjust=spec.data.adjust,
        ),
    )
    data.notes.extend(foresight_notes(data))
    data.notes.extend(break_notes(data))
    return data


def _chosen(spec: Spec, columns: tuple[str, ...], place: str) -> tuple[str, ...]:
    """The built-in features of the spec, in the order of an observation."""
    possible = [name for name in BUILT_IN if set(NEEDED.get(name, ())) <= set(columns)]
    wanted = spec.observation.features
    if wanted == "all":
        return tuple(possible)
    if missing := [name for name in wanted if name not in possible]:
        needed = ", ".join(sorted({column for name in missing for column in NEEDED[name]} - set(columns)))
        what = f"observation.features: {', '.join(missing)} needs the column {needed}, which not every symbol has"
        raise DataError(place, what, "give the column, or remove the feature")
    return tuple(name for name in possible if name in wanted)


def remarks(bars: Bars) -> list[str]:
    """Return remarks on unusual places in the bars."""
    remarks = []
    moves = np.abs(np.diff(np.log(bars.close)))
    worst = int(moves.argmax())
    if moves[worst] > _BIG_MOVE:
        change = bars.close[worst + 1] / bars.close[worst] - 1.0
        remarks.append(
            f"the close moves {change:+.0%} in one bar at {_moment(bars, worst + 1)} "
            f"({int((moves > _BIG_MOVE).sum())} such bars): are prices adjusted for splits?"
        )
    steps = np.diff(bars.timestamps) / np.timedelta64(1, "s")
    long = interruptions(bars.timestamps)
    if len(long):
        longest = int(long[steps[long].argmax()])
        remarks.append(
            f"{steps[longest] / 86_400:.0f} days without a bar before {_moment(bars, longest + 1)}; bars a year are "
            "counted without them"
        )
    remarks += [*_short_steps(bars, steps), *_changed_steps(bars, steps)]
    if (bars.close[1:] == bars.close[:-1]).mean() > 0.5:
        remarks.append("more than half of the bars close where the one before closed")
    return remarks


def _short_steps(bars: Bars, steps: Floats) -> list[str]:
    """A note on steps that are much shorter than the usual one: a running bar, or pasted exports."""
    values, counts = np.unique(steps, return_counts=True)
    usual = values[counts >= max(3, _RARE * len(steps))]
    if not len(usual) or not (short := np.flatnonzero(steps < _SHORT * usual[0])).size:
        return []
    row = int(short[0]) + 1
    where = "the last bar" if row == len(bars) - 1 else f"the bar at {_moment(bars, row)}"
    more = f" ({len(short) - 1} more bars like that)" if len(short) > 1 else ""
    was, now = span_text(usual[0] / 3600), span_text(steps[row - 1] / 3600)
    return [
        f"{where} comes {now} after the one before ({_moment(bars, row - 1)} to {_moment(bars, row)}), where {was} is "
        f"usual{more}: a bar that was still running, or two exports in one file? Delete the row that is no whole bar"
    ]


def _changed_steps(bars: Bars, steps: Floats) -> list[str]:
    """A note where the usual step changes on the way, as from daily to hourly bars."""
    if len(steps) < 10 * _PARTS:
        return []
    usual = [float(np.median(part)) for part in np.array_split(steps, _PARTS)]
    change = next((part for part in range(1, _PARTS) if not 0.67 < usual[part] / usual[part - 1] < 1.5), None)
    if change is None:
        return []
    begins = sum(len(part) for part in np.array_split(steps, _PARTS)[:change])
    was, now = (span_text(usual[part] / 3600) for part in (change - 1, change))
    return [f"bars come every {was} at first, every {now} from about {_moment(bars, begins)}: use bars of one length"]


def _moment(bars: Bars, row: int) -> str:
    return str(bars.timestamps[row].astype("datetime64[m]")).replace("T00:00", "").replace("T", " ")
