"""`p3kit evaluate`: a backtest by the run's own trainer, and the count of looks at the test split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result

from p3kit.market import load_market
from p3kit.metrics import deflated_choice
from p3kit.report.week_data import summarise_week
from p3kit.report.week_page import render_week
from p3kit.rundir import RunDir
from p3kit.runtime import load_checkpoint
from p3kit.runtime.evaluation import Evaluator
from p3kit.spec import load_spec
from tests.command import invoke
from tests.trainers.conftest import load_trainer
from tests.trainers.test_ppo_runs import plan_run, train
from tests.trainers.tiny_runs import go_on


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A short run that standardises observations as it goes, so that its policy is more than its net."""
    planned = plan_run(tmp_path_factory.mktemp("evaluate"), ('observation.normalize="running"',))
    return go_on(load_trainer("ppo"), planned)


@pytest.fixture
def run(trained: RunDir, tmp_path: Path) -> RunDir:
    """A copy that a test may touch."""
    shutil.copytree(trained.path, tmp_path / "runs" / "run-1")
    return RunDir.open(tmp_path / "runs" / "run-1")


def call(run: RunDir, *arguments: str) -> Result:
    return invoke("evaluate", *arguments, "--runs", run.path.parent)


def test_it_repeats_the_evaluation_that_the_journal_has_to_the_digit(run: RunDir) -> None:
    event = [event for event in run.read_events("evaluation") if event["new_best"]][-1]
    before = {path: path.read_bytes() for path in run.path.glob("*.json*")}
    result = call(run, "1", "--checkpoint", f"best-{event['global_step']:09d}", "--json")
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    assert told["global_step"] == event["global_step"]
    journalled = {name: value for name, value in event["metrics"].items() if name.startswith("eval/")}
    assert told["metrics"] == journalled
    for key in ("baselines", "regimes", "sharpe_interval", "excess_interval", "mode", "constant", "returns"):
        assert told[key] == event[key], key
    assert Path(told["picture"]).stat().st_size > 10_000
    assert {path: path.read_bytes() for path in before} == before, "an evaluation on validation leaves no trace"


@pytest.mark.slow
def test_both_modes_are_shown_and_only_that_of_the_run_is_judged(run: RunDir) -> None:
    found = {mode: json.loads(call(run, "1", "--mode", mode, "--json").stdout)[0] for mode in ("continuous", "windows")}
    assert [found[mode]["mode"] for mode in found] == list(found)
    assert found["continuous"]["windows"] == 1 < found["windows"]["windows"]
    assert found["continuous"]["judged"] is not None
    assert found["windows"]["judged"] is None
    windows, continuous = (call(run, "1", *more).output for more in (["--mode", "windows"], []))
    assert "windows that each start flat" in windows
    assert "edge not judged, the run's evaluations were in mode continuous" in " ".join(windows.split())
    assert "one continuous account" in continuous
    refused = call(run, "1", "--mode", "continuous", "--split", "train")
    assert refused.exit_code == 2
    assert "that split is played as in training" in refused.output


@pytest.mark.slow
def test_a_run_of_an_older_p3kit_goes_on_in_windows(tmp_path: Path) -> None:
    run = plan_run(tmp_path)
    info = run.info()
    del info["evaluation_mode"]
    (run.path / "run.json").write_text(json.dumps(info))
    done = train(run)
    assert {event["mode"] for event in done.read_events("evaluation")} == {"windows"}
    (told,) = json.loads(call(done, "1", "--mode", "windows", "--json").stdout)
    assert told["judged"] is not None


@pytest.mark.slow
def test_the_table_says_what_is_shown_and_what_is_synthetic(run: RunDir) -> None:
    result = call(run, "latest/TINY", "--checkpoint", "last", "--split", "train")
    assert result.exit_code == 0, result.output
    for words in ("train split, last.pt", "SYNTHETIC", "buy & hold", "over buy-and-hold:", "sideways", "picture: "):
        assert words in result.output
    assert "attainable score" not in result.output, "the training split is played in windows"
    assert "fraction of the attainable score: " in call(run, "latest/TINY", "--checkpoint", "last").output
    assert not run.read_events("final_evaluation")


@pytest.mark.slow
def test_the_deflated_sharpe_ratio_counts_all_tries_of_the_experiment(run: RunDir) -> None:
    tried = [e["metrics"]["eval/sharpe_ratio"] for e in run.read_events("evaluation")]
    shutil.copytree(run.path, run.path.parent / "run-2")
    other = run.path.parent / "run-3"
    shutil.copytree(run.path, other)
    RunDir(other).update_info(name="another")
    (told,) = json.loads(call(run, "1", "--json").stdout)
    sharpe, shape = told["metrics"]["eval/sharpe_ratio"], told["returns"]
    assert told["deflated_sharpe"] == {
        "value": pytest.approx(deflated_choice(sharpe, shape, tried * 2)),
        "trials": 2 * len(tried),
    }
    assert f"above 0, after {2 * len(tried)} tries\n" in call(run, "1").output
    (trained_on,) = json.loads(call(run, "1", "--split", "train", "--json").stdout)
    assert trained_on["deflated_sharpe"] is None
    assert "above 0, after 1 try\n" in call(run, "1", "--final").output


def test_every_look_at_the_test_split_is_journalled_counted_and_reported(run: RunDir) -> None:
    first = call(run, "run-1", "--final")
    assert first.exit_code == 0, first.output
    assert "use 1 of the test split by this agent, 1 in all for tiny\n" in first.output
    second = call(run, "run-1", "--final")
    assert "use 2 of the test split by this agent, 2 in all for tiny; a choice made after a use" in " ".join(
        second.output.split()
    )
    events = run.read_events("final_evaluation")
    assert [event.get("look") for event in events] == [1, None, 2, None]
    assert events[1]["metrics"] == events[3]["metrics"]
    assert events[1]["split"] == "test"
    (experiment,) = summarise_week(run.path.parent, 1, events[-1]["time"] + 60)
    assert experiment.final_looks == 2
    text = render_week([experiment], {})
    assert "## Test split" in text
    assert "Used 2 times" in text


def test_a_look_that_is_killed_was_a_look(run: RunDir) -> None:
    """The journal has it before the first bar is walked."""
    lines = run.trainer_file.read_text().replace("logits, value = net(observation)", "raise RuntimeError")
    run.trainer_file.write_text(lines)
    result = call(run, "1", "--final")
    assert result.exit_code == 1, result.output
    assert [event["look"] for event in run.read_events("final_evaluation")] == [1]


def test_wrong_names_are_answered(run: RunDir) -> None:
    missing = call(run, "1", "--checkpoint", "best-7")
    assert missing.exit_code == 2
    assert "--checkpoint best-7: no such checkpoint; run-1 has best-" in missing.output
    both = call(run, "1", "--final", "--split", "train")
    assert both.exit_code == 2
    assert "give one of them" in both.output
    torn = run.checkpoint("last")
    torn.write_bytes(torn.read_bytes()[:-9])
    result = call(run, "1", "--checkpoint", "last")
    assert result.exit_code == 1
    assert "torn or altered" in result.output


def test_a_trainer_that_knows_no_backtest_is_told_apart_and_trains_nothing(run: RunDir) -> None:
    code = run.trainer_file.read_text()
    own = "with runtime.open_run(Args, __file__) as run:\n        run.save_checkpoint('init', {})"
    code = code.replace("with AgentRun(Args, load_policy, __file__) as run:\n        train(run)", own)
    run.trainer_file.write_text(code.replace("import math\n", "import math\nfrom p3kit import runtime\n"))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != "trainer.py"}
    result = call(run, "1")
    assert result.exit_code == 1
    assert "has no load_policy" in result.output
    assert {path: path.read_bytes() for path in before} == before


def test_the_test_split_is_refused_to_everyone_else() -> None:
    spec = load_spec(Path(__file__).parents[2] / "specs" / "smoke.toml").spec
    bars = load_market(spec, spec.symbols)[spec.symbols[0]]
    with pytest.raises(ValueError, match="final evaluations"):
        Evaluator(spec, bars, spec.symbols[0], 1, torch.device("cpu"), split="test").walk("test", lambda o, m: m)


CSV = """
name = "csv"
symbols = ["MINE"]
[data]
source = "csv"
path = "{folder}/MINE.csv"
[env]
num_envs = 2
window = 8
episode_bars = 40
[ppo]
total_timesteps = 512
n_steps = 64
batch_size = 64
n_epochs = 2
[evaluation]
every = 128
"""


def test_training_and_validation_never_look_at_the_test_split(tmp_path: Path) -> None:
    """Another test split, the same weights and the same verdict."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 900)))
    runs = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "other":
            close = close.copy()
            close[-130:] *= np.exp(np.cumsum(rng.normal(0.01, 0.08, 130)))
        table = pd.DataFrame({"timestamp": pd.bdate_range("2018-01-01", periods=900), "close": close})
        table.to_csv(folder / "MINE.csv", index=False)
        runs.append(go_on(load_trainer("ppo"), plan_run(folder, text=CSV.format(folder=folder))))
        assert runs[-1].info()["data"]["MINE"]["splits"]["test"][0] < 900 - 130 + 5
    one, other = (load_checkpoint(run.checkpoint("last")) for run in runs)
    for key, value in one.items():
        if key.startswith("trainer/net/"):
            assert torch.equal(value, other[key]), key
    verdicts = [run.read_events("verdict")[0] for run in runs]
    for key in ("grade", "metrics", "baselines", "sharpe_interval"):
        assert verdicts[0][key] == verdicts[1][key]


def test_diagnose_episode_writes_and_draws_what_the_runs_own_policy_did(run: RunDir) -> None:
    before = {path: path.read_bytes() for path in run.path.glob("*.json*")}
    arguments = ["diagnose", "latest", "--episode", "--json", "--runs", str(run.path.parent)]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    best, worst = json.loads(result.stdout)
    assert best["rank"] == 1
    assert worst["rank"] == worst["of"]
    for told in (best, worst):
        episode = json.loads(Path(told["file"]).read_text())
        assert episode["synthetic"] is True
        assert episode["checkpoint"] == "last.pt"
        assert sum(episode["bars"]["reward"]) == pytest.approx(told["reward"])
        assert Path(told["picture"]).stat().st_size > 20_000
        assert Path(told["picture"]).parent == run.replays
    assert {path: path.read_bytes() for path in before} == before, "a replay leaves no trace in the record"
    refused = invoke(*arguments[:2], "--split", "train", "--runs", run.path.parent)
    assert refused.exit_code == 2
    assert "goes with --episode only" in refused.stderr
