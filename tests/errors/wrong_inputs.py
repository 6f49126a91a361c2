"""Wrong inputs beside specs: flags, data, names, versions, own files. Each is one command in a folder.

`docs/errors.md` shows every one with the exact words it gets; the wrong specs are files of their own in
`tests/spec/wrong/`. To add a case, add a line here and refresh the page.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p3kit.rundir import RunDir
from tests.made_runs import SPEC, TRAINER

TWO = 'name = "two"\nsymbols = ["AAPL", "AMD"]\n'
OWN = 'name = "own"\nsymbols = ["SPY"]\n[data]\nsource = "csv"\npath = "data/{symbol}.csv"\n'
HEAD = "timestamp,open,high,low,close,volume\n"
ROW = "2024-01-02,10,11,9,10,100\n"


@dataclass(frozen=True)
class Wrong:
    """One wrong input: a sentence, the command (after `p3kit`), and what lies in the folder where it is given."""

    what: str
    command: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    exit_code: int = 2


def two_runs(folder: Path) -> None:
    """run-1 with two agents, run-2 with one; both done, nothing graded."""
    info = {"name": "phase3", "trainer": "ppo", "created": time.time(), "spec": SPEC, "data": {}, "versions": {}}
    for names in (("AAPL", "AMD"), ("BAC",)):
        agents = [{"name": name, "symbol": name, "seed": 1, "spec": SPEC, "total_timesteps": 1_000} for name in names]
        run = RunDir.create(folder / "runs", {**info, "agents": agents}, "", TRAINER)
        run.write_status({"state": "done", "agents": {name: {"state": "done"} for name in names}})


def a_newer_run(folder: Path) -> None:
    """A run directory that a later p3kit has written."""
    two_runs(folder)
    path = folder / "runs" / "run-2" / "run.json"
    text = path.read_text().replace('"schema_version": 2', '"schema_version": 99')
    path.write_text(re.sub(r',\s+"crc": "[0-9a-f]{8}"', "", text))  # it would have a checksum of its own


def a_changed_run(folder: Path) -> None:
    """A run.json that somebody has edited."""
    two_runs(folder)
    path = folder / "runs" / "run-2" / "run.json"
    path.write_text(path.read_text().replace('"BAC"', '"BAD"'))


def a_torn_run(folder: Path) -> None:
    """A run.json that ends in the middle."""
    two_runs(folder)
    (folder / "runs" / "run-2" / "run.json").write_text('{"agents": [')


def bars(text: str | bytes) -> dict[str, str | bytes]:
    return {"own.toml": OWN, "data/SPY.csv": text}


COMMANDS_AND_FLAGS = [
    Wrong("a command with a typo", "rnu two.toml"),
    Wrong("an option with a typo", "run two.toml --job 2", {"two.toml": TWO}),
    Wrong("no spec", "validate"),
    Wrong("a spec that is not there", "validate tow.toml", {"two.toml": TWO}),
    Wrong("a shipped spec with a typo", "validate specs/phase33.toml"),
    Wrong("a folder in place of a spec", "validate folder", {"folder/a.toml": TWO}),
    Wrong("no number", "run two.toml --jobs two", {"two.toml": TWO}),
    Wrong("a number that cannot be", "run two.toml --jobs 0", {"two.toml": TWO}),
    Wrong("an unknown key", "run two.toml --set ppo.ent_coeff=0.1", {"two.toml": TWO}),
    Wrong("a value outside its bounds", "run two.toml --set ppo.gamma=2", {"two.toml": TWO}),
    Wrong("no value", "run two.toml --set ppo.gamma", {"two.toml": TWO}),
    Wrong("a value that is no TOML", "run two.toml --set ppo.gamma=[1", {"two.toml": TWO}),
    Wrong("a base by --set", "run two.toml --set extends=a.toml", {"two.toml": TWO}),
    Wrong("an unknown trainer", "run two.toml --set trainer=ddpg", {"two.toml": TWO}),
    Wrong("a symbol that the spec has not", "check two.toml --symbol XOM", {"two.toml": TWO}),
    Wrong("--set for a run, which is over", "show run-1 --set ppo.gamma=0.9", prepare=two_runs),
    Wrong("a report of nothing", "report", prepare=two_runs),
    Wrong("an export to an unknown kind of file", "export best --output best.json", prepare=two_runs),
    Wrong("an option that goes with another", "diagnose run-1 --split train", prepare=two_runs),
    Wrong("two forms at once", "diagnose run-1 --patch --markdown", prepare=two_runs),
    Wrong("a spec and a sweep", "tune two.toml --resume latest", {"two.toml": TWO}),
    Wrong("neither spec nor sweep", "tune"),
    Wrong("a dashboard for the whole world", "ui --host 0.0.0.0", prepare=two_runs),
    Wrong("writing over a spec", "init two.toml", {"two.toml": TWO}),
    Wrong("a shipped spec with a typo, to copy", "init --from phase3_hurly"),
    Wrong("an empty folder of bars", "init --bars data", {"data/readme.txt": ""}),
    Wrong("a trainer with a typo, to copy", "eject ppo_share"),
]

RUN_NAMES = [
    Wrong("no runs at all", "diagnose latest"),
    Wrong("a run that is not there", "diagnose run-7", prepare=two_runs),
    Wrong("a run with a typo", "diagnose rnu-2", prepare=two_runs),
    Wrong("an agent with a typo", "diagnose run-1/AAPLE", prepare=two_runs),
    Wrong("a way out of the folder", "diagnose ../../etc", prepare=two_runs),
    Wrong("half a run", "resume run-1/AMD", prepare=two_runs),
    Wrong("a run that is done, to resume", "resume run-1 --no-aim", prepare=two_runs),
    Wrong(
        "old weights of a run that is not there", "validate specs/smoke.toml --set init.from=run-7", prepare=two_runs
    ),
    Wrong("a schedule without an extension", "resume run-1 --schedule stretch --no-aim", prepare=two_runs),
    Wrong("a run that is done, to stop", "stop run-1", prepare=two_runs),
    Wrong("an experiment that is not there", "report --week 1 --name phase4", prepare=two_runs),
    Wrong("one run, to compare", "compare run-2", prepare=two_runs),
    Wrong("nothing graded, to export", "export best", prepare=two_runs),
    Wrong("a sweep that is not there", "tune --resume tune-3"),
]

DATA = [
    Wrong("no file", "data own.toml", {"own.toml": OWN, "data/SPX.csv": HEAD}),
    Wrong("a file of bars with a typo", "data data/SPX.csv", bars(HEAD)),
    Wrong("a folder of bars in place of a file", "data data", bars(HEAD)),
    Wrong("an empty file", "data own.toml", bars("")),
    Wrong("no timestamp", "data own.toml", bars("open,close\n1,2\n")),
    Wrong("no close", "data own.toml", bars("timestamp,price\n2024-01-02,2\n")),
    Wrong("closes by another name", "data own.toml", bars("Date,Adj Close\n2024-01-02,2\n2024-01-03,2\n")),
    Wrong("no header line", "data own.toml", bars("2024-01-02,2,1\n2024-01-03,2,1\n")),
    Wrong("a file of another symbol", "data own.toml", bars("date,tic,close\n2024-01-02,AAPL,2\n2024-01-03,AAPL,2\n")),
    Wrong("a day or a month?", "data own.toml", bars(HEAD + ROW + "03/01/2024,10,11,9,10,100\n")),
    Wrong("seconds and milliseconds", "data own.toml", bars("timestamp,close\n1704153600,10\n1704240000000,10\n")),
    Wrong("two timestamps", "data own.toml", bars("unix,date,close\n1704153600,2024-01-03,1\n")),
    Wrong("the same bar twice", "data own.toml", bars(HEAD + ROW + ROW)),
    Wrong("bars out of order", "data own.toml", bars("date,close\n2024-01-02,8\n2024-01-04,8\n2024-01-03,8\n")),
    Wrong("a hole", "data own.toml", bars(HEAD + ROW + "2024-01-03,10,11,9,,100\n")),
    Wrong("a price of 0", "data own.toml", bars(HEAD + ROW + "2024-01-03,10,11,9,0,100\n")),
    Wrong("points and commas", "data own.toml", bars(HEAD + ROW + '2024-01-03,10.1,11,9,"10,5",100\n')),
    Wrong("columns that changed places", "data own.toml", bars(HEAD + ROW + "2024-01-03,10,9,11,10,100\n")),
    Wrong(
        "closes adjusted, the others not", "data own.toml", bars(HEAD + ROW + "2024-01-03,10,11,9,5,100\n")
    ),
    Wrong(
        "time zones mixed", "data own.toml",
        bars("timestamp,close\n2024-01-02 09:30-05:00,10\n2024-01-02 15:30+00:00,10\n2024-01-02 11:30-05:00,10\n"),
    ),
    Wrong("a column of yours that is not there", "data own.toml --set 'observation.columns=[\"mood\"]'",
          bars(HEAD + ROW + "2024-01-03,10,11,9,10,100\n")),
    Wrong("a column of text as a feature", "data own.toml --set 'observation.columns=[\"mood\"]'",
          bars("date,close,mood\n2024-01-02,10,good\n2024-01-03,10,bad\n")),
    Wrong("a column of yours with a hole", "data own.toml --set 'observation.columns=[\"mood\"]'",
          bars("date,close,mood\n2024-01-02,10,1\n2024-01-03,10,\n2024-01-04,10,2\n")),
    Wrong("a feature with a typo", "data own.toml --set 'observation.features=[\"rsi_41\"]'",
          bars(HEAD + ROW)),
    Wrong("another encoding", "data own.toml", bars("timestamp,close\n2024-01-02,10\n# caf\xe9\n".encode("latin-1"))),
    Wrong("too few bars", "data own.toml", bars(HEAD + ROW + "2024-01-03,10,11,9,10,100\n")),
    Wrong("no Parquet", "data own.toml --set 'data.source=\"parquet\"' --set 'data.path=\"data/{symbol}.parquet\"'",
          {"own.toml": OWN, "data/SPY.parquet": "timestamp,close\n"}),
    Wrong("hourly bars that Yahoo no longer has", "data fetch SPY --interval 1h --from 2010-01-01 --to 2010-02-01"),
    Wrong("a symbol that is a path, to fetch", "data fetch ../../etc"),
]  # fmt: skip

PAPER = [
    Wrong("no paper account", "paper status nothing"),
    Wrong("a paper account of a later p3kit", "paper status a",
          {"a/AAPL/journal.jsonl": '{"kind": "opened", "format": 9, "symbol": "AAPL", "capital": 1, "columns": [], '
           '"own": [], "start": "2024-01-02", "history": [], "weights": {}, "rules": {}}\n'}, exit_code=1),
    Wrong("a changed line of a journal", "paper status a",
          {"a/AAPL/journal.jsonl": '{"kind": "bar", "time": "2024-01-02", "crc": "00000000"}\n'}, exit_code=1),
]  # fmt: skip

VERSIONS = [
    Wrong("a run of a later p3kit", "show run-2", prepare=a_newer_run, exit_code=1),
    Wrong("a run whose plan was changed later", "show run-2", prepare=a_changed_run, exit_code=1),
    Wrong("a run whose plan is torn", "show run-2", prepare=a_torn_run, exit_code=1),
]

OWN_TRAINERS = [
    Wrong("a file that is not there", "validate x.toml", {"x.toml": TWO + 'trainer = "my_ppo.py"\n', "my_pp.py": ""}),
    Wrong("no knobs", "validate x.toml", {"x.toml": TWO + 'trainer = "t.py"\n', "t.py": "x = 1\n"}),
    Wrong("no Python", "validate x.toml", {"x.toml": TWO + 'trainer = "t.py"\n', "t.py": "def (:\n"}),
    Wrong(
        "a knob without a sentence, and one of a strange type", "validate x.toml",
        {"x.toml": TWO + 'trainer = "t.py"\n', "t.py": "class Args:\n    a: float = 1.0\n    b: dict = {}\n"},
    ),
    Wrong(
        "a default outside its own bounds", "validate x.toml",
        {"x.toml": TWO + 'trainer = "t.py"\n',
         "t.py": 'class Args:\n    a: Annotated[float, Gt(0)] = -1.0\n    """Some."""\n'},
    ),
]  # fmt: skip

GROUPS = {
    "Commands and flags": COMMANDS_AND_FLAGS,
    "Names of runs": RUN_NAMES,
    "Data": DATA,
    "Paper accounts": PAPER,
    "Versions and damage": VERSIONS,
    "Trainers of your own": OWN_TRAINERS,
}
