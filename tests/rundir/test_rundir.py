"""The run directory under the things that happen to it: kills, races, full disks, strange names."""

import errno
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3kit.errors import InputError, P3kitError, RunNotFound
from p3kit.rundir import (
    Histogram,
    RunDir,
    file_name,
    find_run,
    find_runs,
    list_runs,
    mark_crashed,
    processes,
    rows,
    started_with,
)


@pytest.fixture
def trainer(tmp_path):
    path = tmp_path / "fake.py"
    path.write_text("print('hello')\n")
    return path


@pytest.fixture
def make_run(tmp_path, trainer):
    def make(agents=("AAPL",)):
        info = {"name": "test", "agents": [{"name": name} for name in agents]}
        return RunDir.create(tmp_path / "runs", info, "name = 'test'\n", trainer)

    return make


def row(step, agent="AAPL", **metrics):
    return {
        "agent": agent,
        "iteration": step // 100,
        "global_step": step,
        "time": 1.0 * step,
        "metrics": {name.replace("__", "/"): value for name, value in metrics.items()},
    }


# ---------------------------------------------------------------------- making and finding


def test_a_new_run_holds_what_it_was_made_from(make_run):
    run = make_run(("AAPL", "BRK/B"))
    assert (run.name, run.number) == ("run-1", 1)
    assert run.info()["run"] == "run-1"
    assert run.info()["schema_version"] == 2
    assert run.agent_names() == ["AAPL", "BRK/B"]
    assert run.spec_text() == "name = 'test'\n"
    assert run.trainer_file.read_text() == "print('hello')\n"
    assert run.status()["state"] == "queued"


def _create_some(root, trainer, count, names):
    for _ in range(count):
        names.put(RunDir.create(root, {"agents": []}, "", trainer).name)


def test_processes_that_start_runs_at_once_get_different_numbers(tmp_path, trainer):
    context = multiprocessing.get_context("spawn")
    names = context.Queue()
    arguments = (tmp_path / "runs", trainer, 15, names)
    workers = [context.Process(target=_create_some, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    taken = [names.get(timeout=60) for _ in range(60)]
    for worker in workers:
        worker.join()
    assert sorted(taken, key=lambda name: int(name[4:])) == [f"run-{n}" for n in range(1, 61)]
    assert [run.name for run in list_runs(tmp_path / "runs")] == [f"run-{n}" for n in range(1, 61)]


def test_a_run_that_cannot_be_made_leaves_no_directory(tmp_path, trainer):
    with pytest.raises(FileNotFoundError):
        RunDir.create(tmp_path / "runs", {}, "", tmp_path / "nowhere.py")
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        RunDir.create(tmp_path / "runs", {"odd": object()}, "", trainer)
    assert list(tmp_path.glob("runs/*")) == []


def test_a_directory_without_run_json_is_no_run(tmp_path, make_run):
    make_run()
    (tmp_path / "runs" / "run-7").mkdir()
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["run-1"]
    assert make_run().name == "run-8"
    with pytest.raises(RunNotFound, match=r"run-7: is no run directory"):
        RunDir.open(tmp_path / "runs" / "run-7")


def test_find_run_takes_every_form_of_the_name(tmp_path, make_run):
    for _ in range(11):
        run = make_run(("AAPL", "BRK/B"))
    root = tmp_path / "runs"
    assert find_run(root, "run-2") == (RunDir(root / "run-2"), None)
    assert find_run(root, "2") == (RunDir(root / "run-2"), None)
    assert find_run(root, "latest") == (run, None)
    assert find_run(root, "latest/AAPL") == (run, "AAPL")
    assert find_run(root, "3/BRK/B") == (RunDir(root / "run-3"), "BRK/B")
    assert find_run("elsewhere", str(root / "run-4")) == (RunDir(root / "run-4"), None)
    assert find_run("elsewhere", f"{root / 'run-4'}/") == (RunDir(root / "run-4"), None)
    assert find_run("elsewhere", str(root / "run-4" / "BRK/B")) == (RunDir(root / "run-4"), "BRK/B")


def test_an_experiment_names_its_runs(tmp_path, make_run):
    root = tmp_path / "runs"
    for name in ("alone", "both", "both", "run-1"):
        make_run().update_info(name=name)
    damaged = make_run()
    (damaged.path / "run.json").write_text("{")
    first, *both, _ = list_runs(root)[:4]
    assert find_run(root, "alone") == (first, None)
    assert find_run(root, "alone/AAPL") == (first, "AAPL")
    with pytest.raises(InputError, match="'both': is an experiment of 2 runs: run-2, run-3; name one of them"):
        find_run(root, "both")
    assert find_runs(root, "both") == [(run, None) for run in both]
    assert find_runs(root, "alone/AAPL") == [(first, "AAPL")]
    assert find_runs(root, "run-1") == [(first, None)]  # the run, not the experiment of that name
    with pytest.raises(RunNotFound):
        find_runs(root, "none")


def test_runs_of_one_command_have_its_other_agents(tmp_path, make_run):
    for seed, command in zip((1, 2, 1, 2, 3, 4, 5, 6), "aaaaab--", strict=True):
        make_run((f"AAPL.s{seed}",)).update_info(command=[] if command == "-" else [command])
    found = [[other.number for other in started_with(run)] for run in list_runs(tmp_path / "runs")]
    assert [found[i] for i in (0, 1, 3, 4, 5, 6, 7)] == [[], [1], [3], [3, 4], [], [], []]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("run-99", 'did you mean "run-3"?'),
        ("0", 'did you mean "run-1"?'),
        ("rnu-2", 'did you mean "run-2"?'),
        ("lastest", 'did you mean "latest"?'),
        ("run-1/APPL", 'did you mean "AAPL"?'),
        ("run-1/../../etc/passwd", "run-1 has no agent of that name"),
    ],
)
def test_find_run_names_the_nearest(tmp_path, make_run, reference, message):
    for _ in range(3):
        make_run()
    with pytest.raises(RunNotFound) as caught:
        find_run(tmp_path / "runs", reference)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_folder_of_runs_is_named_as_such(tmp_path, make_run, monkeypatch):
    make_run()
    monkeypatch.chdir(tmp_path)
    for reference in ("runs", "runs/"):
        with pytest.raises(RunNotFound, match=r"is a folder of 1 runs; name one of them, such as runs/run-1"):
            find_run("elsewhere", reference)


def test_find_run_without_runs_says_how_to_start_one(tmp_path):
    with pytest.raises(RunNotFound, match=r"there are no runs in .*p3kit run specs/smoke.toml"):
        find_run(tmp_path / "runs", "latest")


def test_checkpoints_have_one_place(make_run):
    run = make_run(("BRK/B",))
    assert run.checkpoint("last") == run.checkpoint("last.pt") == run.path / "checkpoints" / "last.pt"
    assert run.checkpoint("best-000049152", agent="AMD").name == "best-000049152-AMD.pt"
    assert run.checkpoint("best-1", agent="../../etc").parent == run.path / "checkpoints"
    run.checkpoint("last").touch()
    assert run.checkpoints() == [run.checkpoint("last")]


def test_a_newer_schema_is_refused(make_run):
    run = make_run()
    rows.write_json(run.path / "run.json", {"schema_version": 99})
    with pytest.raises(P3kitError, match="newer"):
        run.info()


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["AAPL", "BRK.B", "AAPL.s2.gae_lambda=0.9", "best-49152.pt"])
def test_ordinary_names_stay_as_they_are(name):
    assert file_name(name) == name


@given(st.text(min_size=1, max_size=200))
def test_any_name_becomes_one_safe_path_component(name):
    safe = file_name(name)
    assert Path(safe).name == safe
    assert safe not in (".", "..")
    assert not safe.startswith((".", "-"))
    assert len(safe) <= 80


@given(st.text(min_size=1, max_size=90), st.text(min_size=1, max_size=90))
def test_two_names_never_share_a_file(one, other):
    assert (file_name(one) == file_name(other)) == (one == other)


def test_histograms_of_hostile_agents_stay_inside_the_run(make_run):
    run = make_run(("../../etc", "BRK/B", "AAPL.s2.gae_lambda=0.9"))
    for agent in run.agent_names():
        run.write_histogram("reward", agent, 4096, {"edges": [0, 1], "counts": np.array([3])})
        run.write_histogram(
            "value_map", agent, 8192, {"bars": [0, 1], "unrealised": [0, 1], "values": [[None, math.nan]]}
        )
    assert sorted(path.parent.name for path in run.path.rglob("*.json") if "-0000" in path.name) == ["histograms"] * 6
    assert {h.agent for h in run.histograms()} == set(run.agent_names())
    (histogram,) = run.histograms("reward", "BRK/B")
    assert (histogram.kind, histogram.global_step) == ("reward", 4096)
    assert histogram.data == {"edges": [0, 1], "counts": [3]}
    assert math.isnan(run.histograms("value_map", "../../etc")[0].data["values"][0][1])


# ---------------------------------------------------------------------- metrics


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats()
    | st.text().filter(lambda s: s not in NONFINITE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
NONFINITE = ("nan", "inf", "-inf")


@given(PLAIN)
def test_plain_data_survive_writing_and_reading(value):
    """repr separates -0.0 from 0.0 and treats nan as equal to nan."""
    assert repr(rows.decode(json.loads(rows.dump(value)))) == repr(value)


def test_metrics_come_back_as_they_went_in(make_run):
    run = make_run(("AAPL", "AMD"))
    run.append_metrics([row(100, policy__entropy=1.2, value__value_loss=np.float32(0.5))])
    run.append_metrics([row(100, "AMD", policy__entropy=1.1), row(200, policy__entropy=np.float64(0.9))])
    assert [r["global_step"] for r in run.read_metrics("AAPL")] == [100, 200]
    series = run.series("AAPL")["policy/entropy"]
    np.testing.assert_array_equal(series.steps, [100, 200])
    np.testing.assert_array_equal(series.values, [1.2, 0.9])
    np.testing.assert_array_equal(series.iterations, [1, 2])
    assert "value/value_loss" not in run.series("AMD")
    assert run.series("NOBODY") == {}


def test_numbers_that_are_not_finite_survive_as_strict_json(make_run):
    run = make_run()
    run.append_metrics(
        [row(1, policy__entropy=math.nan, grad__grad_norm=np.inf, value__value_mean=np.float32(-np.inf))]
    )
    text = (run.path / "metrics.jsonl").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert '"policy/entropy": "nan"' in text
    metrics = run.read_metrics()[0]["metrics"]
    assert math.isnan(metrics["policy/entropy"])
    assert (metrics["grad/grad_norm"], metrics["value/value_mean"]) == (math.inf, -math.inf)


def test_a_trainer_records_numbers_of_its_own(make_run):
    run = make_run()
    run.append_metrics([row(1, own__auxiliary_loss=0.5)])
    assert run.read_metrics()[0]["metrics"] == {"own/auxiliary_loss": 0.5}


def test_a_value_that_does_not_apply_is_left_out(make_run):
    run = make_run()
    run.append_metrics([row(1, eval__sharpe_ratio=None, eval__total_trades=0)])
    assert run.read_metrics()[0]["metrics"] == {"eval/total_trades": 0}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"policy/entropie": 1.0}, 'did you mean "policy/entropy"?'),
        ({"largest_advantage": 1.0}, 'name a metric of your own "own/largest_advantage"'),
        ({"loss": 1.0}, 'not in the glossary; name a metric of your own "own/loss"'),
        ({"policy/entropy": "high"}, "no number"),
        ({"policy/entropy": [1.0]}, "no number"),
        ({"policy/entropy": True}, "no number"),
    ],
)
def test_what_is_no_metric_is_refused_and_nothing_is_written(make_run, metrics, message):
    run = make_run()
    with pytest.raises(P3kitError) as caught:
        run.append_metrics([row(1, policy__entropy=1.0), {**row(2), "metrics": metrics}])
    assert message in str(caught.value)
    assert run.read_metrics() == []


def test_a_follower_gets_each_row_once(make_run):
    run = make_run()
    assert run.tail_metrics(0) == ([], 0)
    run.append_metrics([row(1, policy__entropy=1.0)])
    first, offset = run.tail_metrics(0)
    assert [r["global_step"] for r in first] == [1]
    with (run.path / "metrics.jsonl").open("a") as handle:
        handle.write('{"agent": "AAPL", "itera')  # being written just now
    assert run.tail_metrics(offset) == ([], offset)
    run.append_metrics([row(2, policy__entropy=1.0)])
    more, offset = run.tail_metrics(offset)
    assert [r["global_step"] for r in more] == [2]


def test_a_follower_of_a_file_that_was_cut_starts_again(make_run):
    run = make_run()
    run.append_metrics([row(step, policy__entropy=1.0) for step in range(1, 6)])
    _, offset = run.tail_metrics()
    run.cut_after({"AAPL": 2})
    again, _ = run.tail_metrics(offset)
    assert [r["global_step"] for r in again] == [1, 2]


@pytest.mark.parametrize("torn", ['{"agent": "AAPL", "iter', "\x00\x00\x00", '{"agent": "AAPL"}', "é"[:1]])
def test_a_torn_last_row_is_cut_off_and_said(make_run, torn):
    run = make_run()
    run.append_metrics([row(1, policy__entropy=1.0)])
    with (run.path / "metrics.jsonl").open("a") as handle:
        handle.write(torn)
    assert [r["global_step"] for r in run.read_metrics()] == [1]
    run.append_metrics([row(2, policy__entropy=1.0)])
    assert [r["global_step"] for r in run.read_metrics()] == [1, 2]
    (event,) = run.read_events("torn_line")
    assert (event["file"], event["bytes"]) == ("metrics.jsonl", len(torn.encode()))


def test_a_file_that_is_one_long_torn_row_is_emptied(make_run):
    run = make_run()
    (run.path / "metrics.jsonl").write_text("x" * 200_000)
    run.append_metrics([row(1, policy__entropy=1.0)])
    assert len(run.read_metrics()) == 1


def test_a_damaged_row_in_the_middle_is_named(make_run):
    run = make_run()
    run.append_metrics([row(1, policy__entropy=1.0)])
    with (run.path / "metrics.jsonl").open("a") as handle:
        handle.write("not json\n")
    with pytest.raises(P3kitError, match=r"metrics\.jsonl:2: is not a JSON row"):
        run.read_metrics()


@pytest.mark.parametrize(("old", "new"), [(b"0.25", b"0.75"), (b"entropy", b"entropx"), (b'"crc"', b'"crx"')])
def test_a_number_that_was_changed_later_is_never_believed(make_run, old, new):
    run = make_run()
    run.append_metrics([row(100, policy__entropy=0.5), row(200, policy__entropy=0.25), row(300, policy__entropy=0.5)])
    file = run.path / "metrics.jsonl"
    first, second, third = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second.replace(old, new) + third)
    if new == b'"crx"':  # who takes the checksum out vouches for the row
        assert [r["global_step"] for r in run.read_metrics()] == [100, 200, 300]
        return
    with pytest.raises(P3kitError, match=r"metrics.jsonl:2: was changed or damaged after it was written: .*; delete"):
        run.read_metrics()
    with pytest.raises(P3kitError, match=r"metrics.jsonl:2: was changed"):
        run.verify()


def test_whole_rows_of_the_other_file_are_named(make_run):
    run = make_run()
    run.append_metrics([row(100, policy__entropy=0.5)])
    run.append_event("note", text="hello")
    metrics, events = run.path / "metrics.jsonl", run.path / "events.jsonl"
    own = metrics.read_bytes()
    metrics.write_bytes(own + events.read_bytes())
    with pytest.raises(P3kitError, match=r"metrics.jsonl:2: is not a JSON row \(agent is None\)"):
        run.read_metrics()
    with pytest.raises(P3kitError, match=r"metrics.jsonl:2: "):
        run.verify()
    metrics.write_bytes(own)
    events.write_bytes(own)
    with pytest.raises(P3kitError, match=r"events.jsonl:1: "):
        run.read_events()


def test_documents_carry_a_checksum_too(make_run):
    run = make_run()
    run.write_status({"state": "done", "agents": {"AAPL": {"sharpe": 0.25}}})
    histogram = run.write_histogram("reward", "AAPL", 100, {"edges": [0, 1], "counts": [25]})
    for path, old, new in (
        (run.path / "status.json", "0.25", "0.75"),
        (run.path / "run.json", '"AAPL"', '"AMPL"'),
        (histogram, "25", "26"),
    ):
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    assert run.status()["state"] == "crashed"
    assert "was changed or damaged" in run.status()["message"]
    with pytest.raises(P3kitError, match=r'run.json: was changed .*; take its "crc" out if the change was meant'):
        run.info()
    with pytest.raises(P3kitError, match=r"reward-AAPL-000000100.json: was changed"):
        _ = Histogram("reward", "AAPL", 100, histogram).data


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[]", "is no table"),
        ('{"agent": "A", "iteration": 1, "global_step": 1, "time": 0}', "metrics is missing"),
        ('{"agent": "A", "iteration": 1, "global_step": "x", "time": 0, "metrics": {}}', "global_step is 'x'"),
        ('{"agent": "A", "iteration": 1, "global_step": 1, "time": 0, "metrics": {"a/b": "c"}}', "metrics.a/b is no"),
    ],
)
def test_rows_of_other_origin_are_looked_at(make_run, line, fault):
    run = make_run()
    (run.path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(P3kitError, match=f"metrics.jsonl:1: is not a JSON row .{fault}"):
        run.read_metrics()


def test_a_full_disk_keeps_the_rows_that_were_there(make_run, monkeypatch):
    run = make_run()
    run.append_metrics([row(1, policy__entropy=1.0)])
    before = (run.path / "metrics.jsonl").read_bytes()

    def write_half_then_fail(handle, path, text):
        handle.seek(0, os.SEEK_END)
        half = FailingHandle(handle)
        return original(half, path, text)

    class FailingHandle:
        def __init__(self, handle):
            self.handle, self.writes = handle, 0

        def __getattr__(self, name):
            return getattr(self.handle, name)

        def write(self, content):
            self.writes += 1
            if self.writes > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.handle.write(content[:10])

    original = rows.write_at_end
    monkeypatch.setattr(rows, "write_at_end", write_half_then_fail)
    with pytest.raises(P3kitError, match=r"No space left on device.*free some space"):
        run.append_metrics([row(2, policy__entropy=1.0)])
    assert (run.path / "metrics.jsonl").read_bytes() == before


# ---------------------------------------------------------------------- events


def test_events_are_numbered_and_filtered(make_run):
    run = make_run()
    assert run.append_event("checkpoint", "AAPL", 100, file="last.pt") == 0
    assert run.append_event("evaluation", "AAPL", 100, metrics={"eval/sharpe_ratio": math.nan}, windows=3) == 1
    assert run.append_event("evaluation", "AMD", 100, metrics={}) == 2
    assert [e["seq"] for e in run.read_events()] == [0, 1, 2]
    assert [e["agent"] for e in run.read_events("evaluation")] == ["AAPL", "AMD"]
    assert [e["seq"] for e in run.read_events(after=1)] == [2]
    (event,) = run.read_events("evaluation", agent="AAPL")
    assert math.isnan(event["metrics"]["eval/sharpe_ratio"])
    assert event["windows"] == 3


def test_an_agent_called_nan_stays_a_name(make_run):
    run = make_run(("nan",))
    run.append_event("note", "nan", 1, text="inf", value=math.inf)
    (event,) = run.read_events()
    assert (event["agent"], event["text"], event["value"]) == ("nan", "inf", math.inf)


def test_an_unknown_kind_of_event_is_refused(make_run):
    with pytest.raises(P3kitError, match="kinds: resume, checkpoint"):
        make_run().append_event("chekpoint")


def test_a_torn_event_is_cut_off_and_numbers_go_on(make_run):
    run = make_run()
    run.append_event("note", text="one")
    with (run.path / "events.jsonl").open("a") as handle:
        handle.write('{"seq": 1, "ki')
    run.append_event("note", text="two")
    assert [(e["seq"], e["kind"]) for e in run.read_events()] == [(0, "note"), (1, "note"), (2, "torn_line")]


def _append_events(path, count):
    for _ in range(count):
        RunDir(path).append_event("note", text="x" * 3000)


def test_processes_that_write_events_at_once_never_share_a_number(make_run):
    run = make_run()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_events, args=(run.path, 50)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [e["seq"] for e in run.read_events()] == list(range(150))


# ---------------------------------------------------------------------- resume


def test_cut_after_drops_what_is_newer_than_the_checkpoint(make_run):
    run = make_run(("AAPL", "AMD"))
    for step in (100, 200, 300):
        for agent in ("AAPL", "AMD"):
            run.append_metrics([row(step, agent, policy__entropy=1.0)])
            run.append_event("evaluation", agent, step)
            run.write_histogram("reward", agent, step, {})
    run.append_event("checkpoint", global_step=200)
    run.append_event("checkpoint", global_step=300)
    run.append_event("note", text="without a step")
    # metrics: AAPL 200, 300 and AMD 300; evaluations: the same three; the run's own checkpoint at 300
    assert run.cut_after({"AAPL": 100, "AMD": 200}) == 7
    assert [(r["agent"], r["global_step"]) for r in run.read_metrics()] == [("AAPL", 100), ("AMD", 100), ("AMD", 200)]
    assert [(h.agent, h.global_step) for h in run.histograms()] == [("AAPL", 100), ("AMD", 100), ("AMD", 200)]
    kinds = [e["kind"] for e in run.read_events()]
    assert kinds == ["evaluation", "evaluation", "evaluation", "checkpoint", "note", "note"]
    numbers = [e["seq"] for e in run.read_events()]
    assert numbers == sorted(set(numbers))
    assert run.append_event("resume") == numbers[-1] + 1 == 10


def test_cut_after_with_nothing_newer_changes_nothing(make_run):
    run = make_run()
    run.append_metrics([row(100, policy__entropy=1.0)])
    run.append_event("checkpoint", "AAPL", 100)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert run.cut_after({"AAPL": 100}) == 0
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_cut_after_mends_a_torn_row_first(make_run):
    run = make_run()
    run.append_metrics([row(100, policy__entropy=1.0)])
    for name in ("metrics.jsonl", "events.jsonl"):
        with (run.path / name).open("a") as handle:
            handle.write('{"agent": "AA')
    assert run.cut_after({"AAPL": 0}) == 1
    assert {event["file"] for event in run.read_events("torn_line")} == {"metrics.jsonl"}
    assert run.read_metrics() == []


# ---------------------------------------------------------------------- status


def test_status_is_replaced_whole(make_run):
    run = make_run()
    run.write_status(
        {"state": "running", "pid": os.getpid(), "agents": {"AAPL": {"sharpe": math.nan, "state": "running"}}}
    )
    status = run.status()
    assert math.isnan(status["agents"]["AAPL"]["sharpe"])
    assert status["pid_start"] == processes.process_start(os.getpid())
    assert list(run.path.glob(".status*")) == []
    with pytest.raises(P3kitError, match="'sleeping' is no state"):
        run.write_status({"state": "sleeping"})


def _write_statuses(path, count):
    for n in range(count):
        RunDir(path).write_status({"state": "running", "message": "x" * 5000, "agents": {}, "n": n})


def test_a_reader_never_sees_half_a_status(make_run):
    run = make_run()
    writer = multiprocessing.get_context("spawn").Process(target=_write_statuses, args=(run.path, 300))
    writer.start()
    seen = set()
    while writer.is_alive():
        status = run.status()
        assert status["state"] in ("queued", "running"), status
        seen.add(status.get("n"))
    assert run.status()["n"] == 299
    assert len(seen) > 1


def test_a_damaged_status_reads_as_crashed(make_run):
    run = make_run()
    (run.path / "status.json").write_text('{"state": "runn')
    assert run.status()["state"] == "crashed"
    (run.path / "status.json").unlink()
    assert "status.json" in run.status()["message"]


def test_a_run_whose_process_was_killed_is_marked_crashed(tmp_path, make_run):
    run, other = make_run(), make_run()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run.write_status({"state": "running", "pid": process.pid, "agents": {"AAPL": {"global_step": 5}}})
    other.write_status({"state": "done", "pid": process.pid, "agents": {}})
    assert run.is_alive()
    assert mark_crashed(tmp_path / "runs") == ([], [])
    process.send_signal(signal.SIGKILL)
    while processes.process_start(process.pid) is not None:  # a zombie counts as gone: it is not reaped yet
        time.sleep(0.01)
    assert mark_crashed(tmp_path / "runs") == ([run], [])
    process.wait()
    assert run.status()["state"] == "crashed"
    assert run.status()["agents"] == {"AAPL": {"global_step": 5}}
    assert other.status()["state"] == "done"
    assert [e["kind"] for e in run.read_events()] == ["crash"]


def test_a_recycled_pid_is_not_taken_for_the_run(make_run):
    run = make_run()
    run.write_status({"state": "running", "pid": os.getpid(), "pid_start": "another boot:123", "agents": {}})
    assert not run.is_alive()
    assert run.mark_crashed()


def test_a_run_queued_by_a_command_that_is_gone_is_marked_crashed(make_run):
    run = make_run()
    assert not run.mark_crashed()  # queued by this process, which lives
    run.update_status(pid=999_999_999)
    assert run.mark_crashed()
    assert "never began" in run.status()["message"]


def test_a_run_on_another_machine_is_judged_by_its_heartbeat(make_run):
    run = make_run()
    elsewhere = {"state": "running", "pid": 1, "pid_start": "x", "host": "elsewhere", "agents": {}}
    run.write_status({**elsewhere, "heartbeat": time.time() - 60})
    assert not run.mark_crashed()
    run.write_status({**elsewhere, "heartbeat": time.time() - 3600})
    assert run.mark_crashed()


def test_a_run_is_trained_by_one_process_at_a_time(make_run):
    run = make_run()
    descriptor = run.lock()
    with pytest.raises(P3kitError, match="run-1: is being trained by another process; p3kit stop run-1"):
        run.lock(wait_s=0.05)
    os.close(descriptor)
    os.close(run.lock())


def test_what_a_killed_writer_left_is_swept_and_what_is_being_written_stays(make_run):
    run = make_run()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = run.path / "checkpoints" / f".last.pt.{gone.pid}.tmp"
    being_written = run.path / f".status.json.{os.getpid()}.77.tmp"
    own = run.path / ".notes.tmp"
    for path in (left, being_written, own):
        path.write_text("half")
    assert run.sweep() == [left.name]
    assert [path.exists() for path in (left, being_written, own)] == [False, True, True]


def test_a_request_to_stop_reaches_the_process(make_run):
    run = make_run()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run.write_status({"state": "running", "pid": process.pid, "agents": {}})
    assert not run.stop_requested()
    run.request_stop()
    assert run.stop_requested()
    assert process.wait(timeout=10) == -signal.SIGTERM
    run.clear_stop()
    assert not run.stop_requested()


def test_the_log_tail_is_the_last_lines(make_run):
    run = make_run()
    assert run.log_tail() == []
    run.log_file.write_bytes(b"\xff\n" + b"\n".join(b"line %d" % n for n in range(50_000)) + b"\n\n")
    assert run.log_tail(2) == ["line 49998", "line 49999"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a copy of /proc is read")
def test_a_clock_that_is_set_changes_no_process(tmp_path, monkeypatch):
    before = processes.process_start(os.getpid())
    (tmp_path / str(os.getpid())).mkdir()
    for name in ("stat", f"{os.getpid()}/stat", f"{os.getpid()}/status"):
        text = Path("/proc", name).read_text()
        moved = re.sub(r"(?m)^btime (\d+)$", lambda match: f"btime {int(match[1]) + 3600}", text)
        (tmp_path / name).write_text(moved)
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    assert psutil.Process(os.getpid()).create_time() > time.time() + 1000, "psutil's own start time moves"
    assert processes.process_start(os.getpid()) == before


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 2**31, 10**30])
def test_a_number_that_is_no_pid_is_no_process(pid):
    assert processes.process_start(pid) is None
    assert not processes.is_alive({"pid": pid, "host": processes.host()}, time.time())


@pytest.mark.parametrize("kind", ["reward", "actions", "gradients", "value_map", "equity"])
@pytest.mark.parametrize("other", ["reward", "actions", "gradients", "value_map", "equity"])
def test_a_histogram_in_place_of_another_is_refused_by_name(make_run, kind: str, other: str) -> None:
    numbers = {
        "edges": [0, 1],
        "counts": [3],
        "labels": ["HOLD"],
        "bars": [0, 1],
        "unrealised": [0, 1],
        "values": [[1.0]],
    }
    numbers |= {"timestamps": ["2020-01-01"], "equity": [1.0]}
    run = make_run()
    agent = run.agent_names()[0]
    files = {name: run.write_histogram(name, agent, 4096, numbers) for name in {kind, other}}
    files[kind].write_bytes(files[other].read_bytes())
    (histogram,) = run.histograms(kind)
    if kind == other:
        assert histogram.data == numbers
    else:
        with pytest.raises(P3kitError, match=f"kind is '{other}', but its name stands for '{kind}'; delete the file"):
            _ = histogram.data


def test_a_histogram_without_its_numbers_is_refused_by_name(make_run) -> None:
    run = make_run()
    run.write_histogram("actions", run.agent_names()[0], 4096, {"counts": [3]})
    with pytest.raises(P3kitError, match="labels is missing"):
        _ = run.histograms("actions")[0].data
