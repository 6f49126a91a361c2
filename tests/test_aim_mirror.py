"""The mirror against a real Aim: what is sent is found again through the SDK and through `aim up` on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import PIL.Image
import pytest

from p3kit.aim_mirror import AimServer, Mirror, best_run, dashboard, deep_links, run_hash, store, write_bookmarks
from p3kit.aim_mirror.bookmarks import SCALARS, TUNED, Bookmark, differing_knobs
from p3kit.aim_mirror.links import encode_state
from p3kit.aim_mirror.sender import even_bins, event_text, picture_name
from p3kit.aim_mirror.sender import result as result_of
from p3kit.api.keeping import note_runs
from p3kit.errors import InputError, MissingExtra, P3kitError, RunNotFound
from p3kit.metrics import METRICS
from p3kit.rundir import RunDir
from tests.command import invoke

pytestmark = pytest.mark.aim

CREATED = 1_700_000_000.0


@pytest.fixture(scope="session")
def empty_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Aim repository without runs: creating one takes a second, copying one does not."""
    root = tmp_path_factory.mktemp("empty")
    Mirror(root / "runs", root).rebuild()
    return root / ".aim"


@pytest.fixture
def project(tmp_path: Path, empty_repo: Path) -> Path:
    """A folder with an Aim repository, for `runs` beside it."""
    shutil.copytree(empty_repo, tmp_path / ".aim")
    return tmp_path


def make_run(root: Path, *symbols: str, experiment: str = "phase3", synthetic: bool = False) -> RunDir:
    root.mkdir(parents=True, exist_ok=True)
    trainer = root / "trainer_source.py"
    trainer.write_text("# a trainer\n")
    spec = {"name": experiment, "ppo": {"ent_coef": 0.01, "hidden": [64, 64], "target_kl": "off"}, "start_date": None}
    agents = [
        {
            "name": symbol,
            "symbol": symbol,
            "seed": 1,
            "point": {"ppo.gae_lambda": 0.9},
            "total_timesteps": 40_960,
            "spec": {**spec, "ppo": {**spec["ppo"], "ent_coef": 0.05}},
        }
        for symbol in symbols
    ]
    info = {
        "name": experiment,
        "trainer": "ppo",
        "spec": spec,
        "agents": agents,
        "env_id": None,
        "versions": {"torch": "2.13.0"},
        "git_commit": "abc1234",
        "data": {symbol: {"fingerprint": f"sha-{symbol}", "synthetic": synthetic} for symbol in symbols},
        "command": ["p3kit", "run", "specs/phase3.toml"],
        "created": CREATED,
        "notes": [],
    }
    return RunDir.create(root, info, 'name = "phase3"\n', trainer)


def train(run: RunDir, iterations: range) -> None:
    """Write the records of a trainer for these iterations of 4,096 steps each."""
    for agent in run.agent_names():
        for i in iterations:
            row = {"agent": agent, "iteration": i, "global_step": 4096 * (i + 1), "time": CREATED + 60 * i}
            metrics = {"policy/entropy": 1 - 0.1 * i, "eval/sharpe_ratio": 0.2 * i}
            run.append_metrics([{**row, "metrics": metrics}])
        step = 4096 * iterations.stop
        run.write_histogram("reward", agent, step, {"edges": [-1, 0, 1], "counts": [3, 5]})
        run.write_histogram("actions", agent, step, {"labels": ["HOLD", "BUY"], "counts": [9, 1]})
        run.append_event(
            "evaluation", agent, step, split="validation", new_best=True, metrics={}, baselines={}, regimes={}
        )
    run.write_status({"state": "running", "pid": os.getpid(), "heartbeat": CREATED + 600, "agents": {}})


def draw(run: RunDir, name: str, colour: str = "white") -> None:
    from PIL import Image

    Image.new("RGB", (8, 6), colour).save(run.plots / name)


def finish(run: RunDir, **grades: str) -> None:
    agents = {agent: {"verdict": {"grade": grade, "total_return": 0.1}} for agent, grade in grades.items()}
    run.write_status({"state": "done", "pid": os.getpid(), "heartbeat": CREATED + 900, "agents": agents})


def key(run: RunDir) -> str:
    return run_hash(run.info())


def aim_run(mirror: Mirror, run: RunDir) -> Any:
    """The run as Aim's SDK finds it."""
    from aim import Repo

    found = Repo(str(mirror.repo)).get_run(key(run))
    assert found is not None
    return found


def points(mirror: Mirror, run: RunDir) -> dict[tuple[str, ...], list[tuple[int, float]]]:
    """(name, context values…) → (step, value) of every metric."""
    return {
        (metric.name, *sorted(metric.context.to_dict().values())): list(
            metric.dataframe()[["step", "value"]].itertuples(index=False, name=None)
        )
        for metric in aim_run(mirror, run).metrics()
    }


# ---------------------------------------------------------------------- what is sent


def test_a_run_is_found_with_its_name_times_tags_params_and_points(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "AAPL", synthetic=True)
    train(run, range(3))
    finish(run, AAPL="PASS")
    mirror = Mirror(tmp_path / "runs")
    result = mirror.sync()
    assert (result.runs, result.changed, result.points, result.distributions, result.texts) == (1, 1, 6, 2, 1)

    found = aim_run(mirror, run)
    assert (found.name, found.experiment) == ("run-1", "phase3")
    assert (found.creation_time, found.end_time) == (CREATED, CREATED + 900)
    assert set(found.tags) == {"ppo", "done", "PASS", "synthetic"}
    assert found["spec", "ppo", "ent_coef"] == 0.05, "a run with one agent shows that agent's spec"
    assert found["spec", "ppo", "hidden"] == [64, 64]
    assert found["versions", "torch"] == "2.13.0"
    assert found["data", "AAPL", "fingerprint"] == "sha-AAPL"
    assert found["verdict", "grade"] == "PASS"
    assert found["symbol"] == "AAPL"
    assert points(mirror, run) == {
        ("policy/entropy", "train"): [(4096, 1.0), (8192, 0.9), (12288, 0.8)],
        ("eval/sharpe_ratio", "validation"): [(4096, 0.0), (8192, 0.2), (12288, 0.4)],
    }
    frame = next(iter(found.metrics())).dataframe()
    times = [stamp.timestamp() for stamp in frame["time"].dt.tz_localize("UTC")]
    assert times == [CREATED, CREATED + 60, CREATED + 120], "points have the time of their row"
    assert list(frame["epoch"]) == [0, 1, 2], "Aim's epoch is our iteration"


def test_agents_are_told_apart_only_where_a_run_trains_several(project: Path) -> None:
    run = make_run(project / "runs", "AAPL", "BRK/B")
    train(run, range(1))
    draw(run, "reward-AAPL.png")
    mirror = Mirror(project / "runs")
    mirror.sync()
    found = aim_run(mirror, run)
    assert {names[1:] for names in points(mirror, run)} == {
        (agent, subset) for agent in ("AAPL", "BRK/B") for subset in ("train", "validation")
    }
    assert found["agents", "BRK/B", "symbol"] == "BRK/B"
    assert found["spec", "ppo", "ent_coef"] == 0.01
    assert last(found.get_image_sequence, "reward", agent="AAPL")[0] == 4096


def test_numbers_that_are_not_finite_stay_points(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    for i, value in enumerate([1.0, math.nan, math.inf, -math.inf, 2.0]):
        row = {"agent": "AAPL", "iteration": i, "global_step": i, "time": CREATED}
        run.append_metrics([{**row, "metrics": {"value/value_loss": value}}])
    mirror = Mirror(project / "runs")
    mirror.sync()
    values = [value for _, value in points(mirror, run)["value/value_loss", "train"]]
    np.testing.assert_array_equal(values, [1.0, math.nan, math.inf, -math.inf, 2.0])


def test_distributions_images_and_texts(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(2))
    draw(run, "reward-AAPL.png")
    draw(run, "overview.png")
    mirror = Mirror(project / "runs")
    assert mirror.sync().images == 2
    found = aim_run(mirror, run)
    step, rewards = last(found.get_distribution_sequence, "rewards", subset="train")
    assert (step, list(rewards.weights), rewards.range) == (8192, [3, 5], [-1, 1])
    step, actions = last(found.get_distribution_sequence, "actions", subset="train")
    assert (step, list(actions.weights), actions.range) == (8192, [9, 1], [0, 2])
    step, picture = last(found.get_image_sequence, "reward")
    assert (step, picture.size) == (8192, (8, 6)), "the step of the newest histogram it is drawn from"
    step, _ = last(found.get_image_sequence, "overview")
    assert step == 0
    step, text = last(found.get_text_sequence, "events", kind="evaluation")
    assert (step, text.data.splitlines()[0]) == (0, "evaluation · AAPL · step 8,192")


def last(getter: Any, name: str, **context: str) -> tuple[int, Any]:
    """(step, value) of the last object in a sequence that a run holds."""
    from aim.storage.context import Context

    found: tuple[int, Any] = getter(name, Context(context)).values.last()
    return found


# ---------------------------------------------------------------------- again, and again


def test_what_was_sent_is_not_sent_again(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(2))
    mirror = Mirror(project / "runs")
    mirror.sync()
    before = points(mirror, run)
    assert mirror.sync().changed == 0
    train(run, range(2, 4))
    assert mirror.sync().points == 4
    assert Mirror(project / "runs").sync().changed == 0, "a new process continues where the last one ended"
    after = points(mirror, run)
    assert {name: rows[:2] for name, rows in after.items()} == before
    assert {len(rows) for rows in after.values()} == {4}


def test_a_lost_cursor_means_a_replay_that_changes_nothing(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(3))
    mirror = Mirror(project / "runs")
    mirror.sync()
    before = points(mirror, run)
    for cursor, content in zip((project / ".aim" / "p3kit").glob("*.json"), ["{torn"], strict=True):
        cursor.write_text(content)
    assert mirror.sync().points == 6
    assert points(mirror, run) == before


def test_rows_that_a_resume_cut_off_leave_the_mirror(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(4))
    mirror = Mirror(project / "runs")
    mirror.sync()
    run.cut_after({"AAPL": 8192})
    run.append_event("resume", "AAPL", 8192)
    mirror.sync()
    assert [step for step, _ in points(mirror, run)["policy/entropy", "train"]] == [4096, 8192]


def test_a_picture_drawn_again_is_sent_again(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    draw(run, "overview.png", "white")
    mirror = Mirror(project / "runs")
    mirror.sync()
    draw(run, "overview.png", "black")
    assert mirror.sync().images == 1
    _, picture = last(aim_run(mirror, run).get_image_sequence, "overview")
    assert picture.to_pil_image().getpixel((0, 0)) == (0, 0, 0)


def test_tags_follow_the_state_and_the_users_own_stay(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(1))
    mirror = Mirror(project / "runs")
    mirror.sync()
    assert aim_run(mirror, run).active
    aim_run(mirror, run).add_tag("look here")
    finish(run, AAPL="FAIL")
    mirror.sync()
    assert set(aim_run(mirror, run).tags) == {"ppo", "done", "FAIL", "look here"}
    assert not aim_run(mirror, run).active


def test_tags_of_a_note_are_mirrored_and_removed_again(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(2))
    finish(run, AAPL="PASS")
    mirror = Mirror(project / "runs")
    note_runs(run.name, add_tags=["keep", "baseline"], runs_root=project / "runs")
    mirror.sync()
    aim_run(mirror, run).add_tag("from Aim")
    assert set(aim_run(mirror, run).tags) == {"ppo", "done", "PASS", "keep", "baseline", "from Aim"}
    note_runs(run.name, remove_tags=["keep"], runs_root=project / "runs")
    mirror.sync()
    assert set(aim_run(mirror, run).tags) == {"ppo", "done", "PASS", "baseline", "from Aim"}
    run.append_event("resume", None, 0)
    note_runs(run.name, remove_tags=["baseline"], runs_root=project / "runs")
    mirror.sync()
    assert set(aim_run(mirror, run).tags) == {"ppo", "done", "PASS", "from Aim"}


def test_rebuild_gives_the_same_runs_and_forgets_those_that_are_gone(project: Path) -> None:
    kept, gone = make_run(project / "runs", "AAPL"), make_run(project / "runs", "XOM")
    for run in (kept, gone):
        train(run, range(2))
    mirror = Mirror(project / "runs")
    mirror.sync()
    before = points(mirror, kept)
    shutil.rmtree(gone.path)
    assert mirror.rebuild().points == 4
    assert points(mirror, kept) == before
    assert {run.hash for run in _all_runs(mirror)} == {key(kept)}


def test_a_removed_run_leaves_the_mirror(project: Path) -> None:
    gone, kept = make_run(project / "runs", "AAPL"), make_run(project / "runs", "XOM")
    for run in (gone, kept):
        train(run, range(2))
        run.update_status(state="done")
    mirror = Mirror(project / "runs")
    mirror.sync()
    result = invoke("rm", gone.name, "--yes", "--runs", project / "runs")
    assert (result.exit_code, "Aim still" in result.stderr) == (0, False), result.stderr
    assert {run.hash for run in _all_runs(mirror)} == {key(kept)}


def test_a_run_that_aim_cannot_forget_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(2))
    run.update_status(state="done")
    Mirror(project / "runs").sync()
    monkeypatch.setattr(store, "AIM_VERSION", "0.0")
    result = invoke("rm", run.name, "--yes", "--runs", project / "runs")
    assert (result.exit_code, run.path.exists()) == (0, False)
    assert "Aim still shows run-1" in result.stderr
    assert "p3kit sync --rebuild" in result.stderr


def inotify_instances() -> int:
    """Number of inotify instances that this process holds, of the 128 that a user has."""
    links = (link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return sum("inotify" in name for name in links)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_long_mirror_holds_no_inotify_instances(project: Path) -> None:
    run, mirror, before = make_run(project / "runs", "AAPL"), Mirror(project / "runs"), inotify_instances()
    for iteration in range(3):
        train(run, range(iteration, iteration + 1))
        assert not mirror.sync().problems
    assert inotify_instances() == before


def _all_runs(mirror: Mirror) -> list[Any]:
    from aim import Repo

    return list(Repo(str(mirror.repo)).iter_runs())


def test_two_mirrors_of_one_repository_take_turns(project: Path) -> None:
    """Two `p3kit run` at once: each mirrors the runs of both."""
    runs = [make_run(project / "runs", symbol) for symbol in ("AAPL", "XOM")]
    for run in runs:
        train(run, range(3))
    code = f"from p3kit.aim_mirror import Mirror; print(Mirror({str(project / 'runs')!r}).sync())"
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    assert [other.wait(60) for other in others] == [0, 0]
    for other in others:
        other.communicate()
    mirror = Mirror(project / "runs")
    assert all(len(rows) == 3 for run in runs for rows in points(mirror, run).values())


# ---------------------------------------------------------------------- when things are broken


def test_a_damaged_run_is_named_and_the_others_are_mirrored(project: Path) -> None:
    damaged, sound = make_run(project / "runs", "AAPL"), make_run(project / "runs", "XOM")
    train(sound, range(1))
    (damaged.path / "metrics.jsonl").write_text("not a row\n")
    mirror = Mirror(project / "runs")
    result = mirror.sync()
    assert result.points == 2
    assert len(result.problems) == 1
    assert result.problems[0].startswith("run-1: ")


@pytest.mark.parametrize("victim", ["VERSION", "run_metadata.sqlite", "meta/index/CURRENT"])
def test_a_broken_repository_says_what_to_do_and_rebuild_mends_it(project: Path, victim: str) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(2))
    Mirror(project / "runs").sync()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    (project / ".aim" / victim).write_bytes(b"garbage, not what was here" * 100)
    train(run, range(2, 3))
    del before[run.path / "metrics.jsonl"]

    mirror = Mirror(project / "runs")
    with pytest.raises(P3kitError, match=r"cannot be used .* p3kit sync --rebuild"):
        _raise_problems(mirror)
    assert mirror.rebuild().points == 6
    assert len(points(mirror, run)["policy/entropy", "train"]) == 3
    assert all(path.read_bytes() == content for path, content in before.items() if path.name == "run.json")


def test_a_repository_that_was_deleted_is_made_anew(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    train(run, range(2))
    mirror = Mirror(project / "runs")
    mirror.sync()
    shutil.rmtree(project / ".aim")
    train(run, range(2, 3))
    for again in (mirror, Mirror(project / "runs")):  # one that had it open, and one that comes later
        assert again.sync().problems == ()
    assert len(points(Mirror(project / "runs"), run)["policy/entropy", "train"]) == 3


def test_a_repository_that_another_program_holds_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(project / "runs", "AAPL")
    monkeypatch.setattr("p3kit.aim_mirror.mirror.LOCK_WAIT_S", 0.2)
    held = os.open(project, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(
        P3kitError, match=r"another p3kit has been writing to this Aim repository; try again when it is"
    ):
        Mirror(project / "runs").sync()
    os.close(held)
    assert Mirror(project / "runs").sync().changed == 1


def _raise_problems(mirror: Mirror) -> None:
    for problem in mirror.sync().problems:
        raise P3kitError("sync", problem)


def test_a_missing_aim_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"p3kit\[aim\]"):
        Mirror(tmp_path)
    assert invoke("sync", "--runs", tmp_path).exit_code != 0


def test_another_version_of_aim_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.metadata, "version", lambda name: "3.30.0")
    with pytest.raises(P3kitError, match=r"needs aim 3\.29\.1, found 3\.30\.0"):
        Mirror(tmp_path)


def test_importing_the_mirror_imports_no_aim() -> None:
    code = "import sys, p3kit.aim_mirror, p3kit.cli.aim; sys.exit('aim' in sys.modules or 'sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_logging_of_the_process_is_left_alone(tmp_path: Path) -> None:
    """Creating an Aim repository runs alembic, which disables every logger that exists."""
    import logging

    logger = logging.getLogger("p3kit.test")
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    make_run(tmp_path / "runs", "AAPL")
    Mirror(tmp_path / "runs").sync()
    assert not logger.disabled
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)


# ---------------------------------------------------------------------- pure parts


def test_bins_are_made_even_without_losing_counts() -> None:
    edges, counts = even_bins([0.0, 1.0, 10.0], [4, 9])
    assert edges.tolist() == [0, 5, 10]
    assert counts.tolist() == [4 + 4, 5]
    assert even_bins([0, 1, 2], [3, 4])[1].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("equity-AAPL", ("equity", "AAPL")),
        ("equity-X-AAPL", ("equity", "X-AAPL")),
        ("overview", ("overview", None)),
    ],
)
def test_picture_names(stem: str, expected: tuple[str, str | None]) -> None:
    assert picture_name(stem, ["AAPL", "X-AAPL"]) == expected


def test_the_text_of_an_event() -> None:
    event = {"seq": 4, "time": 1.0, "kind": "early_stop", "agent": None, "global_step": 12_345, "reason": "plateau"}
    assert event_text({**event, "evaluations": [0.1, 0.2]}) == (
        "early_stop · step 12,345\nreason: plateau\nevaluations: [0.1, 0.2]"
    )


FIRED = {
    "id": "ent-boost",
    "row": "policy.hold",
    "decision": "fired",
    "reason": "HOLD share 0.97",
    "keys": {"ppo.ent_coef": [0.01, 0.05]},
    "checkpoint": None,
    "did": [],
    "threshold": 0.95,
}


def test_the_text_of_an_intervention_begins_with_what_it_did() -> None:
    event = {"seq": 4, "time": 1.0, "kind": "intervention", "agent": "AAPL", "global_step": 31_000, **FIRED}
    assert event_text(event).splitlines() == [
        "intervention ent-boost fired · AAPL · step 31,000",
        "ppo.ent_coef 0.01 → 0.05",
        "HOLD share 0.97",
        "row: policy.hold",
        "threshold: 0.95",
    ]
    everybody = event | {"agent": None, "agents": ["A", "B", "C", "D"], "checkpoint": "init"}
    assert event_text(everybody).splitlines()[:2] == [
        "intervention ent-boost fired · 4 agents · step 31,000",
        "ppo.ent_coef 0.01 → 0.05, back to init",
    ]


def test_interventions_are_mirrored_as_texts_params_points_and_a_tag(project: Path) -> None:
    run = make_run(project / "runs", "AAPL", "XOM")
    train(run, range(2))
    mirror = Mirror(project / "runs")
    mirror.sync()
    run.append_event("intervention", "AAPL", 8_192, **FIRED)
    run.append_event("intervention", "AAPL", 8_192, **(FIRED | {"decision": "suppressed"}))
    run.append_event("intervention", None, 12_288, **FIRED, agents=["AAPL", "XOM"])
    run.append_event("intervention", "XOM", 16_384, **(FIRED | {"decision": "released", "reason": "it is over"}))
    states = {agent: {"interventions": 1} for agent in ("AAPL", "XOM")}
    run.write_status({"state": "running", "pid": os.getpid(), "heartbeat": CREATED + 600, "agents": states})
    mirror.sync()
    found = points(mirror, run)
    assert found["interventions", "AAPL", "train"] == [(8_192, 1.0), (12_288, 2.0)]
    assert found["interventions", "XOM", "train"] == [(12_288, 1.0)]
    told = aim_run(mirror, run)
    assert "intervened" in told.props.tags
    assert [(one["step"], one["agent"], one["decision"], one["changed"]) for one in told["interventions"]] == [
        (8_192, "AAPL", "fired", "ppo.ent_coef 0.01 → 0.05"),
        (12_288, "AAPL, XOM", "fired", "ppo.ent_coef 0.01 → 0.05"),
        (16_384, "XOM", "released", "ppo.ent_coef 0.01 → 0.05"),
    ]


def test_addresses_hold_state_as_the_page_encodes_it() -> None:
    # aim64encode({query: 'run.experiment in ["a ü"]'}) of aim-ui 3.29.1, evaluated in a browser
    assert encode_state({"query": 'run.experiment in ["a ü"]'}) == (
        "O-JTdCJTIycXVlcnklMjI6JTIycnVuLmV4cGVyaW1lbnQlMjBpbiUyMCU1QiU1QyUyMmElMjAlQzMlQkMlNUMlMjIlNUQlMjIlN0Q"
    )


# ---------------------------------------------------------------------- aim up


class Served(NamedTuple):
    """`p3kit ui`, running on a run that is not finished."""

    url: str
    token: str
    links: dict[str, str]
    """Without the token."""
    mirror: Mirror
    run: RunDir


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    run = make_run(root / "runs", "AAPL")
    train(run, range(3))
    draw(run, "reward-AAPL.png")
    command = [sys.executable, "-m", "p3kit", "ui", "--port", "0", "--json", "--runs", str(root / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, links = printed_links(process.stdout)
        url, token = split_token(first)
        printed = {title: split_token(link) for title, link in links.items()}
        assert {given for _, given in printed.values()} == {token}
        yield Served(url, token, {title: link for title, (link, _) in printed.items()}, Mirror(root / "runs"), run)
        process.terminate()
        assert process.wait(30) == 0
    assert not is_listening(url), "aim up outlived p3kit ui"


def printed_links(lines: IO[str]) -> tuple[str, dict[str, str]]:
    """Address of the dashboard, and title → address of each page in Aim, as `p3kit ui --json` prints them."""
    text = ""
    for line in lines:
        text += line
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(text)
            return found["url"], {link["title"]: link["url"] for link in found["links"]}
    raise AssertionError(f"p3kit ui ended after {text}")


def split_token(link: str) -> tuple[str, str]:
    """The address without its token, and the token."""
    address, _, token = link.rpartition("token=")
    return address.rstrip("?&").removesuffix("/"), token


def is_listening(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


def ask(served: Served, path: str, body: Any = None, method: str | None = None) -> Any:
    """The answer of Aim's HTTP API."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {served.token}"}
    request = urllib.request.Request(f"{served.url}/api/{path}", headers=headers, method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        return json.load(response)


def test_the_server_finds_the_run_and_its_metrics(served: Served) -> None:
    info = ask(served, f"runs/{key(served.run)}/info/")
    assert (info["props"]["name"], info["props"]["experiment"]["name"]) == ("run-1", "phase3")
    assert info["params"]["spec"]["ppo"]["ent_coef"] == 0.05
    assert {trace["name"] for trace in info["traces"]["metric"]} == {"policy/entropy", "eval/sharpe_ratio"}
    assert {kind: len(info["traces"][kind]) for kind in ("distributions", "images", "texts")} == {
        "distributions": 2,
        "images": 1,
        "texts": 1,
    }
    assert ask(served, "projects/params/?sequence=metric")["metric"].keys() == {"policy/entropy", "eval/sharpe_ratio"}


def test_the_server_shows_new_rows_while_it_runs(served: Served) -> None:
    wanted = [{"name": "policy/entropy", "context": {"subset": "train"}}]
    path = f"runs/{key(served.run)}/metric/get-batch/"
    assert ask(served, path, wanted)[0]["iters"] == [4096, 8192, 12288]
    train(served.run, range(3, 5))
    served.mirror.sync()
    assert ask(served, path, wanted)[0]["iters"][-1] == 5 * 4096


def test_the_server_finds_runs_that_begin_later(served: Served) -> None:
    later = make_run(served.mirror.runs_root, "XOM")
    train(later, range(1))
    served.mirror.sync()
    assert ask(served, f"runs/{key(later)}/info/")["props"]["active"]


def test_a_busy_port_and_an_open_host_are_refused(served: Served) -> None:
    repo = served.mirror.repo
    with pytest.raises(InputError, match="--port 0 for a free one"):
        AimServer(repo, port=int(served.url.rpartition(":")[2]))
    for host in ("0.0.0.0", "192.168.1.7", "example.org", "::"):
        with pytest.raises(InputError, match="not a loopback address"):
            AimServer(repo, host=host)
    assert AimServer(repo, host="localhost", port=0).host == "127.0.0.1"


def test_the_dashboard_opens_on_the_results(served: Served) -> None:
    with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(
        f"{served.url}/?token={served.token}", timeout=10
    ) as response:
        page = response.read().decode()
        assert response.url == f"{served.url}/results"
    assert f'href="/runs/{key(served.run)}"' in page
    for link in served.links.values():
        assert f'href="{link.removeprefix(served.url)}"' in page
    assert status(served, "/results") == 403


def test_without_runs_no_server_is_started(tmp_path: Path) -> None:
    for folder in ("missing", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        result = invoke("ui", "--runs", tmp_path / folder)
        assert result.exit_code == RunNotFound.exit_code
        assert "p3kit run" in result.stderr
        assert not (tmp_path / ".aim").exists()


def test_ui_prints_links_that_the_server_serves(served: Served) -> None:
    comparisons = deep_links(served.url, ["phase3"])
    assert list(served.links.items())[-len(comparisons) :] == comparisons
    assert served.links["distributions of run-1"] == f"{served.url}/runs/{key(served.run)}/distributions"
    for link in served.links.values():
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{link}{'&' if '?' in link else '?'}token={served.token}", timeout=10) as response:
            assert b"<html" in response.read()
            assert response.url == link


def status(served: Served, path: str, method: str = "GET", **headers: str) -> int:
    """The status of one request with exactly these headers besides Host."""
    connection = http.client.HTTPConnection("127.0.0.1", int(served.url.rpartition(":")[2]), timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_forged_requests_do_not_reach_aim(served: Served) -> None:
    port, token = served.url.rpartition(":")[2], {"Authorization": f"Bearer {served.token}"}
    runs, run = "/api/projects/", f"/api/runs/{key(served.run)}/"
    assert status(served, runs, **token) == 200
    assert status(served, runs, Cookie=f"p3kit-ui-{port}={served.token}") == 200
    assert status(served, runs, **token, Origin=served.url, Sec_Fetch_Site="same-origin") == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.nip.io:{port}", ""):
        assert status(served, runs, **token, Host=host) == 403, host
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", "http://127.0.0.1:1", f"{served.url}.x"):
        assert status(served, runs, **token, Origin=origin) == 403, origin
        assert status(served, run, "DELETE", **token, Origin=origin) == 403, origin
        assert status(served, run, "OPTIONS", **token, Origin=origin, Access_Control_Request_Method="DELETE") == 403
    for site in ("cross-site", "same-site"):
        assert status(served, runs, **token, Sec_Fetch_Site=site) == 403
        framed = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
        assert status(served, "/", **token, **framed) == 403
    for path in ("/", runs, run, "/docs", "/api/docs", "/api/openapi.json", "/static-files/x", "//evil.example"):
        assert status(served, path) == 403, path
        assert status(served, path, Authorization="Bearer wrong", Cookie=f"p3kit-ui-{port}=wrong") == 403
        assert status(served, f"{path}?token=wrong") == 403
    assert status(served, run, "DELETE", Cookie=f"p3kit-ui-{port}=\xff") == 403
    assert status(served, f"{run}?token={served.token}", "DELETE") == 403
    assert ask(served, f"runs/{key(served.run)}/info/"), "the run is still there"


def test_the_token_does_not_stay_in_the_address(served: Served) -> None:
    for path in ("/", "/runs?select=O-abc", "//evil.example/x?a=1"):
        connection = http.client.HTTPConnection("127.0.0.1", int(served.url.rpartition(":")[2]), timeout=10)
        connection.request("GET", f"{path}{'&' if '?' in path else '?'}token={served.token}")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Location"]) == (
            303,
            "/results" if path == "/" else f"/{path.lstrip('/')}",
        )
        cookie = answer.headers["Set-Cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert answer.headers["Access-Control-Allow-Origin"] is None
        assert answer.headers["X-Frame-Options"] == "DENY"
        connection.close()


def test_ui_makes_the_guides_dashboard(served: Served) -> None:
    boards = {board["name"]: board for board in ask(served, "dashboards/")}
    wanted = dashboard({key(served.run): served.run.info()}, best=None)
    assert boards.keys() >= {bookmark.name for bookmark in wanted}
    for bookmark in wanted:
        board = boards[bookmark.name]
        assert (board["app_type"], board["description"]) == (bookmark.explorer, bookmark.description)
        assert served.links[f"bookmark: {bookmark.name}"] == f"{served.url}/{bookmark.explorer}/{board['app_id']}"
        assert ask(served, f"apps/{board['app_id']}/")["state"] == bookmark.state


def test_bookmarks_are_written_once_and_the_users_changes_stay(served: Served, tmp_path: Path) -> None:
    memory = tmp_path / "bookmarks.json"
    first = Bookmark("ours", "a test", "metrics", {"select": {"options": [], "query": ""}})
    [link] = write_bookmarks(served.url, [first], memory, served.token)
    assert write_bookmarks(served.url, [first], memory, served.token) == [link]
    newer = dataclasses.replace(first, state={"select": {"options": [], "query": "run.active"}})
    assert write_bookmarks(served.url, [newer], memory, served.token) == [link]
    app = link.url.rpartition("/")[2]
    assert ask(served, f"apps/{app}/")["state"] == newer.state, "ours is renewed"
    assert [board["name"] for board in ask(served, "dashboards/")].count("ours") == 1

    ask(served, f"apps/{app}/", {"type": "metrics", "state": {"select": {"options": [], "query": "mine"}}}, "PUT")
    assert write_bookmarks(served.url, [first], memory, served.token) == [link]
    assert ask(served, f"apps/{app}/")["state"]["select"]["query"] == "mine", "the user's change stays"

    [board] = [board["id"] for board in ask(served, "dashboards/") if board["name"] == "ours"]
    ask(served, f"dashboards/{board}/", method="DELETE")
    assert write_bookmarks(served.url, [first], memory, served.token) == []
    assert "ours" not in [board["name"] for board in ask(served, "dashboards/")], "what was deleted stays deleted"


def test_a_server_without_that_interface_is_said(served: Served, tmp_path: Path) -> None:
    with pytest.raises(P3kitError, match="did not take the bookmarks"):
        write_bookmarks(f"{served.url}/nowhere", dashboard({}, None), tmp_path / "bookmarks.json")


def test_the_dashboard_follows_the_runs(tmp_path: Path) -> None:
    runs = {key(run): run.info() for run in (make_run(tmp_path, "AAPL"), make_run(tmp_path, "XOM", "AAPL"))}
    names = [bookmark.name for bookmark in dashboard(runs, None)]
    assert len(names) == len(set(names)) == len(SCALARS) + 3
    assert differing_knobs(list(runs.values())) == ["ppo.ent_coef"], "one agent's own spec has another value"
    assert differing_knobs([]) == list(TUNED)
    [best] = [bookmark for bookmark in dashboard(runs, "abc") if bookmark.name == "Best model"]
    assert best.state["select"]["query"] == 'run.hash == "abc"'
    for group in SCALARS.values():
        assert METRICS.keys() >= set(group)


def test_the_best_run_has_the_highest_sharpe() -> None:
    scores = {"a": 0.4, "b": 1.2, "c": None, "d": math.nan}
    verdicts = [(name, {"metrics": {"eval/sharpe_ratio": value}}) for name, value in scores.items()]
    assert best_run(verdicts) == "b"
    assert best_run([("c", {"metrics": {}})]) is None


def test_a_runs_verdicts_in_short() -> None:
    states = [
        {
            "verdict": {
                "grade": grade,
                "over_buy_and_hold": "not shown",
                "metrics": {"eval/sharpe_ratio": sharpe},
                "labels": ["intervened"] if grade == "PASS" else [],
            }
        }
        for grade, sharpe in (("FAIL", 0.1), ("PASS", 0.5), ("FAIL", None))
    ]
    told = result_of([*states, {"verdict": None}, {}])
    assert (told["verdicts"], told["edge_shown"], told["agents"]) == ("1 PASS, 2 FAIL", "not judged", 3)
    assert told["intervened"] == 1
    assert (told["sharpe_mean"], told["sharpe_best"]) == (pytest.approx(0.3), 0.5)
    assert result_of([{}]) == {}
    assert result_of(states[:1])["verdicts"] == "FAIL"


def test_a_run_from_elsewhere_is_not_compared(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "AAPL")
    other = make_run(tmp_path / "others", "XOM", experiment="phase4")
    refused = invoke("ui", other.path, "--runs", tmp_path / "runs")
    assert refused.exit_code == InputError.exit_code
    assert "give its folder by --runs" in refused.stderr


def test_sync_command(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "AAPL")
    train(run, range(1))
    arguments = ["--runs", str(tmp_path / "runs"), "--aim-repo", str(tmp_path / "elsewhere"), "--json"]
    answer = json.loads(invoke("sync", *arguments).stdout)
    assert (answer["repo"], answer["points"]) == (str(tmp_path / "elsewhere"), 2)
    (run.path / "metrics.jsonl").write_text("torn apart\n")
    result = invoke("sync", *arguments)
    assert result.exit_code == 1
    assert "not mirrored: run-1" in result.stderr


def test_follow_goes_on_until_it_is_stopped(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    mirror = Mirror(project / "runs")
    mirror.sync()  # creating the repository takes a second, and the pauses of follow are many times its work
    stop = threading.Event()
    seen = []
    for result in mirror.follow(stop, interval=0.01):
        seen.append(result.points)
        if len(seen) == 1:
            train(run, range(1))
        if sum(seen) == 2:
            stop.set()
    assert sum(seen) == 2


def test_a_picture_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "reward.png"
    PIL.Image.new("RGBA", (30, 20), "red").save(path)
    kept = store.image(path, "rewards")
    assert bytes(kept.storage["data"]) == path.read_bytes()
    assert kept.to_pil_image().getpixel((29, 19)) == (255, 0, 0, 255)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match="not a whole PNG file"):
        store.image(path, "rewards")


def test_news_end_a_pause_of_the_mirror(project: Path) -> None:
    run = make_run(project / "runs", "AAPL")
    stop, news = threading.Event(), threading.Event()
    following = Mirror(project / "runs", project).follow(stop, interval=1_000.0, news=news)
    assert next(following).changed == 1
    train(run, range(3))
    threading.Timer(0.1, news.set).start()
    assert next(following).changed == 1
    stop.set()
    news.set()
    assert next(following).changed == 0
    assert next(following, None) is None
