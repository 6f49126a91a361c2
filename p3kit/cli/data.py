"""`p3kit data`: what the bars of a spec are, how they are cut, and where they come from; and new ones from Yahoo."""

from __future__ import annotations

import datetime as dt
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from p3kit.cli.options import DefaultGroup, UserPath, force_option, json_option, set_option, spec_argument
from p3kit.cli.output import print_json, print_note

if TYPE_CHECKING:
    from p3kit.market import SymbolData
    from p3kit.market.facts import FileFacts
    from p3kit.spec import Spec


@click.group(
    cls=DefaultGroup,
    default="describe",
    usages=("SPEC|FILE [OPTIONS]", "fetch SYMBOL... [OPTIONS]"),
    epilog="""\b
Examples:
  p3kit data specs/phase3.toml
  p3kit data specs/phase3.toml --picture bars.png
  p3kit data data/AAPL.csv         a file: its shape and its [data] table
  p3kit data describe --help
  p3kit data fetch AAPL MSFT --interval 1h --output data""",
)
def data() -> None:
    """Describe the bars of a spec or of a file; or fetch bars from Yahoo Finance into files."""


@data.command(
    epilog="""\b
Examples:
  p3kit data specs/phase3.toml
  p3kit data specs/phase3.toml --picture bars.png"""
)
@spec_argument
@set_option
@click.option(
    "--picture",
    type=UserPath(dir_okay=False, path_type=Path),
    metavar="PNG",
    help="Draw price, splits, embargo, regimes and gaps of every symbol.",
)
@json_option
def describe(spec: Path, overrides: tuple[str, ...], picture: Path | None, as_json: bool) -> None:
    """Describe the bars of SPEC, and where they come from. `describe` itself may be left out.

    A file of bars in place of SPEC: its shape, its columns, and the [data] table that reads it.

    Refuses bars that cannot be trusted, naming file, row and remedy; nothing is trained.
    """
    from p3kit.market import load_market
    from p3kit.market.facts import facts_of
    from p3kit.spec import load_spec
    from p3kit.spec.loading import is_spec

    if not is_spec(spec):
        if overrides or picture is not None:
            raise click.UsageError(f"--set and --picture need a spec; {spec} is no .toml file")
        _describe_file(spec, as_json)
        return
    loaded = load_spec(spec, overrides).spec
    market = load_market(loaded, loaded.symbols)
    if as_json:
        facts = {symbol: facts_of(bars, loaded) for symbol, bars in market.items()}
        print_json(facts)
    else:
        click.echo(render(market, loaded))
    if picture is not None:
        from p3kit.report.market_picture import draw_data

        draw_data(market, loaded.name, picture)
        print_note(f"picture: {picture}")


@data.command(
    epilog="""\b
Examples:
  p3kit data fetch AAPL MSFT --interval 1h --output data
  p3kit data fetch SPY --from 2010-01-01 --to 2024-12-31
  p3kit init hourly.toml --bars data                        then: a spec on these files"""
)
@click.argument("symbols", metavar="SYMBOL...", nargs=-1, required=True)
@click.option(
    "--interval",
    type=click.Choice(["1d", "1h", "30m", "15m", "5m"]),
    default="1d",
    help="Length of a bar. Yahoo keeps 1h bars for 730 days, finer ones for 60.",
)
@click.option(
    "--from",
    "first",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DAY",
    help="First day, e.g. 2015-01-01.",
    show_default="as far back as Yahoo goes",
)
@click.option(
    "--to", "last", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help="Last day, included.", show_default="today"
)
@click.option(
    "--output",
    type=UserPath(file_okay=False, path_type=Path),
    default=Path("data"),
    help="Folder for a file per symbol, and provenance.json.",
)
@click.option("--format", "kind", type=click.Choice(["csv", "parquet"]), default="csv")
@force_option
@json_option
def fetch(
    symbols: tuple[str, ...],
    interval: str,
    first: dt.datetime | None,
    last: dt.datetime | None,
    output: Path,
    kind: Literal["csv", "parquet"],
    force: bool,
    as_json: bool,
) -> None:
    """Fetch the bars of SYMBOLs from Yahoo Finance into files that [data] reads (extra `yahoo`).

    The one command that needs a network. Prices are adjusted for splits and dividends; unfinished bars and rows without
    a price are left out and counted. Yahoo's data come without a warranty, for personal use, and may change:
    provenance.json keeps the source, the time, and a fingerprint of every file. Exit code 1 if a symbol failed.
    """
    from p3kit.market import check_symbols
    from p3kit.market.yahoo import NETWORK, span
    from p3kit.market.yahoo import fetch as ask

    chosen = list(dict.fromkeys(symbol.upper() for symbol in symbols))
    check_symbols(chosen)
    now = utc_now()
    days = span(interval, first and first.date(), last and last.date(), now.date())
    fetched, missed = ask(chosen, output, interval=interval, days=days, kind=kind, now=now, overwrite=force)
    if as_json:
        print_json({"files": [one.to_json() for one in fetched], "missed": [vars(one) for one in missed]})
    else:
        for one in fetched:
            left = [f"{one.without_price} rows without a price"] if one.without_price else []
            left += [f"{one.unfinished} unfinished"] if one.unfinished else []
            suffix = f"; left out: {', '.join(left)}" if left else ""
            click.echo(f"{one.file}: {one.bars:,} bars, {one.first} to {one.last}{suffix}")
    for miss in missed:
        click.echo(f"{miss.symbol}: not fetched: {miss.reason}", err=True)
    if not fetched:
        click.echo(f"nothing came; {NETWORK}", err=True)
    else:
        print_note(f"next:  p3kit init mine.toml --bars {shlex.quote(str(output))}")
    if missed:
        sys.exit(1)


def _describe_file(path: Path, as_json: bool) -> None:
    """Print what a file without a spec is, and the [data] table that reads it. Raises DataError after that."""
    from p3kit.errors import DataError
    from p3kit.market.facts import describe_file

    facts = describe_file(path)
    if as_json:
        print_json(facts.to_json())
    else:
        click.echo(render_file(facts))
    if facts.faults:
        raise DataError.collected(facts.faults)


def render_file(facts: FileFacts) -> str:
    """A file for people: its shapes, its columns, its bars, and what to copy."""
    lines = [str(facts.path)]
    lines += [f"  {name}: {reading}" for name, reading in facts.shapes.items()]
    lines += ["", "columns: " + ", ".join(f"{role} = {name!r}" for role, name in facts.columns.items())]
    rows: list[tuple[str, ...]] = [("symbol", "bars", "first", "last", "spacing", "bars a year", "", "gaps")]
    rows += [
        (symbol, f"{f['bars']:,}", f["first"][:16].replace("T", " "), f["last"][:16].replace("T", " "),
         ", ".join(f["usual_spacings"]), f"{f['bars_per_year']:,.1f}", f["estimate"], f"{f['gaps']:,}")
        for symbol, f in facts.bars.items()
    ]  # fmt: skip
    text = "\n".join(lines) + "\n" + ("\n" + _table(rows, right={1, 5, 7}) if facts.bars else "")
    for note, symbols in _notes(facts.bars).items():
        text += f"note ({', '.join(symbols)}): {note}\n"
    if len(facts.symbols) > len(facts.bars) + len(facts.faults):
        text += f"{len(facts.symbols) - len(facts.bars):,} more symbols are not shown\n"
    return f"{text}\nto copy into a spec:\n\n{facts.table}"


def utc_now() -> dt.datetime:
    """The clock that decides which bars are over."""
    return dt.datetime.now(dt.UTC)


def render(market: Mapping[str, SymbolData], spec: Spec) -> str:
    """The same for people: a row per symbol, a block per split, the features, notes, where the data come from."""
    from p3kit.market.facts import facts_of
    from p3kit.market.gaps import span_text

    facts = {symbol: facts_of(bars, spec) for symbol, bars in market.items()}
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
        gap = f"{span_text(longest['hours'])} from {longest['begin'][:16].replace('T', ' ')}" if longest else "none"
        move = f"{f['largest_move']['change']:+.1%} on {f['largest_move']['at'][:10]}"
        usual = ", ".join(span_text(hours) for hours in f["usual_spacing_hours"][:3])
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

    text += "\n" + _observed(facts, spec)
    for note, symbols in _notes(facts).items():
        text += f"note ({', '.join(symbols)}): {note}\n"
    for f in facts.values():
        if "caution" in f:
            text += f"\nthe sample: {f['provenance']}.\ncaution, in the words of that package: {f['caution']}\n"
            break
    text += "gaps: spacings that few bars share and that are half as long again as the usual one below\n"
    return text.rstrip("\n")


_NORMALISED = {
    "train": "normalised as (value − mean) / scale of the training split",
    "running": "normalised by running statistics while training",
    "none": "not normalised",
}


def _observed(facts: Mapping[str, dict[str, Any]], spec: Spec) -> str:
    """The features that an agent observes; means and scales are those of the first symbol."""
    symbol, first = next(iter(facts.items()))
    seen = first["observed"]
    rows: list[tuple[str, ...]] = [("feature", "from", "bars", f"mean ({symbol})", "scale")]
    rows += [
        (row["name"], row["source"], str(row["bars"]), f"{row['mean']:.4g}", f"{row['scale']:.4g}") for row in seen
    ]
    window, normalised = spec.env.window, _NORMALISED[spec.observation.normalize]
    bars = "the last bar" if window == 1 else f"each of the last {window} bars"
    return f"{len(seen)} features of {bars}, {normalised}:\n" + _table(rows, right={2, 3, 4})


def _notes(facts: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Note → the symbols it is about, so that the same note is printed once."""
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
