"""`python -m tests.measure.distortions`: false alarms and detection rates of `p3kit.market.novelty`.

Prints the tables of docs/evaluation.md. Thresholds come from the validation split. Everything counted here is on the
test split, which no threshold was calibrated on, and no agent is trained or evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import click
import numpy as np
from numpy.typing import NDArray

from p3kit.market import Bars, SymbolData, load_market, synthetic_market
from p3kit.market.features import compute_features
from p3kit.market.novelty import Distribution, Novelty, distribution_of, fit_distribution
from p3kit.market.recipe import scaled, standard_scale
from p3kit.market.sample import sample_bars
from p3kit.spec import Spec, resolve_spec

Array = NDArray[np.float64]

BARS_AFTER = 24
"""Bars after a change within which an alarm counts as a detection."""
YEARS = range(2015, 2023)
MOMENTS = 5
"""Moments of change per column, evenly spaced over the test split."""

DISTORTIONS: Mapping[str, Callable[[Array, float], Array]] = {
    "× 2": lambda column, _: column * 2,
    "× 10": lambda column, _: column * 10,
    "× 100": lambda column, _: column * 100,
    "× 0.01": lambda column, _: column * 0.01,
    "+ 1 std": lambda column, spread: column + spread,
    "+ 3 std": lambda column, spread: column + 3 * spread,
    "+ 10 std": lambda column, spread: column + 10 * spread,
    "frozen": lambda column, _: np.full_like(column, column[0]),
}
"""Name → (values from the change on, standard deviation of the training split) → distorted values."""


@dataclass(frozen=True)
class Subject:
    """A symbol, and the distribution that an agent of it would record."""

    data: SymbolData
    distribution: Distribution
    bars: Bars

    @property
    def moments(self) -> list[int]:
        first, last = self.data.splits["test"]
        return np.linspace(first, last - BARS_AFTER, MOMENTS).astype(int).tolist()


@dataclass
class Count:
    """Changes, those with an alarm within `BARS_AFTER` bars, bars after changes, and those with an alarm."""

    changes: int = 0
    detected: int = 0
    bars: int = 0
    alarms: int = 0

    def add(self, found: Sequence[Novelty]) -> None:
        alarms = sum(one.is_novel for one in found)
        self.changes, self.detected = self.changes + 1, self.detected + bool(alarms)
        self.bars, self.alarms = self.bars + len(found), self.alarms + alarms

    @property
    def rate(self) -> float:
        return self.detected / self.changes


def spec_of(source: str, symbols: Sequence[str]) -> Spec:
    """The shipped window and splits, on sample or synthetic bars."""
    split = {"train": 0.7, "validation": 0.15, "test": 0.15}
    table = {"source": source, "split": split, **({"synthetic": {"bars": 6_000}} if source == "synthetic" else {})}
    return resolve_spec({"name": "novelty", "symbols": list(symbols), "data": table}, "tests.measure.distortions")


def subjects(source: str, symbols: Sequence[str]) -> list[Subject]:
    """Symbols of the sample, which has closes alone, or synthetic ones with a made volume beside their prices."""
    spec = spec_of(source, symbols)
    market = load_market(spec, symbols)
    if source == "sample":
        raw = {name: sample_bars(name) for name in symbols}
    else:
        raw = {name: _with_volume(synthetic_market(spec, name).bars, seed) for seed, name in enumerate(symbols)}
    found = []
    for name, data in market.items():
        features = compute_features(raw[name], None, data.bars_per_year)
        mean, scale, _ = standard_scale(features, *data.splits["train"])
        values = scaled(features.values, mean, scale)
        data = replace(data, features=values, feature_names=features.names, feature_mean=mean, feature_scale=scale)
        found.append(Subject(data, distribution_of(data, spec.env.window), raw[name]))
    return found


def _with_volume(bars: Bars, seed: int) -> Bars:
    """Bars with a log-normal volume whose logarithm has an autocorrelation of 0.7."""
    noise = np.random.default_rng(seed).standard_normal(len(bars))
    for row in range(1, len(noise)):
        noise[row] = 0.7 * noise[row - 1] + 0.7 * noise[row]
    return replace(bars, volume=np.exp(12 + 0.5 * noise))


def false_alarms(subject: Subject) -> float:
    """Fraction of the bars of the test split beyond the threshold."""
    found = subject.distribution.assess_rows(subject.data.features, *subject.data.splits["test"])
    return float(np.mean([one.is_novel for one in found]))


def alarms_of_year(subject: Subject, year: int) -> float:
    """Fraction of a year's bars beyond a threshold calibrated on the year before, trained on all bars before that."""
    years = subject.data.timestamps.astype("datetime64[Y]").astype(int) + 1970
    edges = [int(np.searchsorted(years, year + offset)) for offset in (-1, 0, 1)]
    warm_up = subject.data.splits["train"][0]
    features = (subject.data.features, subject.data.feature_names)
    found = fit_distribution(*features, (warm_up, edges[0]), (edges[0], edges[1]), BARS_AFTER)
    return float(np.mean([one.is_novel for one in found.assess_rows(subject.data.features, edges[1], edges[2])]))


def after_feature_change(subject: Subject, column: int, distortion: str, moment: int) -> list[Novelty]:
    """One feature is distorted from a moment on, as by a fault in a column of the user's own."""
    first, last = subject.data.splits["train"]
    features = subject.data.features.astype(float)
    spread = features[first:last, column].std()
    features[moment:, column] = DISTORTIONS[distortion](features[moment:, column], spread)
    return _assess(subject, features, moment)


def after_raw_change(subject: Subject, column: str, distortion: str, moment: int) -> list[Novelty]:
    """One column of the file is distorted from a moment on, and every feature follows."""
    values = getattr(subject.bars, column).copy()
    first, last = subject.data.splits["train"]
    spread = values[first:last].std()
    values[moment:] = DISTORTIONS[distortion](values[moment:], spread)
    raw = compute_features(replace(subject.bars, **{column: values}), None, subject.data.bars_per_year)
    return _assess(subject, (raw.values - subject.data.feature_mean) / subject.data.feature_scale, moment)


def unchanged(subject: Subject, moment: int) -> list[Novelty]:
    return _assess(subject, subject.data.features, moment)


def _assess(subject: Subject, features: Array, moment: int) -> list[Novelty]:
    return subject.distribution.assess_rows(features.astype(np.float32), moment, moment + BARS_AFTER)


def count_features(who: Sequence[Subject], distortion: str) -> Count:
    """Over all symbols, moments, and features that are no flags."""
    count = Count()
    for one in who:
        names = one.data.feature_names
        columns = [i for i, name in enumerate(names) if not name.startswith("regime_")]
        for column in columns:
            for moment in one.moments:
                count.add(after_feature_change(one, column, distortion, moment))
    return count


def count_raw(who: Sequence[Subject], column: str, distortion: str) -> Count:
    count = Count()
    for one in who:
        for moment in one.moments:
            count.add(after_raw_change(one, column, distortion, moment))
    return count


def raw_columns(one: Subject) -> list[str]:
    return [*one.bars.columns, "close"]


@click.command()
@click.option("--synthetic", default=10, help="Synthetic symbols.")
def main(synthetic: int) -> None:
    """Print the tables."""
    names = [f"N{number}" for number in range(synthetic)]
    markets = {
        "sample": subjects("sample", ["AAPL", "AMD", "BAC", "HD", "JNJ", "JPM", "MSFT", "PG", "WMT", "XOM"]),
        "synthetic": subjects("synthetic", names),
    }
    for name, who in markets.items():
        rates = [false_alarms(one) for one in who]
        bars = sum(last - first for first, last in (one.data.splits["test"] for one in who))
        nothing = Count()
        for one in who:
            for moment in one.moments:
                nothing.add(unchanged(one, moment))
        print(f"\n{name}: {len(who)} symbols, {bars:,} test bars, false alarms {np.mean(rates):.2%}")
        print(f"largest symbol {max(rates):.1%}; an alarm within {BARS_AFTER} unchanged bars: {nothing.rate:.1%}")
        columns = raw_columns(who[0])
        print("| distortion | one feature | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 2) + "|")
        for distortion in DISTORTIONS:
            cells = [count_features(who, distortion).rate]
            cells += [count_raw(who, column, distortion).rate for column in columns]
            print(f"| {distortion} | " + " | ".join(f"{cell:.0%}" for cell in cells) + " |", flush=True)
    for year in YEARS:
        rates = [alarms_of_year(one, year) for one in markets["sample"]]
        print(f"{year} after {year - 1}: {np.mean(rates):.2%} of the bars, largest symbol {max(rates):.1%}")


if __name__ == "__main__":
    main()
