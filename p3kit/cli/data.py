"""`p3kit data`: what the bars of a spec are, how they are cut, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import json_option, set_option, spec_argument

if TYPE_CHECKING:
    from p3kit.market import SymbolData


@click.command(
    epilog="""\b
Examples:
  p3kit data specs/phase3.toml
  p3kit data specs/phase3.toml --picture bars.png"""
)
@spec_argument
@set_option
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PNG",
    help="Draw price, splits, embargo, regimes and gaps of every symbol.",
)
@json_option
def data(spec: Path, overrides: tuple[str, ...], picture: Path | None, as_json: bool) -> None:
    """Say what the bars of SPEC are, and where they come from.

    Refuses bars that cannot be trusted, naming file, row and remedy; nothing is trained.
    """
    from p3kit.market import load_market
    from p3kit.spec import load_spec

    loaded = load_spec(spec, overrides).spec
    market = load_market(loaded, loaded.symbols)
    if as_json:
        facts = {symbol: describe(bars) for symbol, bars in market.items()}
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        click.echo(render(market))
    if picture is not None:
        from p3kit.report.data_picture import draw_data

        draw_data(market, loaded.name, picture)
        click.echo(f"picture: {picture}", err=True)


def describe(bars: SymbolData) -> dict[str, Any]:
    """The facts about one symbol, in JSON's types. Dates are those of bars an account may act on, both included."""
    import numpy as np

    from p3kit.market.gaps import find_gaps, usual_spacings

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
        "usual_spacing_hours": [round(hours, 4) for hours in usual_spacings(bars.timestamps)],
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
        from p3kit.market import sample

        facts |= {"provenance": sample.PROVENANCE, "caution": sample.CAUTION}
    return facts


def render(market: Mapping[str, SymbolData]) -> str:
    """The same for people: a row per symbol, a block per split, then notes and where the data come from."""
    facts = {symbol: describe(bars) for symbol, bars in market.items()}
    rows: list[tuple[str, ...]] = [("symbol", "bars", "first", "last", "bars a year", "fingerprint", "source")]
    rows += [
        (symbol, f"{f['bars']:,}", f["first"][:10], f["last"][:10], f"{f['bars_per_year']:,.1f}", f["fingerprint"][:12],
         f["source"])
        for symbol, f in facts.items()
    ]  # fmt: skip
    text = _table(rows, right={1, 4})
    rows = [("spacing", "usual", "gaps", "longest gap", "volatility", "largest move", "unchanged")]
    for symbol, f in facts.items():
        longest = f["longest_gaps"][0] if f["gaps"] else None
        gap = f"{_span(longest['hours'])} from {longest['begin'][:16].replace('T', ' ')}" if longest else "none"
        move = f"{f['largest_move']['change']:+.1%} on {f['largest_move']['at'][:10]}"
        usual = ", ".join(_span(hours) for hours in f["usual_spacing_hours"][:3])
        rows.append(
            (symbol, usual, f"{f['gaps']:,}", gap, f"{f['annual_volatility']:.0%}", move, f"{f['unchanged_share']:.0%}")
        )
    text += "\n" + _table(rows, right={2, 4, 6})
    for name in ("train", "validation", "test"):
        rows = [(name, "bars", "first", "last", "close", "bear", "sideways", "bull")]
        for symbol, f in facts.items():
            split = f["splits"][name]
            shares = (f"{share:.0%}" for share in split["regimes"].values())
            change = f"{split['close_change']:+.0%}"
            rows.append((symbol, f"{split['bars']:,}", split["first"][:10], split["last"][:10], change, *shares))
        text += "\n" + _table(rows, right={1, 4, 5, 6, 7})

    names = next(iter(facts.values()))["features"]
    text += f"\n{len(names)} features: {', '.join(names)}\n"
    for note, symbols in _notes(facts).items():
        text += f"note ({', '.join(symbols)}): {note}\n"
    for f in facts.values():
        if "caution" in f:
            text += f"\nthe sample: {f['provenance']}.\ncaution, in the words of that package: {f['caution']}\n"
            break
    text += "gaps: spacings that few bars share and that are half as long again as the usual one below\n"
    return text.rstrip("\n")


def _span(hours: float) -> str:
    """1 h, 17.5 h, 3 d."""
    if hours >= 24 and hours % 24 == 0:
        return f"{hours / 24:g} d"
    return f"{hours:g} h" if hours >= 1 else f"{hours * 60:g} min"


def _notes(facts: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Note → the symbols it is about, so that the same note is said once."""
    notes: dict[str, list[str]] = {}
    for symbol, f in facts.items():
        for note in f["notes"]:
            notes.setdefault(note, []).append(symbol)
    return notes


def _table(rows: list[tuple[str, ...]], right: set[int]) -> str:
    """Rows in columns, the first row the heading; columns in `right` end on one line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
