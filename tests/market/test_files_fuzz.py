"""Damaged files: each is read as a table that can be trusted, or refused by name. Nothing else ever happens."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from p3kit.errors import DataError
from p3kit.market.bars import OPTIONAL_COLUMNS
from p3kit.market.files import read_bars
from tests.market.made import frame_of, random_bars

BARS = random_bars(40)
GARBAGE = (
    "", " ", "NaN", "nan", "null", "None", "inf", "-inf", "1e400", "1e-400", "-0", "0", "-3.5", "1,234.5", "1.234,5",
    "12,5", "abc", "=SUM(A1)", "#REF!", "$101", "101 USD", "٣", "0x1F", "True", "2020-13-45", "03/04/2020", "4.3.2020",
    "1577836800", "1577836800000", "2020-01-02T10:00:00Z", "2020-01-02 10:00:00-05:00", "9999-12-31", "1600-01-01",
    "\x00", "\ufeff", "'", '"', "a" * 5_000, "1" * 400, "𝟙𝟚", "\u202e",
)  # fmt: skip
Rows = list[list[str]]


def good_rows() -> Rows:
    frame = frame_of(BARS)
    rows = [list(frame.columns)]
    for _, bar in frame.iterrows():
        rows.append([bar["timestamp"].strftime("%Y-%m-%d"), *(repr(float(x)) for x in bar.iloc[1:])])
    return rows


def garble_a_cell(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows[rng.random() > 0.05 :])
    row[rng.randrange(len(row))] = rng.choice(GARBAGE)


def swap_rows(rows: Rows, rng: random.Random) -> None:
    a, b = rng.sample(range(len(rows)), 2)
    rows[a], rows[b] = rows[b], rows[a]


def repeat_a_row(rows: Rows, rng: random.Random) -> None:
    rows.insert(rng.randrange(len(rows)), list(rng.choice(rows)))


def drop_rows(rows: Rows, rng: random.Random) -> None:
    del rows[rng.randrange(len(rows)) : rng.randrange(len(rows) + 1)]


def drop_a_cell(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    if row:
        del row[rng.randrange(len(row))]


def add_a_cell(rows: Rows, rng: random.Random) -> None:
    rng.choice(rows).append(rng.choice(GARBAGE))


def rename_a_column(rows: Rows, rng: random.Random) -> None:
    rows[0][rng.randrange(len(rows[0]))] = rng.choice(
        ["Date", "close", "Close ", "adj close", "", "timestamp", "HIGH", "🙂"]
    )


def swap_columns(rows: Rows, rng: random.Random) -> None:
    a, b = rng.sample(range(len(rows[0])), 2)
    for row in rows:
        if len(row) > max(a, b):
            row[a], row[b] = row[b], row[a]


def mix_a_time_zone_in(rows: Rows, rng: random.Random) -> None:
    rng.choice(rows[1:])[0] += rng.choice(["T00:00:00Z", " 00:00:00+05:30", " 23:59:59.999999999", "T25:00"])


def scale_a_price(rows: Rows, rng: random.Random) -> None:
    row, column = rng.choice(rows[1:]), rng.randrange(1, len(rows[0]))
    row[column] = repr(float(row[column]) * rng.choice([-1, 0, 1e-12, 0.5, 2, 1e12]))


GRAMMAR: list[Callable[[Rows, random.Random], None]] = [
    garble_a_cell, swap_rows, repeat_a_row, drop_rows, drop_a_cell, add_a_cell, rename_a_column, swap_columns,
    mix_a_time_zone_in, scale_a_price,
]  # fmt: skip


def flip_bytes(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def tear(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def insert_bytes(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.randint(1, 50)) + content[at:]


def recode(content: bytes, rng: random.Random) -> bytes:
    return content.decode("latin-1").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "cp037", "utf-16-le"]))


def change_separators(content: bytes, rng: random.Random) -> bytes:
    old, new = rng.choice(
        [(b",", b";"), (b",", b"\t"), (b",", b"|"), (b"\n", b"\r"), (b"\n", b"\r\n"), (b"\n", b"\n\n")]
    )
    return content.replace(old, new)


def compress(content: bytes, rng: random.Random) -> bytes:
    import gzip

    return gzip.compress(content)


BYTES: list[Callable[[bytes, random.Random], bytes]] = [
    flip_bytes, tear, insert_bytes, recode, change_separators, compress,
]  # fmt: skip


def damaged_csv(rng: random.Random) -> bytes:
    rows = good_rows()
    for _ in range(rng.randint(0, 3)):
        change = rng.choice(GRAMMAR)
        if len(rows) > 2 and all(rows) and len(rows[0]) > 2:
            try:
                change(rows, rng)
            except ValueError:  # a number that an earlier change has spoilt
                continue
    content = "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass") or b"\n"
    return rng.choice(BYTES)(content, rng) if rng.random() < 0.5 else content


def damaged_parquet(folder: Path, rng: random.Random) -> bytes:
    frame = frame_of(BARS)
    change = rng.randrange(7)
    column = rng.choice(list(frame.columns))
    if change == 0:
        frame[column] = frame[column].astype(str)
    elif change == 1:
        frame[column] = [rng.choice([None, "1", "x", "2.5"]) for _ in range(len(frame))] if rng.random() < 0.5 else None
    elif change == 2:
        frame[column] = [[1, 2]] * len(frame)
    elif change == 3:
        frame = frame.sample(frac=1.0, random_state=rng.randrange(2**31))
    elif change == 4:
        frame = frame.drop(columns=column)
    elif change == 5 and column != "timestamp":
        frame.loc[frame.index[rng.randrange(len(frame))], column] = rng.choice([np.nan, -1.0, 0.0, np.inf, 1e-320])
    elif change == 6:
        frame = frame.iloc[:0]
    path = folder / "made.parquet"
    frame.to_parquet(path, index=rng.random() < 0.3)
    content = path.read_bytes()
    return rng.choice([flip_bytes, tear, insert_bytes])(content, rng) if rng.random() < 0.6 else content


def outcome(kind: str, content: bytes, path: Path) -> str:
    """Result of reading a damaged file: "read", or the refusal without its particulars."""
    path.write_bytes(content)
    refusal = None
    try:
        bars = read_bars(kind, str(path.parent / ("{symbol}" + path.suffix)), path.stem)  # type: ignore[arg-type]
    except DataError as error:
        refusal = error
    if refusal is not None:
        text = str(refusal)
        assert path.name in text, text
        assert refusal.exit_code == 2
        assert len(text) < 20_000
        assert all(fault.what for fault in refusal.faults), text
        return "refused: row" if re.search(r"row \d+", text) else "refused: file"
    assert len(bars.close) > 0
    assert (np.diff(bars.timestamps) > np.timedelta64(0)).all()
    assert not np.isnat(bars.timestamps).any()
    for name in ("close", *OPTIONAL_COLUMNS):
        values = getattr(bars, name)
        if values is not None:
            assert values.shape == bars.close.shape
            assert np.isfinite(values).all()
            assert (values >= 0).all() if name == "volume" else (values > 0).all()
    if bars.high is not None and bars.low is not None:
        assert (bars.high >= bars.low).all()
    return "read"


def fuzz(tmp_path: Path, first: int, count: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in range(first, first + count):
        rng = random.Random(seed)
        kind = "csv" if rng.random() < 0.7 else "parquet"
        content = damaged_csv(rng) if kind == "csv" else damaged_parquet(tmp_path, rng)
        try:
            seen[f"{kind} {outcome(kind, content, tmp_path / f'X.{kind}')}"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed} ({kind}): {type(error).__name__}: {error}") from error
    return seen


@pytest.mark.filterwarnings("error::pandas.errors.ParserWarning")
def test_damaged_files_are_read_right_or_refused_by_name(tmp_path: Path) -> None:
    seen = fuzz(tmp_path, 0, 150)
    assert {"csv read", "csv refused: row", "csv refused: file", "parquet read", "parquet refused: file"} <= set(
        seen
    ), seen


@pytest.mark.slow
def test_three_thousand_damaged_files(tmp_path: Path) -> None:
    seen = fuzz(tmp_path, 10_000, 3_000)
    print(dict(seen))
    assert min(seen.values()) > 20, seen


def test_a_copy_of_the_good_rows_is_read(tmp_path: Path) -> None:
    """The damage is done to something that was whole."""
    content = "\n".join(",".join(row) for row in good_rows()).encode()
    assert outcome("csv", content, tmp_path / "X.csv") == "read"
    assert pd.read_csv(tmp_path / "X.csv").shape[0] == len(BARS)
