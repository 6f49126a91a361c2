"""A reward term of the user's own: the function `extra_reward` at module level of the spec's trainer, if it has one.

    def extra_reward(step, args):
        \"\"\"One number per row of `step`, added to the weighted components before scaling.\"\"\"

`step` has the fields that a trainer's rollout buffer and an environment's `Timestep` have in common: the observation of
the row (`index`, `account`, `mask`), its `action`, and the outcome (`components`, `equity`, `closed_profit`,
`terminated`, `truncated`). `args` are the values of `[ppo]`. The trainer adds the term itself. p3kit calls the same
function when it probes the reward, so it finds a term that an agent can exploit before training.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3kit.env.timestep import Timestep
from p3kit.errors import InputError
from p3kit.runtime.trainer_import import import_trainer

NAME = "extra_reward"
Term = Callable[[Timestep], Tensor]


def own_term(trainer_file: Path, args: Any) -> Term | None:
    """The term of this trainer under these knobs, (N,) float64 per step; None where the file defines none.

    Only a file with such a function is imported: it is the program that would train, and is run as such. Raises
    InputError, naming the line, where the function does not give one finite number per row.
    """
    tree = ast.parse(trainer_file.read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == NAME), None)
    if found is None:
        return None
    where = f"{trainer_file}:{found.lineno}:1"
    function = getattr(import_trainer(trainer_file, whole=True), NAME)

    def term(step: Timestep) -> Tensor:
        try:
            paid = function(step, args)
        except Exception as error:
            raise InputError(where, f"{NAME} raised {type(error).__name__}: {error}", "correct the function") from error
        shape = tuple(paid.shape) if isinstance(paid, Tensor) else type(paid).__name__
        if shape != tuple(step.action.shape):
            rows = tuple(step.action.shape)
            raise InputError(where, f"{NAME} returned {shape}; expected a tensor {rows}, one number per row")
        if not torch.isfinite(paid).all():
            raise InputError(where, f"{NAME} returned a number that is not finite", "look for 0/0 and NaN in `step`")
        return torch.as_tensor(paid).double()

    return term
