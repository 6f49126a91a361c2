"""docs/json.md: the keys that every command's `--json` prints are those of the page.

Commands that read runs are tested on generated ones. Commands that draw pictures, and a real run, are slow.
`pytest tests/docs/test_json_forms.py --refresh-golden -m ""` rewrites the page.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from p3kit.market.sample import sample_bars
from tests.command import invoke
from tests.documented import ROOT
from tests.made_runs import make_run

PAGE = ROOT / "docs" / "json.md"
BEGIN, END = re.findall(r"<!-- /?forms[^\n]*-->", PAGE.read_text(encoding="utf-8"))
DEEPEST = 3

READING = [
    "validate experiment.toml",
    "plan experiment.toml",
    "show experiment.toml",
    "data experiment.toml",
    "runs",
    "diagnose run-1",
    "export run-1",
    "init second.toml",
    "eject ppo",
]
DRAWING = ["compare run-1 run-2", "report --week 1", "report --lessons", "sync"]
SHORT = (
    """--set 'evaluation.action="sampled"' --set ppo.total_timesteps=600 --set ppo.n_steps=75 --set ppo.n_epochs=1"""
)
TRAINING = [f"run experiment.toml --no-aim --runs own {SHORT}", "evaluate run-1 --runs own",
            "predict run-1 --runs own --bars ordering.csv --checkpoint last",
            "paper run-1 --runs own --account paper --bars bars.csv --checkpoint last",
            "paper status paper"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P3KIT_RUNS", "runs")
    assert invoke("init").exit_code == 0
    sample = sample_bars("AAPL")
    pd.DataFrame({"close": sample.close}, index=sample.timestamps).to_csv("bars.csv", index_label="date")
    for seed in (1, 2):
        make_run(tmp_path / "runs", seed=seed, agent_name=f"AAPL.s{seed}", symbols=["AAPL"])
    return tmp_path


def form(command: str) -> str:
    """A section of the page: the command and the keys it prints."""
    if "ordering.csv" in command:
        write_bars_with_an_order(command)
    result = invoke(*shlex.split(command), "--json")
    assert result.exit_code == 0, f"{command}\n{result.output}"
    keys = "\n".join(dict.fromkeys(_keys(json.loads(result.stdout), "")))
    words = [word for word in command.split() if not word.startswith("--") or word in ("--week", "--lessons")]
    return f"### p3kit {' '.join(words[:2])}\n\n```text\n{keys}\n```\n"


def write_bars_with_an_order(command: str) -> None:
    """Write ordering.csv: the bars up to the last one at which the agent gives an order."""
    bars = pd.read_csv("bars.csv")
    for end in range(len(bars), len(bars) - 30, -1):
        bars[:end].to_csv("ordering.csv", index=False)
        result = invoke(*shlex.split(command), "--json")
        if json.loads(result.stdout)[0]["order"] is not None:
            return
    pytest.fail("the agent gives no order on 30 bars")


def _keys(value: Any, path: str) -> Iterator[str]:
    """Dotted paths of keys, `[]` for the items of a list, `*` for names that are data; no deeper than DEEPEST."""
    if isinstance(value, list):
        for item in value:
            yield from _keys(item, f"{path}[]")
    elif isinstance(value, dict):
        for key, inside in value.items():
            name = f"{path}.{key if _is_a_word(key) else '*'}".lstrip(".")
            yield name
            if name.count(".") + 1 < DEEPEST and name not in ("spec", "origins"):
                yield from _keys(inside, name)


def _is_a_word(key: str) -> bool:
    """Keys of ours are small words; symbols, runs, metrics, symptoms and headings are data."""
    return re.fullmatch(r"[a-z][a-z_0-9]*", key) is not None


def written() -> str:
    page = PAGE.read_text(encoding="utf-8")
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)]


@pytest.mark.usefixtures("folder")
def test_commands_that_read_print_the_keys_of_the_page() -> None:
    page = written()
    for command in READING:
        assert form(command) in page or page == "\n", f"{command}: refresh docs/json.md, then read the diff"


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_the_page_is_current(request: pytest.FixtureRequest) -> None:
    current = "\n" + "\n".join(form(command) for command in READING + DRAWING + TRAINING) + "\n"
    if request.config.getoption("--refresh-golden"):
        page = PAGE.read_text(encoding="utf-8")
        head, tail = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text(head + current + tail, encoding="utf-8")
    assert current == written(), 'pytest tests/docs/test_json_forms.py --refresh-golden -m "", then read the diff'
