"""Tests of the README: every command in it works, every command of the tool is in it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from p3kit.cli import COMMANDS, main
from p3kit.diagnose.detectors import DETECTORS
from p3kit.edge import FALSE_SHOWN
from tests.documented import commands, execute, steps
from tests.market.made import write_hourly_csv

ROOT = Path(__file__).parents[1]
README, HOME, OWN, ENVIRONMENT, INTERVENTIONS = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/index.md", "docs/own.md", "docs/environment.md", "docs/interventions.md")
)
COMMANDS_PAGE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")

INSTALL_AND_RUN = "pip install -c constraints/dev.txt -e '.[all]' && p3kit run specs/phase3.toml"
INSTALL_AND_TEST = "pip install tox && tox"
THREE = 'symbols = ["AAPL", "JPM", "XOM"]'
TEN = 'symbols = ["SPY", "AAPL", "QQQ", "MSFT", "NVDA", "TSLA", "AMD", "JPM", "XOM", "JNJ"]'


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders a user stands in, with the smoke spec shortened: what is tested is the path, not the learning."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "specs", folder / "specs")
    shutil.copytree(ROOT / "trainers", folder / "trainers")
    smoke = folder / "specs" / "smoke.toml"
    smoke.write_text(smoke.read_text() + "\n[ppo]\ntotal_timesteps = 8_000\nn_steps = 250\n")
    search = folder / "specs" / "tune.toml"
    search.write_text(
        search.read_text().replace(THREE, 'symbols = ["AAPL"]')
        + '\n[ppo]\ntotal_timesteps = 4_000\nn_steps = 250\n\n[compute]\ncompile = "off"\n'
    )
    assert THREE not in search.read_text()
    hourly = folder / "specs" / "phase3_hourly.toml"
    text = hourly.read_text()
    assert TEN in text
    hourly.write_text(
        text.replace(TEN, 'symbols = ["SPY", "AAPL"]') + "\n[ppo]\ntotal_timesteps = 2_000\nn_steps = 250\n"
    )
    write_hourly_csv(folder / "data" / "SPY.csv", seed=1)
    write_hourly_csv(folder / "data" / "AAPL.csv", seed=2)
    return folder


def test_the_two_commands_stand_on_the_first_screen() -> None:
    first_screen = README[:2_200]
    assert INSTALL_AND_RUN in first_screen
    assert INSTALL_AND_TEST in first_screen


def test_it_has_at_most_a_thousand_words() -> None:
    assert len(README.split()) <= 1_000


def do(every: list[str], folder: Path) -> None:
    for command in every:
        result = execute(command, folder)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, command


def test_every_command_of_the_readme_works(checkout: Path) -> None:
    """In order, in one folder, as a reader would. The two installing commands are what CI itself runs (`tox`) and what
    a slow test below runs (`p3kit run specs/phase3.toml`)."""
    do([one for one in commands(README) if one not in (INSTALL_AND_RUN, INSTALL_AND_TEST)], checkout)
    assert (checkout / "reports" / "week-01.md").exists()
    assert (checkout / ".aim").is_dir()


@pytest.mark.slow
def test_every_command_of_the_next_pages_works(checkout: Path) -> None:
    """Hourly bars, and the home page of the documentation, after one run of the README."""
    hourly_steps = [step.text for step in steps(OWN) if step.marker == "hourly"]
    assert len(hourly_steps) == 3
    do(["p3kit run specs/smoke.toml --no-aim", *hourly_steps, *commands(HOME)], checkout)
    assert (checkout / "runs" / "tune-1" / "winner.toml").exists()
    assert (checkout / "bars.png").read_bytes().startswith(b"\x89PNG")
    plans = [json.loads(path.read_text()) for path in (checkout / "runs").glob("*/run.json")]
    hourly = [agent["name"] for plan in plans if plan["name"] == "phase3-hourly" for agent in plan["agents"]]
    assert sorted(hourly) == ["AAPL", "SPY"]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README + ENVIRONMENT, re.S))
def test_every_python_block_of_readme_and_environment_runs(block: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", block], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_main_job_ends_with_a_verdict_per_agent(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    result = subprocess.run(
        [sys.executable, "-m", "p3kit", "run", "specs/phase3.toml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for symbol in ("AAPL", "AMD", "BAC", "HD", "JNJ", "JPM", "MSFT", "PG", "WMT", "XOM"):
        assert re.search(rf"run-\d+/{symbol}\b.*(FAIL|PASS|STRONG|STRETCH)", result.stdout), symbol


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_a_place_in_the_docs(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"], prog_name="p3kit")
    assert result.exit_code == 0
    assert f"p3kit {name}" in result.stdout.split("\n", 2)[2], "no example in its help"
    assert f"## p3kit {name}\n" in COMMANDS_PAGE


def test_the_share_of_repaired_runs_is_the_one_that_was_measured() -> None:
    results = ROOT / "tests" / "measure" / "suite" / "results"
    totals = json.loads((results / "repair.json").read_text(encoding="utf-8"))["totals"]
    repaired, touched = totals["repaired"], totals["controls_acted_on"]
    share, low, high = (round(100 * part) for part in (repaired["share"], *repaired["interval"]))
    words = " ".join(INTERVENTIONS.split())
    assert f"restored {repaired['hits']} of {repaired['of']} degraded runs ({share} % [{low}, {high}])" in words
    assert touched["hits"] == 0
    assert f"changed none of {touched['of']} healthy controls" in words


def test_the_numbers_of_the_readme_are_those_of_their_pages() -> None:
    pages = {
        name: (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
        for name in ("errors", "environment", "benchmarks", "diagnosis")
    }
    kills = json.loads((ROOT / "docs/benchmarks/kills.json").read_text(encoding="utf-8"))
    words = " ".join(README.split())
    assert f"{kills['same']} of {kills['kills']} killed runs" in words
    wrong = len(re.findall(r"^### ", pages["errors"], re.MULTILINE))
    assert f"{wrong} wrong inputs are documented" in README
    assert f"{len(DETECTORS)} checks read the recorded metrics" in words
    drawn = [line.split("|") for line in pages["diagnosis"].splitlines() if line.startswith("|")]
    newest = {cells[1].strip(): re.match(r" (\d+)/(\d+) ", cells[-2]) for cells in drawn}
    recall = newest["recall: a root row of the fault's family, warning or critical"]
    warned = newest["healthy runs with a warning"]
    assert recall
    assert warned
    assert f"Of {recall[2]} faults that nobody had seen they found {recall[1]}," in words
    assert f"and {warned[1]} of {warned[2]} healthy runs got a warning" in words
    row = next(line for line in pages["benchmarks"].splitlines() if "SB3 PPO, 2 processes of 1 thread |" in line)
    ratio = re.findall(r"\*\*([\d.,]+)\*\*", row)[1]  # the first one is steps per second
    assert f"train {ratio} × as fast" in words
    assert "10,400 random windows" in pages["environment"]
    assert "in at most 3 of 100 cases" in words
    assert math.ceil(100 * FALSE_SHOWN) == 3


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    for target in (link for link in links if not link.startswith("https://")):
        assert (ROOT / target).exists(), target


HEAVY = {"torch", "aim", "matplotlib", "envpool", "ray", "optuna", "gymnasium"}


@pytest.mark.parametrize(
    "command", ["--help", "validate specs/phase3.toml", "run --help", "tune --help", "plan specs/tune.toml"]
)
def test_the_command_line_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom p3kit.cli import main\n"
        f"try: main({command.split()!r})\nexcept SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    loaded = set(result.stdout.split("LOADED")[1].split())
    assert not loaded & HEAVY
    if "help" in command:
        assert not loaded & {"pandas", "numpy", "pydantic"} or command != "--help"
