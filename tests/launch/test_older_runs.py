"""Run directories of format 1: reading commands read them, and a resume that cannot work is refused with a message.

`tests/golden/older_runs/format-1.tar.xz` is run-1 of `p3kit run` at commit a889794 (23 November 2026), without its
pictures, histograms and other checkpoints. Its trainer imports names of `p3kit.runtime` that are gone.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import Result

import p3kit
from p3kit.market import synthetic_market
from p3kit.rundir import RunDir
from p3kit.runtime.checkpoints import load_checkpoint
from p3kit.spec import resolve_spec
from tests.command import invoke

TINY = """
name = "tiny"
symbols = ["AAA"]
data = { source = "synthetic", synthetic = { bars = 2_000 } }
env = { num_envs = 4, episode_bars = 60 }
ppo = { total_timesteps = 600, n_steps = 75, n_epochs = 2, hidden = [8] }
evaluation = { every = 300 }
checkpoints = { every = 300 }
compute = { device = "cpu" }
"""
ARCHIVE = Path(__file__).parents[1] / "golden" / "older_runs" / "format-1.tar.xz"
MADE_BY = r"was made by p3kit 0\.1\.0 on 2026-11-29 \(format 1\)"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs with run-1 of format 1; the current folder is the one above."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def call(line: str, code: int = 0) -> Result:
    result = invoke(*line.split())
    assert result.exit_code == code, result.output
    return result


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize(
    "line", ["runs", "show run-1", "diagnose run-1", "export run-1", "runs --json", "export run-1 --format yaml"]
)
def test_reading_commands_read_it(line: str) -> None:
    assert call(line).stdout


def bars_of(older: Path) -> pd.DataFrame:
    info = RunDir(older / "run-1").info()
    bars = synthetic_market(resolve_spec(info["spec"], "test", older / "run-1" / "trainer.py"), "AAA").bars
    columns = {name: getattr(bars, name) for name in ("close", *bars.columns)}
    return pd.DataFrame(columns, index=pd.DatetimeIndex(bars.timestamps, name="timestamp"))


def test_its_policy_decides_by_the_shipped_trainer(older: Path) -> None:
    with pytest.warns(p3kit.P3kitWarning, match=f"{MADE_BY}; ppo.py of this p3kit takes its weights"):
        policy = p3kit.load_policy("run-1", "best-000000600")
    assert policy.predict(bars_of(older)).action in policy.action_names
    bars_of(older).to_csv("AAA.csv")
    result = call("predict run-1 --bars AAA.csv --checkpoint best-000000600 --json")
    assert "note: run-1/AAA was made by" in result.stderr
    assert json.loads(result.stdout)[0]["action"] == policy.predict(bars_of(older)).action


@pytest.mark.slow
@pytest.mark.usefixtures("older")
def test_it_is_evaluated_by_the_shipped_trainer() -> None:
    result = call("evaluate run-1 --checkpoint best-000000600")
    assert "the shipped trainer ppo takes its weights" in result.stderr
    assert "Sharpe" in result.stdout


@pytest.mark.parametrize("line", ["resume run-1", "resume run-1 --total-timesteps 900"])
def test_a_resume_that_cannot_work_names_the_version_that_can(older: Path, line: str) -> None:
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    message = call(line, 2).stderr
    assert "run-1: was made by p3kit 0.1.0" in message
    assert "its trainer imports p3kit.runtime.Rollout" in message
    assert "resume it with that p3kit, or start again: p3kit run runs/run-1/spec.toml" in message
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("older")
def test_weights_that_fit_no_shipped_trainer_are_refused() -> None:
    run = RunDir(Path("runs/run-1"))
    (plan,) = run.info()["agents"]
    plan["spec"]["ppo"]["hidden"] = [5]
    run.update_info(agents=[plan])
    with pytest.raises(p3kit.P3kitError, match=f"{MADE_BY}; neither its trainer works .* load it with the p3kit that"):
        p3kit.load_policy("run-1", "best-000000600")


def to_format_1(run: RunDir) -> None:
    """The run as the last version of format 1 wrote it: no recipe in run.json, no cards in checkpoints."""
    data = run.info()["data"]
    newer = ("recipe", "distribution", "split_days", "adjust")
    kept = {symbol: {key: facts[key] for key in facts if key not in newer} for symbol, facts in data.items()}
    run.update_info(data=kept, schema_version=1)
    for path in run.checkpoints():
        state = {key: value for key, value in load_checkpoint(path).items() if not key.endswith("/card")}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = zlib.compress(buffer.getvalue(), 1)
        path.write_bytes(f"p3kit-checkpoint-1 zlib {hashlib.sha256(payload).hexdigest()}\n".encode() + payload)


@pytest.mark.slow
def test_a_run_whose_trainer_still_works_is_read_and_continued_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    (run,) = p3kit.run_spec("tiny.toml", 1, progress=False)
    expected = p3kit.load_policy(run, "last")
    to_format_1(run.directory)
    again = p3kit.load_policy(run, "last")
    assert again.recipe == expected.recipe
    observation = torch.zeros(expected.observation_size).numpy()
    mask = torch.ones(7, dtype=torch.bool).numpy()
    assert (again.logits(observation, mask) == expected.logits(observation, mask)).all()
    result = call("resume run-1 --total-timesteps 900 --no-aim")
    assert "note: run-1 was made by p3kit" in result.stderr
    assert "extended from 600 to 900 steps" in result.stdout
    assert p3kit.load_policy(run, "last").global_step == 900
