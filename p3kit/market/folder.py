"""Files of bars that a user points to: a folder with a file per symbol, or one file with several symbols."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from p3kit.errors import DataError, InputError
from p3kit.home import home
from p3kit.market.files import Reading, symbols_of
from p3kit.market.opening import Kind, open_table, require_regular_file
from p3kit.market.shapes import Layout, layout_of, same_symbol
from p3kit.spec.paths import template_of

_CSV = r"\.csv(\.gz|\.bz2|\.xz|\.zip)?"
_ENDINGS: tuple[tuple[Kind, str], ...] = (
    ("csv", _CSV),
    ("parquet", r"\.(parquet|pq)"),
    ("csv", r"\.(txt|tsv)(\.gz|\.bz2|\.xz|\.zip)?"),
)
"""Endings of files of bars, the preferred ones first, in any case."""
_TEXTS = 2
_HIDDEN = (".", "~", "_")
"""Names that systems and spreadsheets keep for themselves: `._AAPL.csv`, `~$AAPL.csv`, `_SUCCESS`."""


@dataclass(frozen=True)
class BarFiles:
    """The [data] table for a user's files."""

    kind: Kind
    template: str
    """`data.path`, seen from the current folder."""
    symbols: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    """Further keys of [data]."""


def find_bars(place: Path) -> BarFiles:
    """The files of bars in a folder, the name of each its symbol; or the symbols of one file. Raises InputError."""
    place = home(place)
    if place.exists() and not place.is_dir():
        return bars_in(place)
    if not place.is_dir():
        raise InputError(f"--bars {place}", "no such folder", _EXPECTED)
    ending, files = _files_in(place)
    kind = kind_of(files[0])
    if len(files) == 1 and len(named_symbols(files[0])) > 1:
        return bars_in(files[0])
    symbols = tuple(file.name.removesuffix(ending) for file in files)
    odd = [symbol for symbol in symbols if _as_symbol(symbol) != symbol]
    if odd and len(files) == 1:
        return bars_in(files[0])
    if odd:
        hint = f"rename it, for example {_as_symbol(odd[0]) or 'SYMBOL'}{ending}: 1 to 32 letters, digits and . _ ^ = -"
        raise InputError(f"--bars {place}", f"{odd[0]}{ending} is not named after a symbol", hint)
    template = f"{template_of(place)}/{{symbol}}{template_of(Path(ending))}"
    return BarFiles(kind, template, symbols, _options(files[0], symbols[0]))


_EXPECTED = "expected one file per symbol, named SYMBOL.csv or SYMBOL.parquet"


def bars_in(path: Path) -> BarFiles:
    """The [data] table for one file."""
    require_regular_file(path, str(path))
    kind = kind_of(path)
    names, stem = named_symbols(path), stem_of(path)
    if len(names) > 1 or (names and not same_symbol(names[0], stem)) or _as_symbol(stem) != stem:
        symbols = tuple(dict.fromkeys(_as_symbol(name) for name in names)) or (_as_symbol(stem) or "MINE",)
        return BarFiles(kind, template_of(path), symbols, _options(path, symbols[0]))
    template = f"{template_of(path.parent / '{symbol}')}".replace("{{symbol}}", "{symbol}")
    return BarFiles(kind, template + path.name.removeprefix(stem), (stem,), _options(path, stem))


def kind_of(path: Path) -> Kind:
    """`csv` or `parquet`, by the first bytes of the file."""
    with path.open("rb") as file:
        return "parquet" if file.read(4) == b"PAR1" else "csv"


def stem_of(path: Path) -> str:
    """The name of a file without its ending: `spy.us` of `spy.us.csv.gz`."""
    for _, ending in _ENDINGS:
        if found := re.fullmatch(rf"(.+?){ending}", path.name, re.IGNORECASE):
            return found[1]
    return path.stem


def _as_symbol(name: str) -> str:
    """`name` as `symbols` may hold it: `BTC/USDT` is BTC-USDT; "" where nothing remains."""
    symbol = re.sub(r"[^A-Za-z0-9._^=-]+", "-", name.rsplit(":", 1)[-1].strip())
    return symbol if re.search(r"[A-Za-z0-9]", symbol) and len(symbol) <= 32 else ""


def _files_in(folder: Path) -> tuple[str, list[Path]]:
    """The ending of the files of bars in a folder, and these files. Raises InputError where there are several kinds."""
    where = f"--bars {folder}"
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith(_HIDDEN))
    for index, (_, pattern) in enumerate(_ENDINGS):
        matching = [(path, found[1]) for path in visible if (found := _ending(path, pattern))]
        folders = [path for path, _ in matching if path.is_dir()]
        files = [(path, ending) for path, ending in matching if path.is_file()]
        if index == _TEXTS:  # a folder has texts of other kinds
            files = [(path, ending) for path, ending in files if _layout(path, None) is not None]
        if folders and not files:
            require_regular_file(folders[0], f"{where}: {folders[0].name}")
        if not files:
            continue
        others = [path for path in visible if index == 0 and path.is_file() and _ending(path, _ENDINGS[1][1])]
        if others:
            hint = "a spec reads one kind: move the other away"
            raise InputError(where, "has both .csv and .parquet files", hint)
        counts = Counter(ending for _, ending in files)
        if len(counts) > 1:
            listed = " and ".join(f"{count} in {ending}" for ending, count in counts.items())
            raise InputError(where, f"has files that end in different ways ({listed})", "give all one ending")
        return next(iter(counts)), [path for path, _ in files]
    raise InputError(where, "has no .csv and no .parquet file", _EXPECTED)


def _ending(path: Path, pattern: str) -> re.Match[str] | None:
    return re.fullmatch(rf".+?({pattern})", path.name, re.IGNORECASE)


def _layout(path: Path, symbol: str | None) -> Layout | None:
    """The meaning of the columns; None where `p3kit data` will name a fault."""
    try:
        return layout_of(open_table(kind_of(path), path), symbol, Reading().columns)
    except DataError:
        return None


def named_symbols(path: Path) -> tuple[str, ...]:
    """Symbols that a file names in its header or in a column; none where it names none or is no table."""
    layout = _layout(path, None)
    try:
        return () if layout is None else symbols_of(layout)
    except DataError:
        return ()


def _options(path: Path, symbol: str) -> dict[str, str]:
    layout = _layout(path, symbol)
    return {"adjust": "auto"} if layout is not None and "adj_close" in layout.columns else {}


def relative_template(template: str, folder: Path) -> str:
    """A template seen from the current folder, as a spec in `folder` writes it."""
    if template.startswith("~"):
        return template
    parent, name = os.path.split(template)
    real = os.path.realpath(parent.replace("{{", "{").replace("}}", "}") or ".")
    return template_of(Path(os.path.relpath(real, os.path.realpath(folder)))) + f"/{name}"
