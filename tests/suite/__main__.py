"""`python -m tests.suite`: train, judge, score."""

from __future__ import annotations

import json
import multiprocessing.connection  # noqa: F401  (wait on processes)
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from p3kit.errors import P3kitError
from p3kit.plan import provenance
from p3kit.spec import load_rules
from tests.suite.cases import Case, load_controls, load_faults
from tests.suite.repair import measure
from tests.suite.runs import Job, plan, train
from tests.suite.scoring import Outcome, accepted, judge_live, stored_runs
from tests.suite.tables import as_document, as_markdown

CALIBRATION_SEEDS, SCORE_SEEDS = 100, 200
"""Thresholds may be looked at on seeds from 100 on; what is reported comes from seeds from 200 on."""
QUICK_CONTROLS = ("C01", "C02", "C05", "C09", "C10", "C11")


@click.command()
@click.option("--quick", is_flag=True, help="Every fault once at full strength, six controls once.")
@click.option(
    "--full", is_flag=True, help="Every strength on five seeds, the guide's sizes once, ten seeds per control."
)
@click.option("--only", multiple=True, metavar="ID", help="These faults and controls (F01, F01.mild, C03).")
@click.option("--seeds", type=int, help="Seeds per fault; controls get twice as many in --full.")
@click.option("--calibrate", is_flag=True, help=f"Seeds from {CALIBRATION_SEEDS} on, not those that are reported.")
@click.option(
    "--rejudge",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Judge the runs stored in this folder anew. Repeatable.",
)
@click.option("--rules", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Thresholds to judge by.")
@click.option("--repair", is_flag=True, help="Repairable faults healthy, sick and repaired; controls under the rules.")
@click.option("--admission", is_flag=True, help="Does the fault hurt? Ten seeds with it against ten without.")
@click.option("--runs", "root", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/suite"))
@click.option("--trainer", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="In place of ppo.py.")
@click.option("--jobs", type=int, default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write OUTPUT.json and OUTPUT.md.")
def main(
    quick: bool,
    full: bool,
    only: tuple[str, ...],
    seeds: int | None,
    calibrate: bool,
    rejudge: tuple[Path, ...],
    rules: Path | None,
    repair: bool,
    admission: bool,
    root: Path,
    trainer: Path | None,
    jobs: int,
    output: Path | None,
) -> None:
    """Measure the diagnosis on faults that are known."""
    cases = {case.name: case for case in (*load_faults(), *load_controls())}
    overridden = None if rules is None else load_rules(rules)
    if rejudge:
        stored = [item for folder in rejudge for item in stored_runs(folder, cases) if _wanted(item[1], only)]
        outcomes = [judge_live(run, case, seed, large, overridden) for run, case, seed, large in stored]
        outcomes.sort(key=lambda outcome: (outcome.case, outcome.guide_sizes, outcome.seed))
        _tell(outcomes, cases, output, "python -m tests.suite --rejudge DIR")
        return
    first = CALIBRATION_SEEDS if calibrate else SCORE_SEEDS
    if repair:
        of_faults, of_controls = range(first, first + (seeds or 1)), range(first, first + max(2 * (seeds or 1), 5))
        command = " ".join(["python -m tests.suite", *sys.argv[1:]])
        measure(cases, only, of_faults, of_controls, root, trainer, jobs, output, command)
        return
    if admission:
        planned = _admission_jobs(cases, only, first)
    elif quick or full or only:
        planned = _jobs(cases, only, full, seeds or (5 if full else 1), first)
    else:
        raise click.UsageError("say --quick, --full, --only ID, --admission, --repair or --rejudge DIR")
    outcomes = _run(planned, root, trainer, jobs, overridden)
    if admission:
        _tell_admission(outcomes, cases)
    _tell(outcomes, cases, output, " ".join(["python -m tests.suite", *sys.argv[1:]]))


def _wanted(case: Case, only: Sequence[str]) -> bool:
    return not only or case.name in only or case.id in only


def _jobs(cases: dict[str, Case], only: Sequence[str], full: bool, seeds: int, first: int) -> list[Job]:
    planned = []
    for case in cases.values():
        if not _wanted(case, only):
            continue
        if not (full or only) and (
            case.strength == "mild" or (case.kind == "control" and case.id not in QUICK_CONTROLS)
        ):
            continue
        count = 2 * seeds if case.kind == "control" and full else seeds
        planned += [Job(case, first + seed) for seed in range(count)]
        if full and case.kind == "fault" and case.strength == "full" and case.spec.get("trainer") is None:
            planned.append(Job(case, first, guide_sizes=True))
    return planned


def _admission_jobs(cases: dict[str, Case], only: Sequence[str], first: int) -> list[Job]:
    faults = [case for case in cases.values() if case.kind == "fault" and _wanted(case, only)]
    return [Job(case, first + seed) for case in [cases["C01"], *faults] for seed in range(10)]


def _run(planned: Sequence[Job], root: Path, trainer: Path | None, processes: int, rules: object) -> list[Outcome]:
    root.mkdir(parents=True, exist_ok=True)
    ready = [plan(job, root, trainer) for job in planned]
    outcomes = []
    for count, (job, seconds) in enumerate(train(ready, processes), 1):
        from p3kit.rundir import RunDir

        assert job.path is not None
        run = RunDir.open(job.path)
        outcome = judge_live(run, job.case, job.seed, job.guide_sizes, rules)  # type: ignore[arg-type]
        outcomes.append(outcome)
        said = ", ".join(
            f"{a.symptom} {a.severity[0]} {a.at_step / outcome.total_timesteps:.0%}" for a in outcome.alarms
        )
        mark = ("found " if accepted(outcome, job.case) else "MISSED") if job.case.kind == "fault" else "control"
        click.echo(
            f"[{count}/{len(ready)}] {mark} {job.name} ({outcome.state}, {seconds:.0f} s): {said or 'silent'}", err=True
        )
    order = {job.path: place for place, job in enumerate(ready)}
    del order
    return sorted(outcomes, key=lambda outcome: (outcome.case, outcome.guide_sizes, outcome.seed))


def _tell(outcomes: Sequence[Outcome], cases: dict[str, Case], output: Path | None, command: str) -> None:
    made = provenance()
    how = {
        "command": command,
        "commit": made["git_commit"],
        "versions": made["versions"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "seeds": sorted({outcome.seed for outcome in outcomes}),
        "data": "SYNTHETIC",
    }
    words = f"`{command}`, commit {how['commit']}, seeds {how['seeds']}, {how['machine']}, SYNTHETIC data."
    text = as_markdown(outcomes, cases, words)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        document = as_document(outcomes, cases, how)
        output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        output.with_suffix(".md").write_text(text, encoding="utf-8")
    click.echo(text)


def _tell_admission(outcomes: Sequence[Outcome], cases: dict[str, Case]) -> None:
    """One-sided permutation test of the final score; a fault that does not hurt is a contract fault, or none."""
    healthy = np.array([outcome.score or 0.0 for outcome in outcomes if outcome.case == "C01"])
    click.echo(f"healthy: {healthy.mean():.2f} ± {healthy.std(ddof=1):.2f} over {len(healthy)} seeds")
    for name in dict.fromkeys(outcome.case for outcome in outcomes if outcome.case != "C01"):
        sick = np.array([outcome.score or 0.0 for outcome in outcomes if outcome.case == name])
        p = permutation_p(healthy, sick)
        effect = (healthy.mean() - sick.mean()) / max(healthy.std(ddof=1), 1e-9)
        verdict = "harmful" if p < 0.05 and effect > 1 else "not harmful as injected"
        click.echo(
            f"{name} ({cases[name].harm}): {sick.mean():.2f} ± {sick.std(ddof=1):.2f}, effect {effect:.1f} healthy "
            f"standard deviations, p = {p:.4f}: {verdict}"
        )


def permutation_p(healthy: np.ndarray, sick: np.ndarray, draws: int = 10_000) -> float:
    """Probability of a difference of means as large as seen, if it made no difference who was sick."""
    seen = healthy.mean() - sick.mean()
    pool = np.concatenate([healthy, sick])
    rng = np.random.default_rng(0)
    drawn = np.array([rng.permutation(pool) for _ in range(draws)])
    difference = drawn[:, : len(healthy)].mean(1) - drawn[:, len(healthy) :].mean(1)
    return float((1 + np.count_nonzero(difference >= seen)) / (draws + 1))


if __name__ == "__main__":
    try:
        main()
    except P3kitError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
