"""Deliberate bugs, each of which some test has to catch: `python -m tests.measure.mutations [NAME …] [--table FILE]`.

Every mutation of `mutations.toml` changes one place in a temporary copy of the package and runs the fast tests named
beside it until the first failure, two mutations at a time. Prints which test caught what, and writes the same as a
markdown table with --table; exits 1 if a bug survived, and stops with ValueError at a mutation whose place is gone.
Takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomli

ROOT = Path(__file__).parents[3]
WORKERS = 2
PLACES = "tests/measure/mutations/test_mutations.py"
FIRST_FAILURE_WILL_DO = """
from hypothesis import Phase, settings

settings.register_profile("mutations", phases=[Phase.explicit, Phase.generate], derandomize=True)
settings.load_profile("mutations")
"""
HEADER = """# Deliberate bugs, and the test that catches each

Made by `tox -e mutations -- --table tests/measure/mutations/mutations.md`. Each bug is put alone
into a copy of the package.

| bug | in | caught by |
|---|---|---|
"""


@dataclass(frozen=True)
class Mutation:
    """One bug: in `file` of p3kit, `right` becomes `wrong`; one of `tests` has to notice."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = ("tests/env",)

    def mutated(self) -> str:
        """The file with the bug in it. Raises ValueError unless its place is there exactly once."""
        original = (ROOT / "p3kit" / self.file).read_text(encoding="utf-8")
        if original.count(self.right) != 1:
            raise ValueError(f"{self.name}: {self.file} has {original.count(self.right)} places of {self.right!r}")
        return original.replace(self.right, self.wrong)


def load_mutations() -> list[Mutation]:
    """All of `mutations.toml`, beside this file."""
    tables = tomli.loads(Path(__file__).with_name("mutations.toml").read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**{**table, "tests": tuple(table.get("tests", ["tests/env"]))}) for table in tables]


def caught_by(mutation: Mutation) -> str | None:
    """The first test that fails in a mutated copy; None if all pass. Raises ValueError if the place is gone."""
    mutated = mutation.mutated()
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for name in ("p3kit", "tests", "trainers", "specs"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "p3kit" / mutation.file).write_text(mutated, encoding="utf-8")
        (copy / "tests" / "env" / "conftest.py").write_text(FIRST_FAILURE_WILL_DO, encoding="utf-8")
        # That the mutation's place is there is what this very mutation breaks: no catch.
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", f"--ignore={PLACES}", *mutation.tests]
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    failed = re.search(r"(?:FAILED|ERROR) (\S+)", result.stdout)
    if failed is None:
        raise RuntimeError(result.stdout + result.stderr)
    return failed[1]


def main(arguments: list[str]) -> int:
    """Run the named mutations, or all; returns the exit code."""
    table = Path(arguments.pop(arguments.index("--table") + 1)) if "--table" in arguments else None
    names = [word for word in arguments if word != "--table"]
    chosen = [mutation for mutation in load_mutations() if not names or mutation.name in names]
    caught = 0
    rows = []
    with ThreadPoolExecutor(WORKERS) as workers:
        for mutation, test in zip(chosen, workers.map(caught_by, chosen), strict=True):
            caught += test is not None
            print(f"{mutation.name:<50} {test or 'SURVIVED'}", flush=True)
            rows.append(f"| {mutation.name} | `{mutation.file}` | {f'`{test}`' if test else '**survived**'} |")
    print(f"{caught} of {len(chosen)} caught")
    if table is not None:
        table.write_text(HEADER + "\n".join(rows) + f"\n\n{caught} of {len(chosen)} caught.\n", encoding="utf-8")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
