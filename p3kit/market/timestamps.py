"""Timestamps of a file: ISO 8601, other dates that leave no doubt, two columns of days and times, or a time since 1970.

Of `03/04/2024` day and month are read where another row of the file settles their order, as `31/12/2023` does.

A time zone leads to UTC. Where every bar stands at local midnight, the local day is kept instead: in UTC a day in Tokyo
would become the day before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from p3kit.errors import Fault
from p3kit.market.sheet import Sheet, as_text

Stamps = NDArray[np.datetime64]

_DST_DAYS = 21
"""UTC offsets may change by an hour for daylight saving time, but not twice within this many days."""
_SUNDAY, _NIGHT = 3, np.timedelta64(4, "h")  # 1970-01-01 was a Thursday
"""Clocks are set back in the night of a Sunday, and an hour comes twice."""
_ISO = r"\d{4}-\d{2}-\d{2}|\d{8}(?:[T ]|$)"
_EPOCH = r"\d{9,10}(?:\.0+)?|\d{12,13}|\d{15,16}|\d{18,19}"
_UNITS = {9: "s", 10: "s", 12: "ms", 13: "ms", 15: "us", 16: "us", 18: "ns", 19: "ns"}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_WRITE_ISO = "write ISO 8601, for example 2024-03-08 or 2024-03-08T14:30:00"
_REMOVE = "remove the row or give its time"
_DAY_MONTH = r"(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})(?:,?[T ](.*))?"
_MONTH_NAME = r"(?:[A-Za-z]{3},? )?(?:(\d{1,2})[ -])?([A-Za-z]{3})[a-z]*\.?[ -](?:(\d{1,2}),? )?(\d{4})(?:,?[T ](.*))?"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HALF_DAY = r"(\d{1,2})(:\d{2}(?::\d{2}(?:\.\d+)?)?) ?([AaPp])\.?[Mm]\.?"


@dataclass
class Parsed:
    """Timestamps of a sheet, and what is wrong with them."""

    stamps: pd.Series  # datetime64 without a zone
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse_timestamps(sheet: Sheet) -> tuple[Stamps, list[Fault], list[str]]:
    """Timestamps (T,) in datetime64[ns], what is wrong with them, and notes on how they were read."""
    parsed = _parse(sheet)
    nothing = np.array([], dtype="datetime64[ns]")
    stamps, faults = parsed.stamps, parsed.faults
    if not faults and stamps.isna().any():
        faults = [sheet.fault(np.flatnonzero(stamps.isna()), "timestamp is missing", _REMOVE)]
    if not faults:
        year = stamps.dt.year
        outside = np.flatnonzero((year < 1700) | (year > 2261))  # what 64-bit nanoseconds can hold
        if len(outside):
            faults = [sheet.fault(outside, "is not between the years 1700 and 2261", "check the dates")]
    if faults:
        return nothing, faults, parsed.notes
    timestamps = stamps.to_numpy(dtype="datetime64[ns]")
    return timestamps, _order_faults(sheet, timestamps), parsed.notes


def is_newest_first(timestamps: Stamps) -> bool:
    """True where every row is earlier than the row before."""
    return len(timestamps) > 1 and bool((np.diff(timestamps).astype(np.int64) < 0).all())


def _order_faults(sheet: Sheet, timestamps: Stamps) -> list[Fault]:
    if is_newest_first(timestamps):
        return []
    steps = np.diff(timestamps).astype(np.int64)
    same, back = np.flatnonzero(steps == 0) + 1, np.flatnonzero(steps < 0) + 1
    faults = []
    several = 20 < len(timestamps) > 1.1 * len(np.unique(timestamps))
    suspect = sheet.symbol_like(timestamps) if several else None
    remedy = "a file with several symbols needs a column symbol"
    rows = timestamps[np.union1d(same, back)]
    days = rows.astype("datetime64[D]")
    if len(rows) and (days.astype(int) % 7 == _SUNDAY).all() and (rows - days < _NIGHT).all():
        remedy, several = "were clocks set back? write the times in UTC or with their offset", True
    if suspect:
        remedy = f'column {suspect} looks like the symbol: write columns = {{ symbol = "{suspect}" }} under [data]'
    if len(same):
        hint = remedy if several else "keep one of them"
        faults.append(sheet.fault(same, "same timestamp as the row before", hint))
    if len(back):
        hint = remedy if several else "sort the file by time, oldest first"
        faults.append(sheet.fault(back, "is earlier than the row before", hint))
    return faults


def _parse(sheet: Sheet) -> Parsed:
    column = sheet.frame["timestamp"]
    if "time" in sheet.frame.columns:
        return _parse_text(sheet, _joined(column, sheet.frame["time"]))
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        local = column.dt.tz_localize(None)
        utc = column.dt.tz_convert("UTC").dt.tz_localize(None)
        return _in_zone(local, utc, str(column.dtype.tz))
    if pd.api.types.is_datetime64_dtype(column.dtype):
        return Parsed(column)
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return _parse_numbers(sheet, column)
    return _parse_text(sheet, text_of(column))


def text_of(column: pd.Series) -> pd.Series:
    """A column as text without blanks around it."""
    if isinstance(column.dtype, pd.StringDtype):
        return column.str.strip().fillna("")
    return column.map(as_text).astype("str")


def _joined(day: pd.Series, clock: pd.Series) -> pd.Series:
    """Days and times of day as one text in ISO 8601."""
    if pd.api.types.is_datetime64_any_dtype(day.dtype):
        day = day.dt.strftime("%Y-%m-%d")
    codes, found = pd.factorize(text_of(clock))
    wide = max((len(text) for text in found if text.isdigit()), default=0) > 4
    clocks = [_clock(text, wide) for text in found]
    times = pd.Series(np.asarray(clocks, dtype=object)[codes] if len(found) else [], index=day.index, dtype="str")
    return text_of(day).str.replace(r"[T ]00:00(?::00)?$", "", regex=True) + "T" + times


def _clock(text: str, wide: bool) -> str:
    """930 or 93000 or 9:30 as 09:30 or 09:30:00."""
    if not text.isdigit():
        return text.zfill(len(text) + 1) if text[1:2] == ":" else text
    digits = text.zfill(6 if wide else 4)
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))


def _parse_numbers(sheet: Sheet, column: pd.Series) -> Parsed:
    """Times since 1970, or days such as 20240308, in a column of numbers."""
    hint = "write ISO 8601 dates or a datetime column: whether seconds or milliseconds are meant is not guessed"
    if column.isna().any():
        rows = np.flatnonzero(column.isna())
        return Parsed(column, [sheet.fault(rows, "timestamp is missing", _REMOVE)])
    if not (np.isfinite(column).all() and (column == np.floor(column)).all() and (column.abs() < 2**63).all()):
        return Parsed(column, [Fault(str(sheet.path), "timestamps are plain numbers", hint)])
    text = column.astype("int64").astype("str")
    if text.str.fullmatch(_EPOCH).all() or text.str.fullmatch(r"(?:19|20)\d{6}").all():
        return _parse_text(sheet, text)
    return Parsed(column, [Fault(str(sheet.path), "timestamps are plain numbers", hint)])


def _parse_text(sheet: Sheet, text: pd.Series) -> Parsed:
    if len(text) and text.iloc[:20].str.fullmatch(_EPOCH).all() and text.str.fullmatch(_EPOCH).all():
        return _parse_epoch(sheet, text)
    if text.iloc[:20].str.fullmatch(r"\d{4}-\d{2}-\d{2}(?:[T ][-+:.\dZ]*)?").all():
        return _parse_iso(sheet, text, text)
    ordered, notes = _year_before_day(_half_days(text.str.replace(r"\s+", " ", regex=True)))
    parsed = _parse_iso(sheet, text, _year_first(ordered))
    return replace(parsed, notes=[*notes, *parsed.notes])


def _parse_epoch(sheet: Sheet, text: pd.Series) -> Parsed:
    """Times since 1970, whose unit follows from the number of digits."""
    whole = text.str.replace(r"\.0+$", "", regex=True)
    units = whole.str.len().map(_UNITS)
    unit = units.iloc[0]
    other = np.flatnonzero(units != unit)
    if len(other):
        what = f"is in {_UNIT_NAMES[units.iloc[other[0]]]} since 1970 after {_UNIT_NAMES[unit]}"
        return Parsed(text, [sheet.fault(other, what, "write all timestamps in one unit")])
    try:
        stamps = pd.to_datetime(whole.astype("int64"), unit=unit)
    except (pd.errors.OutOfBoundsDatetime, OverflowError):
        return Parsed(text, [Fault(str(sheet.path), "timestamps are plain numbers beyond the year 2261", _WRITE_ISO)])
    note = f"timestamps are {_UNIT_NAMES[unit]} since 1970; they are read as UTC, and so are the days of data.split"
    return Parsed(stamps, notes=[note])


def _half_days(text: pd.Series) -> pd.Series:
    """`2:30 PM` as 14:30, in texts that end so."""
    if not text.iloc[:20].str.fullmatch(".*" + _HALF_DAY).any():
        return text

    def whole(found: re.Match[str]) -> str:
        hour = int(found[1])
        return f"{hour % 12 + 12 * (found[3] in 'Pp'):02}{found[2]}" if 1 <= hour <= 12 else found[0]

    return text.str.replace(_HALF_DAY + "$", whole, regex=True)


def _year_before_day(text: pd.Series) -> tuple[pd.Series, list[str]]:
    """`31/12/2023` and `Dec 31, 2023` in ISO 8601, and a note; other texts as they are.

    A number above 12 is a day. The order of day and month in all rows has to follow from such numbers.
    """
    if text.iloc[:20].str.fullmatch(_MONTH_NAME).any():
        parts = text.str.extract(f"^{_MONTH_NAME}$")
        month = parts[1].str.lower().map({name: i for i, name in enumerate(_MONTHS, 1)})
        day, known = parts[0].fillna(parts[2]), (parts[0].isna() != parts[2].isna()) & month.notna()
        return _written(text, known, parts[3], month, day, parts[4]), []
    if not text.iloc[:20].str.fullmatch(_DAY_MONTH).any() or text.str.match(r"\d{4}").any():
        return text, []
    parts = text.str.extract(f"^{_DAY_MONTH}$")
    known, first, second = parts[3].notna(), *(pd.to_numeric(parts[i], errors="coerce") for i in (0, 2))
    days_first, months_first = bool((first > 12).any()), bool((second > 12).any())
    is_short = parts[3].str.len() == 2
    if days_first == months_first or parts[1].nunique() > 1 or (is_short.any() and days_first):
        return text, []  # 13/01/24 may be 2013
    shown = text[(first > 12) | (second > 12)].iloc[0]
    note = f"dates have the {'day' if days_first else 'month'} in front, as {re.split('[T ]', shown)[0]} shows"
    day, month = (first, second) if days_first else (second, first)
    year = parts[3].where(~is_short, parts[3].map(lambda two: ("19" if str(two) >= "70" else "20") + str(two)))
    return _written(text, known, year, month, day, parts[4]), [note]


def _written(
    text: pd.Series, known: pd.Series, year: pd.Series, month: pd.Series, day: pd.Series, clock: pd.Series
) -> pd.Series:
    """Dates in ISO 8601 where they are known; else the text."""
    month, day = (pd.to_numeric(part).fillna(0).astype("int64").astype("str").str.zfill(2) for part in (month, day))
    iso = year + "-" + month + "-" + day + ("T" + clock).fillna("")
    return iso.where(known, text)


def _year_first(text: pd.Series) -> pd.Series:
    """`2024.03.08 14:30`, `2024/3/8` and `20240308 143000` in ISO 8601; other texts as they are."""
    text = text.str.replace(r"\s*(?:UTC|GMT)(?=[+-]\d{2}:?\d{2}$)", "", regex=True)
    text = text.str.replace(r"\s+(?:UTC|GMT)$", "Z", regex=True)
    text = text.str.replace(r"^(\d{8})[ T](\d{2}):?(\d{2}):?(\d{2})$", r"\1T\2:\3:\4", regex=True)
    text = text.str.replace(r"^((?:19|20)\d{2})([./-])(\d{1,2})\2(\d{1,2})(?=$|[T ])", r"\1-0\3-0\4", regex=True)
    text = text.str.replace(r"^(\d{4})-0?(\d{2})-0?(\d{2})(?=$|[T ])", r"\1-\2-\3", regex=True)
    return text.str.replace(r"^(\d{4})(\d{2})(\d{2})T", r"\1-\2-\3T", regex=True)


def _parse_iso(sheet: Sheet, written: pd.Series, text: pd.Series) -> Parsed:
    """Timestamps in ISO 8601, all with a UTC offset or all without."""
    stamps = pd.to_datetime(text.where(text.str.match(_ISO)), format="ISO8601", utc=True, errors="coerce")
    stamps = stamps.dt.tz_localize(None)
    unread = np.flatnonzero(stamps.isna())
    if len(unread):
        return Parsed(stamps, [_unread_fault(sheet, unread, written.iloc[unread[0]])])
    codes, tails = pd.factorize(text.str.slice(-6).where(text.str.len() > 12, ""))
    offsets = pd.Series(tails.astype("str")).str.extract(r"(Z|[+-]\d{2}(?::?\d{2})?)$", expand=False).to_numpy()
    known = np.array([isinstance(offset, str) for offset in offsets])[codes] if len(tails) else np.array([], bool)
    if not known.any():
        return Parsed(stamps)
    one_zone = "write all timestamps in one time zone, best in UTC"
    if not known.all():
        kind = "with" if not known[0] else "without"
        odd = np.flatnonzero(known if kind == "with" else ~known)
        what = f"a time {kind} UTC offset among times that are not"
        return Parsed(stamps, [sheet.fault(odd, what, one_zone)])
    minutes = np.array([offset_minutes(offset) for offset in offsets])[codes]
    mixed = _other_zone(stamps.to_numpy(), minutes)
    if len(mixed):
        what = f"UTC offset {offsets[codes[mixed[0]]]} after {offsets[codes[0]]}: mixed time zones"
        return Parsed(stamps, [sheet.fault(mixed, what, one_zone)])
    local = stamps + pd.to_timedelta(minutes, unit="min")
    return _in_zone(local, stamps, " and ".join(sorted(set(offsets[np.unique(codes)]))))


def _unread_fault(sheet: Sheet, rows: NDArray[np.intp], value: str) -> Fault:
    if value in ("", "T"):
        return sheet.fault(rows, "timestamp is missing", _REMOVE)
    hint = _WRITE_ISO
    if re.fullmatch(r"\d{1,2}[-/. ](\d{1,2}|[A-Za-z]{3})[-/. ]\d{2}(\D.*)?", value):
        hint += "; a year of two digits is not guessed"
    elif re.search(r"[/.]", value.split(" ")[0]):
        hint += "; day and month are read only if a day above 12 settles which comes first in every row"
    return sheet.fault(rows, f'"{value[:40]}" is no timestamp', hint)


def _other_zone(utc: Stamps, minutes: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows whose offset no daylight saving time explains."""
    changes = np.flatnonzero(np.diff(minutes)) + 1
    if not len(changes):
        return changes
    far = np.flatnonzero(np.abs(minutes - minutes[0]) > 60)
    days = np.abs(np.diff(utc[changes])) / np.timedelta64(1, "D")
    if len(far) or np.ptp(minutes) > 60 or (days < _DST_DAYS).any():
        return far if len(far) else changes
    return changes[:0]


def offset_minutes(offset: str) -> int:
    """`-05:00` as -300."""
    if offset == "Z":
        return 0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return (-1 if offset[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))


def _in_zone(local: pd.Series, utc: pd.Series, zone: str) -> Parsed:
    """UTC; the local day where every bar stands at local midnight."""
    if len(local) and (local == local.dt.normalize()).all():
        note = f"timestamps carry a time zone ({zone}) and stand at local midnight; the local day is kept"
        return Parsed(local, notes=[note])
    note = f"timestamps carry a time zone ({zone}); they are kept in UTC, and so are the days of data.split"
    return Parsed(utc, notes=[note])
