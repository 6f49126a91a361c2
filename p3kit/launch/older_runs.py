"""Runs of an earlier format: the trainer that shows their policy, and whether they can be continued.

Reading commands read every format. A trainer's own copy may import names that this p3kit no longer has.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from p3kit.errors import InputError, P3kitWarning
from p3kit.rundir import RunDir
from p3kit.spec.shipped import shipped_trainers


def evaluating_trainer(run: RunDir) -> Path:
    """The trainer that backtests the checkpoints of a run: its own copy.

    Where the copy of an older run does not work with this p3kit, the shipped trainer of the same name takes the
    weights, with a warning. Raises InputError where there is none.
    """
    if not run.is_older or not (missing := _missing(run)):
        return run.trainer_file
    name = str(run.info().get("trainer"))
    shipped = shipped_trainers().get(name)
    if shipped is None:
        what = f"was made by {run.made_by()}; its trainer imports {missing}, which this p3kit does not have"
        raise InputError(run.name, what, "evaluate it with the p3kit that made it")
    text = f"{run.name} was made by {run.made_by()}; the shipped trainer {name} takes its weights"
    warnings.warn(text, P3kitWarning, stacklevel=4)
    return shipped


def check_resumable(run: RunDir) -> str:
    """A note on continuing an older run; "" for a run of this format. Raises InputError where it cannot work."""
    if not run.is_older:
        return ""
    if missing := _missing(run):
        what = f"was made by {run.made_by()} and cannot be continued: its trainer imports {missing}, which is gone"
        again = run.path / "spec.toml"
        raise InputError(run.name, what, f"resume it with that p3kit, or start again: p3kit run {again}")
    return (
        f"{run.name} was made by {run.made_by()}; features are summed in another order now, so the weights may "
        "differ in the last bits from those of a run that was never interrupted"
    )


def _missing(run: RunDir) -> str:
    """The first names that the run's trainer imports and that are gone."""
    from p3kit.runtime.trainer_import import missing_names  # imports what trains

    names = missing_names(run.trainer_file)
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
