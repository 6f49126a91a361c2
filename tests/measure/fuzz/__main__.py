"""`python -m tests.measure.fuzz`: damaged specs and run directories through the commands that read them.

No traceback, no hang, an exit code that fits, a message for every other code than 0, and nothing overwritten.
Everything is drawn from `--seed`. The figures are written as it goes, and a second call with the same `--output` goes
on where the first one ended.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click

from p3kit.rundir.provenance import provenance
from p3kit.rundir.rows import write_json
from tests.measure.fuzz import damaged_directories, damaged_specs

EVERY = 50
"""Trials between two looks at the file of figures."""


@click.command(help=__doc__)
@click.option("--specs", "spec_count", default=10_000, show_default=True, help="Changed specs.")
@click.option("--directories", "directory_count", default=1_000, show_default=True, help="Damaged run directories.")
@click.option("--seed", default=1, show_default=True, help="What all changes are drawn from.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the specs that brought something to light here.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(spec_count: int, directory_count: int, seed: int, keep: Path | None, output: Path | None) -> None:
    logging.disable(logging.WARNING)  # of Aim, about repositories that are damaged on purpose
    figures = earlier(output, seed)
    with tempfile.TemporaryDirectory(prefix="p3kit-fuzz-") as name:
        fuzz_specs(Path(name) / "specs", seed, spec_count, figures, keep, output)
        fuzz_directories(Path(name) / "directories", seed, directory_count, figures, output)
    save(figures, output)
    found = 0
    for what in ("specs", "directories"):
        part = figures[what]
        found += len(part["findings"])
        print(f"{part['tried']} {what}: {len(part['findings'])} findings; {part['answers']}")
    sys.exit(1 if found else 0)


def fuzz_specs(
    folder: Path, seed: int, count: int, figures: dict[str, Any], keep: Path | None, output: Path | None
) -> None:
    part = figures["specs"]
    for number, kind, content, answer, finding in damaged_specs.trials(folder, seed, range(part["tried"], count)):
        note(part, [f"{kind}: {answer or 'found'}"])
        if finding:
            tell(part, f"spec {number}: {finding}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.toml").write_bytes(content)
        if part["tried"] % (10 * EVERY) == 0:
            save(figures, output)


def fuzz_directories(folder: Path, seed: int, count: int, figures: dict[str, Any], output: Path | None) -> None:
    part = figures["directories"]
    if part["tried"] >= count:
        return
    for trial in damaged_directories.trials(folder, seed, range(part["tried"], count)):
        note(part, list(trial.answers.elements()))
        for finding in trial.findings:
            tell(part, f"directory {trial.number}: {trial.victim}: {', '.join(trial.harm)}: {finding}")
        if part["tried"] % EVERY == 0:
            save(figures, output)


def note(part: dict[str, Any], answers: list[str]) -> None:
    part["tried"] += 1
    part["answers"] = dict(sorted((Counter(part["answers"]) + Counter(answers)).items()))


def tell(part: dict[str, Any], finding: str) -> None:
    part["findings"].append(finding[:1_000])
    print(finding[:1_000], flush=True)


def earlier(output: Path | None, seed: int) -> dict[str, Any]:
    """The figures so far: each part as an earlier call with this seed left it at this commit, else without any."""
    how = {**provenance(), "command": f"python -m tests.measure.fuzz --seed {seed}"}
    written = json.loads(output.read_text(encoding="utf-8")) if output is not None and output.exists() else {}
    figures = {}
    for part in ("specs", "directories"):
        figures[part] = {"how": how, "seed": seed, "tried": 0, "answers": {}, "findings": []}
        before = written.get(part, figures[part])
        if (before["seed"], before["how"]["git_commit"]) == (seed, how["git_commit"]):
            figures[part] = before
    return figures


def save(figures: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        write_json(output, figures)


if __name__ == "__main__":
    main()
