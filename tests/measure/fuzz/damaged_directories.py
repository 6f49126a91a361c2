"""Run directories that came to harm: one file or several torn, flipped, emptied, edited, exchanged, or gone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import re
import runpy
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.spec import resolve_spec
from p3kit.spec.trainer_file import read_trainer
from tests.made_runs import intervene, make_run
from tests.measure.fuzz.commands import Finding, call
from tests.measure.fuzz.damaged_specs import STRANGE, cut_out, flip, insert, places, shuffle_lines, tear

VICTIMS = ("run-2", "run-3")
TRAINED: dict[str, Any] = {
    "name": "fuzz",
    "trainer": "ppo",
    "symbols": ["AAA"],
    "data": {"source": "synthetic", "synthetic": {"bars": 2_000}},
    "env": {"num_envs": 2, "episode_bars": 60, "window": 4},
    "ppo": {"total_timesteps": 256, "n_steps": 64, "batch_size": 64, "n_epochs": 1, "hidden": [8]},
    "evaluation": {"every": 128},
    "checkpoints": {"every": 128},
    "early_stop": {"min_progress": 1.0},
}


def make_sound(root: Path, *, trained: bool = True) -> None:
    """Runs without a fault: made up, made up with a journal of interventions, and really `trained` (run-3)."""
    make_run(root / "runs", symbol="AAPL", until=0.5)
    journalled = make_run(root / "runs", symbol="AMD", until=0.5)
    intervene(journalled, "fired", 8_192, agent="AMD", keys={"ppo.ent_coef": [0.01, 0.05]})
    intervene(journalled, "verified", 16_384, agent="AMD")
    if not trained:
        make_run(root / "runs", symbol="XOM", until=0.5)
        return
    spec = resolve_spec(TRAINED, "fuzz")
    (plan,) = plan_runs(spec, read_trainer(spec.trainer))
    market = load_market(spec, spec.symbols)
    run = RunDir.create(root / "runs", plan.run_json(market, ["p3kit", "run"]), "", plan.trainer)
    code, _, said = trainer_in_this_process([str(run.trainer_file), "--run-dir", str(run.path)])
    if code or run.name != VICTIMS[1]:
        raise SystemExit(f"the run to be damaged could not be trained: {said}")
    run.update_status(state="stopped")  # so that it can be resumed; all its steps are done, so that ends at once


# --- harm -------------------------------------------------------------------------------------------------------------


def edit_json(content: bytes, rng: random.Random) -> bytes:
    """A document, or one row of a file of rows, with a value taken out, exchanged or set to something strange."""
    lines = content.splitlines() if content.count(b"\n{") > 1 else [content]
    number = rng.randrange(len(lines)) if lines else 0
    try:
        document = json.loads(lines[number])
        spots = list(places(document))
    except (ValueError, IndexError):
        return content[:-1]
    if not spots or rng.random() < 0.03:
        document = rng.choice([None, 0, "x", [], {}, [document]])
    for _ in range(rng.choice([1, 1, 2])):
        if not spots:
            break
        node, key = rng.choice(spots)
        with contextlib.suppress(KeyError, IndexError):  # an earlier change has taken it away
            if rng.random() < 0.4:
                del node[key]
            else:
                node[key] = rng.choice([*(s for s in STRANGE if isinstance(s, str | int | float | list | dict)), None])
    lines[number] = json.dumps(document, default=str).encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + b"\n"


def empty(content: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b"\n", b"\x00" * len(content), b"{}\n", b"[]\n", b"null\n"])


def zero_a_block(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + b"\x00" * min(512, len(content) - at) + content[at + 512 :]


def reseal(content: bytes, rng: random.Random) -> bytes:
    """A checkpoint whose content is damaged and whose checksum is right."""
    size = 8 + int.from_bytes(content[:8], "little")
    checksum = re.search(rb"[0-9a-f]{64}", content[:size])
    if checksum is None:
        return content[1:]
    zeroed = content.replace(checksum[0], b"0" * 64, 1)
    start = rng.choice([8, checksum.end(), size])  # in the header or in the tensors
    damaged = zeroed[:start] + rng.choice([flip, tear, zero_a_block])(zeroed[start:], rng)
    return damaged.replace(b"0" * 64, hashlib.sha256(damaged).hexdigest().encode(), 1)


BYTES: list[Callable[[bytes, random.Random], bytes]] = [flip, tear, insert, cut_out, shuffle_lines, empty, zero_a_block]


def harm_a_file(run: Path, rng: random.Random) -> str:
    """Damage one file of a run. Return a description."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    weighty = [path for path in files if path.name in ("run.json", "status.json", "metrics.jsonl", "events.jsonl")]
    path = rng.choice(rng.choice([files, weighty, weighty]) or files)
    name, kind = str(path.relative_to(run)), rng.random()
    if kind < 0.06:
        path.unlink()
        return f"{name} deleted"
    if kind < 0.09:
        path.unlink()
        path.mkdir()
        return f"{name} a folder"
    if kind < 0.12:
        other = rng.choice(files)
        shutil.copy(other, path) if other != path else path.write_bytes(b"")
        return f"{name} replaced by {other.relative_to(run)}"
    if kind < 0.14:
        path.unlink()
        path.symlink_to("nowhere")
        return f"{name} a link to nowhere"
    change = rng.choice(BYTES)
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.65:
        change = edit_json
    elif path.suffix == ".pt" and rng.random() < 0.5:
        change = reseal
    content = path.read_bytes()
    path.write_bytes(change(content, rng) if content else b"x")
    return f"{name} {change.__name__}"


def harm(run: Path, rng: random.Random) -> list[str]:
    """Do one to three things to a run."""
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.04:
            folder = rng.choice(["checkpoints", "histograms", "plots", "replays"])
            if (run / folder).is_dir():
                shutil.rmtree(run / folder)
                done.append(f"{folder}/ deleted")
        elif rng.random() < 0.04:
            strange = run / rng.choice(["histograms/x.json", "plots/?.png", "checkpoints/best-x.pt", "stop", "x\ny"])
            if strange.parent.is_dir() and not strange.exists():
                strange.write_bytes(rng.randbytes(20))
                done.append(f"{strange.name!r} added")
        else:
            done.append(harm_a_file(run, rng))
    return done


# --- the commands -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def trainers_in_this_process() -> Iterator[None]:
    """Inside, what would start a trainer's process runs the trainer here: two seconds of imports less, each time."""

    def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        code, out, err = trainer_in_this_process(command[1:])
        return subprocess.CompletedProcess(command, code, out, err)

    class Here:
        """As much of `subprocess.Popen` as a launcher uses."""

        def __init__(self, command: Sequence[str], stdout: Any, **options: Any) -> None:
            self.pid = 2**22 + 1  # nobody's
            self.returncode, out, err = trainer_in_this_process(command[1:])
            stdout.write((out + err).encode("utf-8", "replace"))

        def poll(self) -> int:
            return self.returncode

        def terminate(self) -> None:
            return None

    stand_in = SimpleNamespace(run=run, Popen=Here, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    with mock.patch("p3kit.launch.process.subprocess", stand_in), mock.patch("p3kit.runtime.run.signal.signal"):
        yield


def trainer_in_this_process(words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code and streams of a trainer script; a traceback stands where a process would have printed it."""
    former, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = list(words)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(words[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except Exception:  # noqa: BLE001  a process would print any error and end
            traceback.print_exc()
            code = 1
        finally:
            sys.argv = former
    return code, out.getvalue(), err.getvalue()


def sums(run: Path) -> dict[str, str]:
    """Checksums of the files that only training may change."""
    kept = ("run.json", "spec.toml", "trainer.py", "metrics.jsonl")
    files = [run / name for name in kept] + [*run.glob("checkpoints/*"), *run.glob("histograms/*")]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}


@dataclass
class Trial:
    """One damaged directory and what the commands made of it."""

    number: int
    victim: str
    harm: list[str]
    findings: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)


def try_directory(root: Path, trial: Trial, commands: Sequence[str]) -> None:
    """Give every command that reads runs, and note what no damage may bring about."""
    runs, victim = root / "runs", root / "runs" / trial.victim
    where = ["--runs", str(runs)]
    sound = [name for name in ("run-1", *VICTIMS) if name != trial.victim]
    before = {name: sums(runs / name) for name in ("run-1", *VICTIMS)}
    lines: dict[str, list[str]] = {
        "runs": ["runs", "--json", *where],
        "diagnose": ["diagnose", trial.victim, *where],
        "compare": ["compare", sound[0], trial.victim, *where],
        "report": ["report", "--week", "1", "--output", str(root / "reports"), *where],
        "lessons": ["report", "--lessons", "--output", str(root / "reports"), *where],
        "export": ["export", trial.victim, *where],
        "show": ["show", trial.victim, *where],
        "sync": ["sync", "--aim-repo", str(root.parent / "aim"), *where],
        "evaluate": ["evaluate", trial.victim, "--checkpoint", "last", *where],
        "resume": ["resume", trial.victim, "--no-aim", *where],
    }
    for name in commands:
        try:
            with trainers_in_this_process():
                answer = call(*lines[name])
            trial.answers[f"{name}: exit code {answer.code}"] += 1
            if name == "runs":
                listed = {line["run"] for line in json.loads(answer.stdout)}
                if not listed >= set(sound):
                    raise Finding(f"runs: {sorted(set(sound) - listed)} not listed")
            if name != "resume":
                for run, earlier in before.items():
                    if sums(runs / run) != earlier:
                        raise Finding(f"{name}: files of {run} are not what they were")
        except Finding as finding:
            trial.findings.append(str(finding))
    after = {name: sums(runs / name) for name in sound}
    if after != {name: before[name] for name in sound}:
        trial.findings.append("files of another run are not what they were")
    kept = {name: sums(victim).get(name) for name in ("run.json", "spec.toml", "trainer.py")}
    if kept != {name: before[trial.victim].get(name) for name in kept}:
        trial.findings.append("resume changed what a run was made from")


READERS = ("runs", "diagnose", "compare", "report", "lessons", "export", "show", "sync")
RUNNERS = ("evaluate", "resume")
"""Commands that need the run's trainer, and torch."""


def trials(folder: Path, seed: int, numbers: range, *, trained: bool = True) -> Iterator[Trial]:
    """Damage a directory for every number, and give it to the commands. Equal seeds and numbers give equal harm."""
    make_sound(folder / "sound", trained=trained)
    root = folder / "trial"
    for number in numbers:
        rng = random.Random(seed * 1_000_003 + number)
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(folder / "sound", root)
        victim = rng.choice(VICTIMS)
        trial = Trial(number, victim, harm(root / "runs" / victim, rng))
        try_directory(root, trial, (*READERS, *RUNNERS) if trained else READERS)
        yield trial
