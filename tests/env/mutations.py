"""Deliberate bugs in the environment, each of which some test has to catch: `python tests/env/mutations.py [NAME …]`.

Every mutation of `mutations.toml` changes one place in a temporary copy of the package and runs the fast tests of
`tests/env` there until the first failure. Prints which test caught what; exits 1 if a bug survived, and stops with
ValueError at a mutation whose place is gone. Takes minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tomli

ROOT = Path(__file__).parents[2]
FIRST_FAILURE_WILL_DO = """
from hypothesis import Phase, settings

settings.register_profile("mutations", phases=[Phase.explicit, Phase.generate], derandomize=True)
settings.load_profile("mutations")
"""


@dataclass(frozen=True)
class Mutation:
    """One bug: in `file` of p3kit/env, `right` becomes `wrong`."""

    name: str
    file: str
    right: str
    wrong: str


def load_mutations() -> list[Mutation]:
    """All of `mutations.toml`, beside this file."""
    tables = tomli.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return [Mutation(**table) for table in tables["mutation"]]


def caught_by(mutation: Mutation, copy: Path) -> str | None:
    """The first test that fails in the mutated copy; None if all pass. Raises ValueError if the place is gone."""
    original = (ROOT / "p3kit" / "env" / mutation.file).read_text(encoding="utf-8")
    if original.count(mutation.right) != 1:
        raise ValueError(f"{mutation.file} has {original.count(mutation.right)} places that read {mutation.right!r}")
    target = copy / "p3kit" / "env" / mutation.file
    target.write_text(original.replace(mutation.right, mutation.wrong), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "tests/env"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    target.write_text(original, encoding="utf-8")
    if result.returncode == 0:
        return None
    failed = re.search(r"FAILED (\S+)|ERROR (\S+)", result.stdout)
    if failed is None:
        raise RuntimeError(result.stdout + result.stderr)
    return failed[1] or failed[2]


def main(names: list[str]) -> int:
    """Run the named mutations, or all; returns the exit code."""
    chosen = [mutation for mutation in load_mutations() if not names or mutation.name in names]
    survivors = 0
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for name in ("p3kit", "tests", "trainers"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "tests" / "env" / "conftest.py").write_text(FIRST_FAILURE_WILL_DO, encoding="utf-8")
        for mutation in chosen:
            test = caught_by(mutation, copy)
            survivors += test is None
            print(f"{mutation.name:<50} {'SURVIVED' if test is None else test}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
