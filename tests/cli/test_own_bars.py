"""A user's own folder of hourly files: seen, trained on, and found again from another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from p3kit.cli import main
from tests.market.made import frame_of, hourly_bars

SPECS = Path(__file__).parents[2] / "specs"
SMALL = """
[ppo]
total_timesteps = 600
n_steps = 75
n_epochs = 1
"""


def p3kit(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "140", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "p3kit", *words]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec that reads data/SPY.parquet: hourly bars without a time zone, the timestamp as the index."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "specs").mkdir()
    shutil.copy(SPECS / "phase3.toml", folder / "specs")
    text = (SPECS / "phase3_hourly.toml").read_text()
    lines = ["symbols = ['SPY']" if line.startswith("symbols") else line for line in text.splitlines()]
    text = "\n".join(lines).replace('"csv"', '"parquet"').replace("{symbol}.csv", "{symbol}.parquet")
    (folder / "specs" / "mine.toml").write_text(text + SMALL)
    (folder / "data").mkdir()
    frame_of(hourly_bars(1)).set_index("timestamp").to_parquet(folder / "data" / "SPY.parquet")
    return folder


def test_data_tells_gaps_and_draws(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    words = ["data", "specs/mine.toml", "--json", "--picture", "bars.png"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["SPY"]
    assert facts["bars"] == 7 * 300 - 2
    assert facts["gaps"] == 2
    assert facts["bars_per_year"] == 7 * 252, "the training split is shorter than a year"
    assert (project / "bars.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_finds_its_bars_from_any_folder(project: Path, tmp_path: Path) -> None:
    result = p3kit(project, "run", "specs/mine.toml", "--json")
    assert result.returncode == 0, result.stderr
    elsewhere = p3kit(tmp_path, "evaluate", "latest", "--runs", str(project / "runs"), "--json")
    assert elsewhere.returncode == 0, elsewhere.stderr
    (project / "data" / "SPY.parquet").rename(project / "data" / "gone.parquet")
    lost = p3kit(tmp_path, "evaluate", "latest", "--runs", str(project / "runs"))
    assert lost.returncode != 0
    assert "SPY.parquet" in lost.stderr
    assert "no such file" in lost.stderr
