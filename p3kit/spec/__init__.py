"""The spec language: every word a user may write, and how a file becomes a checked `Spec`.

Light on purpose: pydantic and a TOML parser, no pandas, no torch.
"""

from p3kit.spec.access import get_path
from p3kit.spec.agent_spec import agent_spec
from p3kit.spec.loading import LoadedSpec, load_rules, load_spec, resolve_spec
from p3kit.spec.models import Spec
from p3kit.spec.schedules import value_at
from p3kit.spec.shipped import find_trainer, shipped_specs, shipped_trainers
from p3kit.spec.trainer_file import TrainerFile, read_trainer

__all__ = [
    "LoadedSpec",
    "Spec",
    "TrainerFile",
    "agent_spec",
    "find_trainer",
    "get_path",
    "load_rules",
    "load_spec",
    "read_trainer",
    "resolve_spec",
    "shipped_specs",
    "shipped_trainers",
    "value_at",
]
