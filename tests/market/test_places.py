"""Tests of paths to files of bars: symbolic links, `~`, braces, pipes and devices, and the files of a folder."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pandas as pd
import pytest

from p3kit.errors import SpecError
from p3kit.market import load_market
from p3kit.spec import load_spec
from tests.command import invoke
from tests.market.made import frame_of, random_bars, write_csv

BARS = random_bars(600)
OTHER = random_bars(600, seed=7)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def spec(path: str, file: Path, extra: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = f'{extra}\nname = "x"\nsymbols = ["X"]\n[data]\nsource = "csv"\npath = "{path}"\n[env]\nepisode_bars = 60\n'
    file.write_text(text)
    return file


def bars(folder: Path, which=BARS, name: str = "X.csv") -> None:  # type: ignore[no-untyped-def]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(frame_of(which), folder).rename(folder / name)


def first_close(file: Path) -> float:
    loaded = load_spec(file).spec
    return float(load_market(loaded, ["X"])["X"].close[0])


def test_a_proposed_command_can_be_pasted(here: Path) -> None:
    bars(here / "my data")
    result = invoke("init", "my specs/s.toml", "--bars", "my data")
    assert shlex.split(result.stderr)[1:] == ["p3kit", "data", "my specs/s.toml", "p3kit", "run", "my specs/s.toml"]
    result = invoke("eject", "ppo", "my specs/own.py")
    assert shlex.split(result.stderr)[1:6] == ["p3kit", "init", "mine.toml", "--trainer", "my specs/own.py"]


@pytest.mark.parametrize("name", ["NASDAQ_AAPL, 60.csv", "ES 03-24.Last.txt"])
@pytest.mark.parametrize("place", ["data", "data/{name}"])
def test_a_file_whose_name_is_no_symbol_gets_one(name: str, place: str, here: Path) -> None:
    bars(here / "data", name=name)
    assert invoke("init", "s.toml", "--bars", place.format(name=name)).exit_code == 0
    loaded = load_spec("s.toml").spec
    assert load_market(loaded, loaded.symbols)[loaded.symbols[0]].close[0] == BARS.close[0]


def test_the_parent_of_a_linked_folder_is_that_of_the_real_one(here: Path) -> None:
    """As text, link/../data is data; in the file system it is real/data."""
    bars(here / "real" / "data")
    bars(here / "data", OTHER)
    spec("../data/{symbol}.csv", here / "real" / "specs" / "s.toml")
    (here / "link").symlink_to(here / "real" / "specs")
    assert first_close(Path("link/s.toml")) == BARS.close[0]
    assert first_close(here / "link" / "s.toml") == BARS.close[0]
    (here / "elsewhere").mkdir()
    os.chdir(here / "elsewhere")
    assert first_close(Path("../link/s.toml")) == BARS.close[0]


def test_a_link_inside_a_path_is_followed_before_its_parent(here: Path) -> None:
    bars(here / "real" / "data")
    bars(here / "data", OTHER)
    (here / "real" / "deep").mkdir()
    (here / "link").symlink_to(here / "real" / "deep")
    assert first_close(spec("link/../data/{symbol}.csv", here / "s.toml")) == BARS.close[0]


def test_a_base_beside_the_real_folder(here: Path) -> None:
    (here / "real" / "specs").mkdir(parents=True)
    (here / "real" / "base.toml").write_text("seeds = [5]\n")
    (here / "base.toml").write_text("seeds = [6]\n")
    spec("data/{symbol}.csv", here / "real" / "specs" / "s.toml", 'extends = "../base.toml"')
    (here / "link").symlink_to(here / "real" / "specs")
    assert load_spec("link/s.toml").spec.seeds == (5,)


def test_init_in_a_linked_folder_finds_its_bars(here: Path) -> None:
    bars(here / "data")
    (here / "real" / "specs").mkdir(parents=True)
    (here / "link").symlink_to(here / "real" / "specs")
    assert invoke("init", "link/s.toml", "--bars", "data").exit_code == 0
    assert invoke("validate", "link/s.toml").exit_code == 0


def test_a_home_folder_and_braces(here: Path) -> None:
    bars(here / "home" / "bars")
    assert first_close(spec("~/bars/{symbol}.csv", here / "s.toml")) == BARS.close[0]
    bars(here / "old {2024}")
    assert first_close(spec("old {{2024}}/{symbol}.csv", here / "s.toml")) == BARS.close[0]
    assert invoke("init", "made.toml", "--bars", "old {2024}").exit_code == 0
    assert 'path = "old {{2024}}/{symbol}.csv"' in Path("made.toml").read_text()
    assert invoke("validate", "made.toml").exit_code == 0
    assert invoke("init", "home.toml", "--bars", "~/bars").exit_code == 0
    assert invoke("validate", "home.toml").exit_code == 0


@pytest.mark.parametrize("command", ["data", "plan", "run", "validate", "check"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_pipes_and_devices_are_refused_with_their_place(command: str, kind: str, here: Path) -> None:
    (here / "data").mkdir()
    if kind == "a pipe":
        os.mkfifo(here / "data" / "X.csv")
    else:
        (here / "data" / "X.csv").symlink_to("/dev/zero")
    spec("data/{symbol}.csv", here / "s.toml")
    result = invoke(command, "s.toml")
    assert result.exit_code == 2
    assert f"s.toml:6:1: data.path: data/X.csv: is {kind}; write the bars to a regular file" in result.stderr


def test_a_pipe_without_a_spec_is_refused(here: Path) -> None:
    os.mkfifo(here / "X.csv")
    result = invoke("data", "X.csv")
    assert result.exit_code == 2
    assert "X.csv: is a pipe" in result.stderr
    assert invoke("init", "s.toml", "--bars", "X.csv").exit_code == 2


def test_a_pipe_given_by_set_names_the_option(here: Path) -> None:
    os.mkfifo(here / "X.csv")
    with pytest.raises(SpecError, match=r"--set data\.path=X\.csv: data\.path: X\.csv: is a pipe"):
        load_spec(spec("data/{symbol}.csv", here / "s.toml"), ["data.path=X.csv"])


# --- folders ----------------------------------------------------------------------------------------------------------


def started(folder: str = "data") -> str:
    result = invoke("init", "made.toml", "--force", "--bars", folder)
    assert result.exit_code == 0, result.output
    assert invoke("validate", "made.toml").exit_code == 0
    return Path("made.toml").read_text()


def test_hidden_files_are_no_symbols(here: Path) -> None:
    for name in ("AAPL.csv", "MSFT.csv"):
        bars(here / "data", name=name)
    for name in ("._AAPL.csv", ".~lock.AAPL.csv#", "~$AAPL.csv", "_SUCCESS", ".DS_Store"):
        (here / "data" / name).write_bytes(b"\0\5\26\7")
    (here / "data" / "OLD.csv").mkdir()
    assert 'symbols = ["AAPL", "MSFT"]' in started()


@pytest.mark.parametrize("ending", [".CSV", ".csv.gz", ".txt", ".tsv", ".csv.xz", ".csv.zip"])
def test_endings_of_every_kind(ending: str, here: Path) -> None:
    (here / "data").mkdir()
    frame_of(BARS).to_csv(here / "data" / f"BRK.B{ending}", index=False, sep="\t" if ending == ".tsv" else ",")
    text = started()
    assert 'symbols = ["BRK.B"]' in text
    assert f'path = "data/{{symbol}}{ending}"' in text
    result = invoke("data", "made.toml", "--set", "env.episode_bars=60")
    assert result.exit_code == 0, result.output


def test_mixed_endings_are_named(here: Path) -> None:
    bars(here / "data", name="A.csv")
    bars(here / "data", name="B.CSV")
    result = invoke("init", "made.toml", "--bars", "data")
    assert result.exit_code == 2
    assert "has files that end in different ways (1 in .csv and 1 in .CSV)" in result.stderr


def test_a_folder_of_spark_is_no_file(here: Path) -> None:
    (here / "data" / "X.csv").mkdir(parents=True)
    (here / "data" / "X.csv" / "part-00000.csv").write_text("date,close\n2020-01-01,1\n")
    result = invoke("init", "made.toml", "--bars", "data")
    assert result.exit_code == 2
    assert "is a folder of Spark with 1 part files" in result.stderr


@pytest.mark.parametrize("place", ["data", "data/all.csv"])
def test_a_long_file_gives_all_its_symbols(place: str, here: Path) -> None:
    (here / "data").mkdir()
    frame = frame_of(BARS)
    frame = pd.concat([frame.assign(tic="BRK.B"), frame.assign(tic="AAPL")])
    frame.sort_values(["timestamp", "tic"]).to_csv(here / "data" / "all.csv", index=False)
    text = started(place)
    assert 'symbols = ["AAPL", "BRK.B"]' in text
    assert 'path = "data/all.csv"' in text
    result = invoke("data", "made.toml", "--set", "env.episode_bars=60")
    assert result.exit_code == 0, result.output
    assert "a long file: column tic holds 2 symbols" in result.stdout


def test_several_symbols_need_a_column_of_symbols(here: Path) -> None:
    bars(here / "data", name="all.csv")
    spec("data/all.csv", here / "s.toml").write_text(Path("s.toml").read_text().replace('["X"]', '["X", "Y"]'))
    result = invoke("data", "s.toml")
    assert result.exit_code == 2
    assert "has no column of symbols, and the spec has several symbols" in result.stderr


def test_init_writes_that_prices_are_adjusted(here: Path) -> None:
    (here / "data").mkdir()
    frame_of(BARS).assign(**{"Adj Close": BARS.close * 0.9}).to_csv(here / "data" / "X.csv", index=False)
    assert 'adjust = "auto"' in started()
    assert load_spec("made.toml").spec.data.adjust == "auto"
