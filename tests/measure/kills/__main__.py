"""`python -m tests.measure.kills`: kill runs at random, resume them, compare with an undisturbed run.

Kills hit the trainings of the three trainers and, as often, their extensions: a run that was done goes on to half as
many steps more. What is compared: every recorded row (times aside), every kept checkpoint bit for bit, evaluations,
interventions and verdicts. A power cut is a kill after which one file of the run is cut at any byte: the resumed run
is the same, or the damage is refused by name. Only kills that hit a living process count. Everything is drawn from
`--seed`; instants by the clock are what they are. The figures are written after every kill, and a second call with the
same `--output` goes on where the first one ended.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

from p3kit.errors import CheckpointError
from p3kit.launch import extend, requeue
from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.rundir.rows import write_json
from p3kit.runtime import load_checkpoint
from p3kit.spec import load_spec
from p3kit.spec.trainer_file import read_trainer
from tests.measure.same_bits import CALM, SHARED_NET, SMALL

TRAINERS = ("ppo", "ppo_stacked", "ppo_shared")
EXTENDED = " extended"
CASES = (*TRAINERS, *(trainer + EXTENDED for trainer in TRAINERS))
"""A run of a trainer, and the extension of one that is done."""
POWER_CUT = "power cut"
SHARE_OF_WAYS = {"place": 60, "clock": 15, "SIGTERM": 8, "Ctrl-C": 9, "launcher": 8, POWER_CUT: 25}
MOST_ATTEMPTS = 6
"""Kills that come too late are tried again, earlier."""
EXTENDED_STEPS = 2_304
PATIENCE_S = 900  # of a machine that has other things to do


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    number: int
    trainer: str
    way: str
    place: str
    at_step: int | None
    same: bool
    difference: str
    cut: str = ""
    """The file that a power cut shortened, and to how many bytes."""
    refused: str = ""
    """The words in which the damage was refused."""

    @property
    def as_promised(self) -> bool:
        return self.same or bool(self.refused)


# ── one run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_run(folder: Path, case: str, done: Mapping[str, RunDir]) -> RunDir:
    """A queued run, or the extension of a copy of one of `done`, which are done."""
    trainer = case.removesuffix(EXTENDED)
    if case == trainer:
        return make_new_run(folder, trainer)
    run = RunDir(Path(shutil.copytree(done[trainer].path, folder / "runs" / done[trainer].name)))
    extend([run], EXTENDED_STEPS, "stretch")
    requeue([run])
    return run


def make_new_run(folder: Path, trainer: str) -> RunDir:
    symbols = '["AAA"]' if trainer == "ppo" else '["AAA", "BBB"]'
    net = SHARED_NET if trainer == "ppo_shared" else "hidden = [16, 16]"
    early_stop = "patience = 4\nmin_progress = 0.7"
    text = SMALL.format(name="kills", trainer=trainer, symbols=symbols, net=net, early_stop=early_stop, rules=CALM)
    folder.mkdir(parents=True)
    (folder / "kills.toml").write_text(text, encoding="utf-8")
    spec = load_spec(folder / "kills.toml").spec
    (plan,) = plan_runs(spec, read_trainer(spec.trainer))
    return RunDir.create(folder / "runs", plan.run_json(load_market(spec, spec.symbols), ["test"]), text, plan.trainer)


def start(run: RunDir, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    log = (run.path / "log.txt").open("ab")
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
    )


def launcher(run: RunDir) -> subprocess.Popen[str]:
    return start(run, "-m", "p3kit", "resume", run.name, "--runs", str(run.path.parent), "--no-aim", "--jobs", "1")


def trained_in_one_go(folder: Path, case: str, done: dict[str, RunDir]) -> tuple[RunDir, dict[str, int], float]:
    """An undisturbed run, how often it got to each place, and its seconds."""
    run, begin = make_run(folder, case, done), time.monotonic()
    process = start(run, "-m", "tests.measure.kills.die", "count", "0", str(run.path))
    printed, _ = process.communicate(timeout=PATIENCE_S)
    if process.returncode != 0:
        raise SystemExit(f"the undisturbed run of {case} failed:\n{(run.path / 'log.txt').read_text()[-2000:]}")
    done[case] = run
    return run, json.loads(printed.splitlines()[-1]), time.monotonic() - begin


def finish(run: RunDir) -> None:
    """Resume until it is done, as a user would."""
    deadline = time.monotonic() + PATIENCE_S
    while run.status()["state"] != "done":
        if time.monotonic() > deadline:
            raise TimeoutError(f"{run.path} is {run.status()['state']} after {PATIENCE_S} s")
        if run.is_locked():  # its trainer outlived the launcher and goes on
            time.sleep(0.1)
            continue
        process = launcher(run)
        process.communicate(timeout=PATIENCE_S)


def finish_or_refusal(run: RunDir) -> str:
    """Resume a damaged run. Returns the words of a refusal; nothing where the run is done in the end."""
    while run.status()["state"] != "done":
        log = run.path / "log.txt"
        before = log.stat().st_size
        process = launcher(run)
        process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            said = log.read_bytes()[before:].decode("utf-8", "replace")
            if "Traceback" in said:
                raise RuntimeError(said[-500:])
            lines = [line.strip(" |") for line in said.splitlines() if ": " in line and "to go on" not in line]
            return lines[-1]
    return ""


def cut_a_file(run: RunDir, chance: random.Random) -> str:
    """Cut one file that training writes at any byte; rows, which are appended, more often than the others."""
    files = [path for path in sorted(run.path.rglob("*")) if path.suffix in (".json", ".pt") and path.is_file()]
    rows = [run.path / name for name in ("metrics.jsonl", "events.jsonl") if (run.path / name).exists()]
    path = chance.choice(chance.choice([rows, rows, rows, files]) or files)
    length = chance.randrange(max(1, path.stat().st_size))
    os.truncate(path, length)
    return f"{path.relative_to(run.path)} at {length:,}"


def end_by_signal(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Send a signal, and wait for the end. Returns True if the process was alive."""
    is_alive = process.poll() is None
    if is_alive:
        process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    return is_alive


# ── comparing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_of(run: RunDir) -> list[Any]:
    rows = []
    for row in run.read_metrics():
        metrics = {k: repr(v) for k, v in row["metrics"].items() if not k.startswith("perf/")}
        rows.append((row["agent"], row["iteration"], row["global_step"], metrics))
    return rows


def events_of(run: RunDir) -> list[Any]:
    """Evaluations, interventions and verdicts, without times and row numbers."""
    told = ("evaluation", "verdict", "intervention")
    return [
        {k: repr(v) for k, v in event.items() if k not in ("seq", "time")}
        for event in run.read_events()
        if event["kind"].startswith(told)
    ]


def difference(run: RunDir, undisturbed: RunDir) -> str:
    """The first thing in which two runs differ; empty where there is none."""
    for what, of in (("metrics", rows_of), ("journal", events_of)):
        mine, theirs = of(run), of(undisturbed)
        if len(mine) != len(theirs):
            return f"{what}: {len(mine)} rows, not {len(theirs)}"
        for number, (own, expected) in enumerate(zip(mine, theirs, strict=True)):
            if own != expected:
                return f"{what}: row {number} is {str(own)[:300]}, not {str(expected)[:300]}"
    names = [sorted(path.name for path in one.checkpoint("last").parent.glob("*.pt")) for one in (run, undisturbed)]
    if names[0] != names[1]:
        return f"checkpoints: {names[0]}, not {names[1]}"
    for name in names[0]:
        own, expected = (load_checkpoint(one.checkpoint("last").parent / name) for one in (run, undisturbed))
        for key in own.keys() | expected.keys():
            if "perf/" not in key and not key.startswith("run/records/") and not equal(own.get(key), expected.get(key)):
                return f"{name}: {key} differs"
    left = [path.name for path in run.path.rglob(".*.tmp")]
    return f"left behind: {left}" if left else ""


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.nan_to_num(7e11), b.nan_to_num(7e11))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)


# ── the ways to die ───────────────────────────────────────────────────────────────────────────────────────────────────


def kill_once(run: RunDir, way: str, place: str, nth: int, share: float, seconds: float) -> bool:
    """Kill a run one way: at the `nth` visit of a place, or after `share` of an undisturbed run's time.

    Returns True if the kill hit a living process."""
    if way in ("place", "clock", "SIGTERM", POWER_CUT):
        if way == "place":
            process = start(run, "-m", "tests.measure.kills.die", place, str(nth), str(run.path))
            process.communicate(timeout=PATIENCE_S)
            hit = process.returncode == -signal.SIGKILL
        else:
            resume = ["--resume"] if run.checkpoint("last").exists() else []
            process = start(run, str(run.path / "trainer.py"), "--run-dir", str(run.path), *resume)
            time.sleep(share * seconds)
            hit = end_by_signal(process, signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
        if run.status()["state"] == "queued":  # killed before its first word: whoever queued it, we, lives on
            run.update_status(state="crashed", message="killed before its first step")
        return hit and (way != POWER_CUT or run.status()["state"] != "done")
    # The launcher is hit, its trainer is not: Ctrl-C makes it end, SIGKILL leaves it an orphan.
    run.update_status(state="stopped", message="before its first step")
    process = launcher(run)
    time.sleep(1.0 + share * seconds)
    return end_by_signal(process, signal.SIGINT if way == "Ctrl-C" else signal.SIGKILL)


def draw(
    number: int, seed: int, visits: dict[str, dict[str, int]], only: str | None
) -> tuple[str, str, str, int, float]:
    """Trainer, way, place, visit and instant of a kill; places are drawn evenly, however often they are visited."""
    chance = random.Random(seed * 100_000 + number)
    trainer = CASES[number % len(CASES)]
    way = only or chance.choices(list(SHARE_OF_WAYS), list(SHARE_OF_WAYS.values()))[0]
    place = chance.choice(sorted(visits[trainer]))
    return trainer, way, place if way == "place" else "", chance.randint(1, visits[trainer][place]), chance.random()


@click.command(help=__doc__)
@click.option("--kills", default=100, show_default=True, help="Number, over the cases in turn.")
@click.option("--seed", default=1, show_default=True, help="What places and instants are drawn from.")
@click.option("--jobs", default=len(os.sched_getaffinity(0)), show_default=True, help="Runs at a time.")
@click.option("--way", type=click.Choice(list(SHARE_OF_WAYS)), help="This way only.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the folders of runs that came out different here.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(kills: int, seed: int, jobs: int, way: str | None, keep: Path | None, output: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="p3kit-kills-") as name:
        folder = Path(name)
        first: dict[str, RunDir] = {}
        whole = {case: trained_in_one_go(folder / case, case, first) for case in CASES}
        visits = {trainer: counted for trainer, (_, counted, _) in whole.items()}
        done = earlier(output, seed)
        for trainer, (run, counted, seconds) in whole.items():
            print(
                f"{trainer}: {seconds:.0f} s undisturbed, {len(rows_of(run))} rows, {len(counted)} places", flush=True
            )

        def one(number: int) -> None:
            trainer, how, place, nth, share = draw(number, seed, visits, way)
            undisturbed, _, seconds = whole[trainer]
            own, cut, refused = folder / f"kill-{number}", "", ""
            for attempt in range(MOST_ATTEMPTS):
                run = make_run(own, trainer, first)
                if kill_once(run, how, place, nth, share * 0.7**attempt, seconds):
                    break
                shutil.rmtree(own)
            else:
                print(f"{number + 1:4} {trainer:20} {how:9} hit no living process: not counted", flush=True)
                return
            rows = run.read_metrics()
            at_step = int(rows[-1]["global_step"]) if rows else None
            try:
                if how == POWER_CUT:
                    cut = cut_a_file(run, random.Random(seed * 100_000 + number))
                    refused = finish_or_refusal(run)
                else:
                    finish(run)
                found = "" if refused else difference(run, undisturbed)
            except CheckpointError as error:
                found, refused = ("", str(error)) if cut else (str(error), "")
            except Exception as error:  # noqa: BLE001  the search is for any error that keeps a run from its end
                found = f"{type(error).__name__}: {error}"
            if found and keep:
                shutil.copytree(own, keep / own.name)
            shutil.rmtree(own)
            done.append(Kill(number, trainer, how, place, at_step, not (found or refused), found, cut, refused))
            where = f"{place} (visit {nth})" if place else cut or f"at {share:.0%} of its time"
            came = found or (f"refused: {refused}" if refused else "same")
            print(f"{number + 1:4} {trainer:20} {how:9} {where:50} {came}", flush=True)
            if output:
                write_json(output, document(sorted(done, key=lambda kill: kill.number), seed))

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, sorted(set(range(kills)) - {kill.number for kill in done})))
    same, refused = sum(kill.same for kill in done), sum(bool(kill.refused) for kill in done)
    print(f"{same} of {len(done)} came out as an undisturbed run; the damage of {refused} was refused by name")
    sys.exit(0 if all(kill.as_promised for kill in done) else 1)


def earlier(output: Path | None, seed: int) -> list[Kill]:
    """The kills that an earlier call with this seed, at this commit, has written to `output`."""
    if output is None or not output.exists():
        return []
    written = json.loads(output.read_text(encoding="utf-8"))
    is_ours = (written["seed"], written["how"]["git_commit"]) == (seed, provenance()["git_commit"])
    return [Kill(**kill) for kill in written["each"]] if is_ours else []


def document(done: list[Kill], seed: int) -> dict[str, Any]:
    def tally(key: Callable[[Kill], str]) -> dict[str, dict[str, int]]:
        return {
            name: {"kills": count, "same": sum(kill.same for kill in done if key(kill) == name)}
            for name, count in sorted(Counter(key(kill) for kill in done).items())
        }

    return {
        "how": {**provenance(), "command": f"python -m tests.measure.kills --kills {len(done)} --seed {seed}"},
        "seed": seed,
        "cores": len(os.sched_getaffinity(0)),
        "kills": len(done),
        "same": sum(kill.same for kill in done),
        "refused": sum(bool(kill.refused) for kill in done),
        "by_trainer": tally(lambda kill: kill.trainer),
        "by_way": tally(lambda kill: kill.way),
        "by_place": tally(lambda kill: kill.place or "any"),
        "each": [asdict(kill) for kill in done],
    }


if __name__ == "__main__":
    main()
