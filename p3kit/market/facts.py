"""Facts about bars, in JSON's types: of the symbols of a spec, and of a file without a spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.errors import DataError, Fault
from p3kit.market import sample
from p3kit.market.annual import bars_per_year
from p3kit.market.bars import Bars
from p3kit.market.feature_table import feature_rows
from p3kit.market.gaps import find_gaps, span_text, usual_spacings
from p3kit.market.symbol_data import SymbolData

if TYPE_CHECKING:
    from p3kit.spec import Spec

MOST_SYMBOLS = 12
"""Number of symbols of one file that are read; the others are named."""


def facts_of(bars: SymbolData, spec: Spec) -> dict[str, Any]:
    """The facts about one symbol of a spec. Dates are those of bars an account may act on, both included."""
    moves = np.diff(np.log(bars.close))
    largest = int(np.abs(moves).argmax())
    gaps = find_gaps(bars.timestamps)
    facts: dict[str, Any] = {
        "source": bars.source,
        "synthetic": bars.synthetic,
        "first": str(bars.timestamps[0])[:19],
        "last": str(bars.timestamps[-1])[:19],
        "bars": len(bars),
        "bars_per_year": round(bars.bars_per_year, 2),
        "split_bars_per_year": {name: round(year, 2) for name, year in bars.split_bars_per_year.items()},
        "usual_spacing_hours": [round(hours, 6) for hours in usual_spacings(bars.timestamps)],
        "gaps": len(gaps),
        "longest_gaps": [
            {"begin": str(gap.begin)[:19], "end": str(gap.end)[:19], "hours": round(gap.hours, 2)}
            for gap in sorted(gaps, key=lambda gap: -gap.hours)[:5]
        ],
        "annual_volatility": round(float(moves.std(ddof=1) * bars.bars_per_year**0.5), 4),
        "largest_move": {
            "at": str(bars.timestamps[largest + 1])[:19],
            "change": round(float(np.expm1(moves[largest])), 6),
        },
        "unchanged_share": round(float((moves == 0).mean()), 4),
        "features": list(bars.feature_names),
        "observed": [row.to_json() for row in feature_rows(bars, spec.data.columns.own)],
        "fingerprint": bars.fingerprint,
        "splits": {
            name: {
                "first": str(bars.timestamps[first])[:19],
                "last": str(bars.timestamps[last - 1])[:19],
                "bars": last - first,
                "close_change": round(float(bars.close[last - 1] / bars.close[first]) - 1.0, 6),
                "regimes": {regime: round(share, 4) for regime, share in bars.regime_shares(name).items()},
            }
            for name, (first, last) in bars.splits.items()
        },
        "notes": list(bars.notes),
    }
    if bars.source == "sample":
        facts |= {"provenance": sample.PROVENANCE, "caution": sample.CAUTION}
    return facts


@dataclass(frozen=True)
class FileFacts:
    """A file of bars without a spec."""

    path: Path
    shapes: dict[str, str]  # name of each shape → how it is read
    columns: dict[str, str]  # role → column of the file
    unused: tuple[str, ...]
    symbols: tuple[str, ...]
    table: str  # the [data] table to copy
    bars: dict[str, dict[str, Any]] = field(default_factory=dict)  # per symbol
    faults: tuple[Fault, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "file": str(self.path),
            "shapes": list(self.shapes),
            "columns": self.columns,
            "unused": list(self.unused),
            "symbols": list(self.symbols),
            "bars": self.bars,
            "faults": [str(fault) for fault in self.faults],
            "data": self.table,
        }


def describe_file(path: Path) -> FileFacts:
    """The shape of a file, its bars, and the [data] table that reads it. Raises DataError where it is no table."""
    from p3kit.market.files import Reading, read_bars
    from p3kit.market.folder import bars_in
    from p3kit.market.opening import open_table
    from p3kit.market.shapes import described, layout_of, shapes_of
    from p3kit.spec.paths import template_of

    files = bars_in(path)
    layout = layout_of(open_table(files.kind, path), files.symbols[0], {})
    reading = Reading(adjust=files.options.get("adjust", "off"), several=len(files.symbols) > 1)
    found: dict[str, dict[str, Any]] = {}
    faults: list[Fault] = []
    for symbol in files.symbols[:MOST_SYMBOLS]:
        try:
            found[symbol] = _file_facts(read_bars(files.kind, template_of(path), symbol, reading))
        except DataError as error:
            faults += error.faults
    keys = {"source": files.kind, "path": files.template, **files.options}
    lines = [f"{key} = {_quoted(value)}" for key, value in keys.items()]
    table = "\n".join([f"symbols = [{', '.join(map(_quoted, files.symbols))}]", "", "[data]", *lines])
    shapes = {shape.name: shape.reading for shape in shapes_of(layout)}
    return FileFacts(path, shapes, dict(described(layout)), layout.unused, files.symbols, table, found, tuple(faults))


def _quoted(text: str) -> str:
    from p3kit.spec.writing import toml_value

    return toml_value(text)


def _file_facts(bars: Bars) -> dict[str, Any]:
    from p3kit.market.load import remarks

    year = bars_per_year(bars.timestamps)
    return {
        "first": str(bars.timestamps[0])[:19],
        "last": str(bars.timestamps[-1])[:19],
        "bars": len(bars),
        "columns": ["close", *bars.columns],
        "usual_spacings": [span_text(hours) for hours in usual_spacings(bars.timestamps)[:3]],
        "bars_per_year": round(year.bars, 2),
        "estimate": year.estimate,
        "gaps": len(find_gaps(bars.timestamps)),
        "notes": [*bars.notes, *remarks(bars)],
    }
