"""`python -m tests.measure.suite.generated`: train drawn runs, calibrate on healthy ones, score faults that were drawn.

  python -m tests.measure.suite.generated train pool        healthy configurations for calibration
  python -m tests.measure.suite.generated train development faults that may be looked at, and their healthy runs
  python -m tests.measure.suite.generated train held-out    those that are scored once
  python -m tests.measure.suite.generated calibrate         thresholds from the pool, written for the rows to read
  python -m tests.measure.suite.generated score held-out    recall, precision, delay and false alarms, with intervals

Runs are kept with their records, so that changed rows judge them again in seconds. See `drawing.py` for the seeds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from tests.measure.suite import drawing
from tests.measure.suite.suite_runs import Job, train

ROOT = Path("runs/generated")


def jobs_of(part: str) -> list[Job]:
    """The runs of a part, those that are compared first."""
    if part == "pool":
        return [Job(drawing.draw_configuration(seed), seed) for seed in drawing.POOL]
    if part == "healthy":
        return [Job(drawing.draw_configuration(seed), seed) for seed in drawing.HELD_OUT_HEALTHY]
    held_out = part == "held-out"
    bases = drawing.HELD_OUT_BASES if held_out else drawing.BASES
    seeds = drawing.HELD_OUT if held_out else drawing.DEVELOPMENT
    references = [Job(drawing.draw_base(base), seed) for seed in drawing.REFERENCES for base in bases]
    faults = [Job(drawing.draw_fault(seed, bases[seed // 4 % 2]), seed) for seed in seeds]
    return [*references, *faults]


@click.group()
def main() -> None:
    """Train, calibrate and score drawn runs."""


@main.command("train")
@click.argument("part", type=click.Choice(["pool", "healthy", "development", "held-out"]))
@click.option("--runs", "root", type=click.Path(path_type=Path), default=ROOT, show_default=True)
@click.option("--jobs", type=int, default=len(os.sched_getaffinity(0)), show_default=True)
def train_part(part: str, root: Path, jobs: int) -> None:
    """Train the runs of a part; what the folder holds already is not trained again."""
    folder = root / part
    folder.mkdir(parents=True, exist_ok=True)
    planned: Sequence[Job] = jobs_of(part)
    for count, (job, seconds) in enumerate(train(planned, folder, jobs), 1):
        click.echo(f"[{count}/{len(planned)}] {job.name} {job.case.title} ({seconds:.0f} s)", err=True)


if __name__ == "__main__":
    main()
