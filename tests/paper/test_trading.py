"""A paper account from call to call: idempotent, whole after any kill, and careful with changed files."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import numpy as np
import pytest

from p3kit.errors import DataError, InputError, P3kitError
from p3kit.paper.account_journal import ACCOUNT_NUMBERS, FILE, Journal, held
from p3kit.paper.taking_in import read_account
from p3kit.rundir.rows import line_of
from tests.paper.scripted import FIRST, called, decide_by_time, decider, files_of, first_bars, made_bars, start_of

BARS = made_bars()
START = start_of(BARS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of an account that took all bars in at once."""
    folder = tmp_path_factory.mktemp("paper") / "X"
    called(folder, BARS, start=START)
    return files_of(folder)


def test_bar_by_bar_gives_the_same_account_as_all_at_once(tmp_path, whole) -> None:
    opened = None
    for count in range(FIRST + 1, len(BARS) + 1):
        result = called(tmp_path, first_bars(BARS, count), start=START)
        assert result.new_bars == 1
        opened = opened or result.book.opened
    own, other = (files[FILE].split(b"\n") for files in (files_of(tmp_path), whole))
    assert own[1:] == other[1:]
    assert opened["made_later"] is None
    assert b'"made_later": "' in other[0], "decisions on earlier bars are marked"


def test_a_repeated_call_changes_no_byte(tmp_path, whole) -> None:
    for _ in range(3):
        called(tmp_path, BARS, start=START)
        assert files_of(tmp_path) == whole
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert called(tmp_path, BARS).new_bars == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps


@pytest.mark.parametrize("seed", range(25))
def test_a_journal_torn_at_any_byte_is_finished_to_the_same_bytes(tmp_path, whole, seed) -> None:
    at = int(np.random.default_rng(seed).integers(0, len(whole[FILE])))
    (tmp_path / FILE).write_bytes(whole[FILE][:at])
    result = called(tmp_path, BARS, start=START)
    assert files_of(tmp_path) == whole
    is_torn = whole[FILE][:at] and not whole[FILE][:at].endswith(b"\n")
    assert any("cut off" in note for note in result.notes) == bool(is_torn)


@pytest.mark.parametrize("fails_at", [0, 1, 40])
def test_a_call_that_fails_half_way_is_finished_by_the_next(tmp_path, whole, fails_at) -> None:
    calls = []

    def failing(*seen):
        calls.append(seen)
        if len(calls) > fails_at:
            raise MemoryError
        return decider().decide(*seen)

    with pytest.raises(MemoryError):
        called(tmp_path, BARS, decider(decide=failing), start=START)
    called(tmp_path, BARS, start=START)
    assert files_of(tmp_path) == whole


def changed(row: int, column: str, factor: float):
    values = getattr(BARS, column).copy()
    values[row] *= factor
    return replace(BARS, **{column: values})


@pytest.mark.parametrize("row", [FIRST - 10, FIRST, FIRST + 5, FIRST + 30])
@pytest.mark.parametrize(("column", "factor"), [("close", 1.02), ("open", 0.97), ("volume", 3.0), ("low", 0.9)])
def test_a_corrected_bar_is_reported_once_and_not_used(tmp_path, whole, row, column, factor) -> None:
    called(tmp_path, first_bars(BARS, FIRST + 31), start=START)
    result = called(tmp_path, changed(row, column, factor))
    (note,) = result.notes
    assert str(BARS.timestamps[row])[:10] in note
    assert column in note
    bars = [line for line in files_of(tmp_path)[FILE].split(b"\n") if b'"kind": "bar"' in line]
    assert bars == [line for line in whole[FILE].split(b"\n") if b'"kind": "bar"' in line]
    before = files_of(tmp_path)
    assert called(tmp_path, changed(row, column, factor)).notes == (note,), "every call reports it"
    assert files_of(tmp_path) == before, "the journal has it once"
    assert result.status["corrected_bars"] == 1


def test_a_missing_and_an_added_past_bar_are_reported(tmp_path) -> None:
    def without(row: int):
        return replace(BARS, **{n: np.delete(getattr(BARS, n), row) for n in ("timestamps", "close", *BARS.columns)})

    called(tmp_path / "a", BARS, start=START)
    assert "is missing from the file" in called(tmp_path / "a", without(150)).notes[0]
    called(tmp_path / "b", without(150), start=START, accept_gap=True)
    assert "was not there before" in called(tmp_path / "b", BARS).notes[0]


@pytest.mark.parametrize("factor", [0.98, 0.5, 10.0])
@pytest.mark.parametrize("decimals", [None, 3])
def test_rescaled_prices_are_taken_over_and_equity_does_not_move(tmp_path, factor, decimals) -> None:
    """The file's old prices are in the unit before a dividend or a split; a later file has them all in the new one."""
    round_ = (lambda values: values) if decimals is None else (lambda values: values.round(decimals))
    who = decider(decide=decide_by_time)
    prices = {name: round_(getattr(BARS, name) / factor) for name in ("open", "high", "low", "close")}
    old = first_bars(replace(BARS, **prices), FIRST + 30)
    called(tmp_path / "own", old, who, start=START)
    before = called(tmp_path / "own", old, who)
    new = replace(BARS, **{name: round_(getattr(BARS, name)) for name in prices})
    result = called(tmp_path / "own", new, who)
    assert any(note.startswith("rescaled: prices from") for note in result.notes)
    expected = called(tmp_path / "plain", new, who, start=START)
    own, plain = ([point.equity for point in one.book.points] for one in (result, expected))
    assert own == pytest.approx(plain, rel=1e-9 if decimals is None else 2e-3)
    fills = [fill["price"] for point in before.book.points for fill in point.fills]
    assert [fill["price"] for point in result.book.points for fill in point.fills][: len(fills)] == fills
    files = files_of(tmp_path / "own")
    assert called(tmp_path / "own", new, who).notes == ()
    assert files_of(tmp_path / "own") == files


def test_a_split_that_divides_old_volumes_is_no_correction(tmp_path) -> None:
    half = {name: getattr(BARS, name) * 2 for name in ("open", "high", "low", "close")}
    old = first_bars(replace(BARS, **half, volume=BARS.volume / 2), FIRST + 30)
    called(tmp_path, old, start=START)
    result = called(tmp_path, BARS)
    assert [note.split(":")[0] for note in result.notes] == ["rescaled"]
    assert result.book.bars(60).volume == pytest.approx(BARS.volume[-60:])


def test_files_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path) -> None:
    called(tmp_path, first_bars(BARS, FIRST + 20), start=START)
    before = files_of(tmp_path)
    late = replace(BARS, **{n: getattr(BARS, n)[FIRST + 25 :] for n in ("timestamps", "close", *BARS.columns)})
    gap = np.r_[0 : FIRST + 20, FIRST + 27 : 200]
    wrong = {
        "an older file": first_bars(BARS, FIRST + 10),
        "after the account's newest bar": late,
        "no bar for": replace(BARS, **{n: getattr(BARS, n)[gap] for n in ("timestamps", "close", *BARS.columns)}),
        "bars differ from those of X": made_bars(seed=99),
        "has no column volume": replace(BARS, volume=None),
        "bars of X in the account": replace(BARS, timestamps=BARS.timestamps + np.timedelta64(5, "h")),
    }
    for message, bars in wrong.items():
        with pytest.raises(InputError, match=message) as error:
            called(tmp_path, bars)
        assert ";" in str(error.value), "an error names the remedy"
        assert files_of(tmp_path) == before
    assert called(tmp_path, wrong["no bar for"], accept_gap=True).new_bars > 0


def test_too_few_bars_and_a_late_start_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="70 are needed"):
        called(tmp_path, first_bars(BARS, 69))
    with pytest.raises(DataError, match="has no bar from 2035"):
        called(tmp_path, BARS, start=np.datetime64("2035-01-01", "ns"))
    assert not (tmp_path / FILE).exists()


def test_other_weights_and_rules_are_an_event(tmp_path) -> None:
    called(tmp_path, first_bars(BARS, FIRST + 20), start=START)
    weights = {**decider().weights, "sha256": "b" * 64, "checkpoint": "best-2.pt"}
    result = called(tmp_path, BARS, decider(weights=weights))
    assert result.status["weights_changed"] == 1
    assert result.status["checkpoint"] == "best-2.pt"
    lines = files_of(tmp_path)[FILE].decode().split("\n")
    assert sum('"weights": "aaaaaaaaaaaa"' in line for line in lines) == 20
    assert sum('"weights": "bbbbbbbbbbbb"' in line for line in lines) == len(BARS) - FIRST - 20
    rules = replace(decider().rules, commission=0.01)
    assert called(tmp_path, BARS, decider(weights=weights, rules=rules)).status["weights_changed"] == 2
    with pytest.raises(InputError, match="is an account of X"):
        called(tmp_path, BARS, decider(symbol="Y"))


def test_two_calls_at_once_do_not_mix(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("p3kit.paper.account_journal._WAIT_S", 0.05)
    with held(tmp_path), pytest.raises(InputError, match="another p3kit paper works on this account"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def forged(**changes) -> bytes:
    """A line with a right checksum and wrong content."""
    numbers = dict.fromkeys(ACCOUNT_NUMBERS, 1.0)
    row = {"kind": "bar", "time": "2020-01-01", "bar": ["2020-01-01", *[1.0] * 5], "fills": [], "equity": 1.0,
           "account": numbers, "buy_and_hold": numbers, "decision": {"action": "HOLD"}}  # fmt: skip
    return line_of({key: value for key, value in (row | changes).items() if value is not None}).encode()


WRONG_ROWS = [
    {"kind": "boo"}, {"time": "\x1b[31m"}, {"time": "today"}, {"time": "NaT"},
    {"bar": ["2020-01-01", 1.0]}, {"bar": ["2020-01-01", *["x"] * 5]},
    {"bar": None}, {"account": {"cash": 1.0}}, {"decision": {"action": "rm -rf"}}, {"decision": {}},
    {"fills": [{"price": "nan"}]}, {"equity": "inf"}, {"bar": {}}, {"account": []},
]  # fmt: skip


@pytest.mark.parametrize("changes", WRONG_ROWS, ids=str)
def test_a_forged_row_is_refused_by_line(tmp_path, whole, changes) -> None:
    content = whole[FILE].split(b"\n")[0] + b"\n" + forged(**changes)
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(P3kitError, match="jsonl:2: ") as error:
        called(tmp_path, BARS)
    assert "\x1b" not in str(error.value)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_damaged_journal_is_named_by_line(tmp_path, whole) -> None:
    lines = whole[FILE].split(b"\n")
    opened = json.loads(lines[0])
    opened.pop("crc")
    for content, where in (
        ([*lines[:5], lines[5].replace(b"HOLD", b"SELL", 1) + b" ", *lines[6:]], "jsonl:6: "),
        ([*lines[:5], b"\x1b[31mboo", *lines[6:]], "jsonl:6: "),
        (lines[1:], "does not open an account"),
        ([line_of(opened | {"format": 9}).encode()], "format 9"),
    ):
        (tmp_path / FILE).write_bytes(b"\n".join(content))
        with pytest.raises(P3kitError) as error:
            called(tmp_path, BARS)
        assert where in str(error.value)
        assert "\x1b" not in str(error.value)


def test_a_full_disk_loses_nothing(tmp_path, whole) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(P3kitError, match="call p3kit paper again"):
            called(tmp_path, BARS, start=START)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_of(tmp_path)[FILE].endswith(b"\n")
    called(tmp_path, BARS, start=START)
    assert files_of(tmp_path) == whole


def test_another_first_day_of_an_open_account_is_noted(tmp_path) -> None:
    called(tmp_path, first_bars(BARS, FIRST + 5), start=START)
    assert called(tmp_path, first_bars(BARS, FIRST + 5), start=START).notes == ()
    for start in (BARS.timestamps[FIRST - 1], BARS.timestamps[FIRST + 1]):
        assert "--from is ignored" in called(tmp_path, first_bars(BARS, FIRST + 5), start=start).notes[0]


def test_reading_an_account_writes_nothing(tmp_path) -> None:
    called(tmp_path, BARS, start=START)
    (tmp_path / "status.json").unlink()
    before = files_of(tmp_path)
    _, status = read_account(Journal(tmp_path))
    assert status["bars"] == len(BARS) - FIRST - 1
    assert files_of(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert read_account(Journal(tmp_path / "empty")) is None


def test_columns_of_the_user_are_kept_and_corrections_named(tmp_path) -> None:
    mood = np.random.default_rng(0).normal(size=len(BARS))
    bars = replace(BARS, own={"mood": mood})
    called(tmp_path, first_bars(bars, FIRST + 5), start=START)
    result = called(tmp_path, bars)
    assert result.book.bars(80).own["mood"].tolist() == mood[-80:].tolist()
    changed_mood = mood.copy()
    changed_mood[FIRST + 2] += 1
    (note,) = called(tmp_path, replace(BARS, own={"mood": changed_mood})).notes
    assert "has another mood" in note
    with pytest.raises(InputError, match="has no column mood"):
        called(tmp_path, BARS)
    late = np.where(np.arange(len(BARS)) < FIRST - 10, np.nan, mood)
    with pytest.raises(DataError, match="a column has no value"):
        called(tmp_path / "late", replace(BARS, own={"mood": late}), start=START)


def test_a_ruined_account_stays_in_cash(tmp_path) -> None:
    rules = replace(decider().rules, ruin=0.98, commission=0.02)
    result = called(tmp_path, BARS, decider(rules=rules), start=START)
    assert result.status["ruined"]
    assert result.status["position"] is None
    assert len({point.equity for point in result.book.points[-20:]}) == 1
