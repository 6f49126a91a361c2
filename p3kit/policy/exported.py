"""Load an exported policy: its card and its network, which onnxruntime runs. No code of the folder is run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3kit.errors import InputError
from p3kit.market import FeatureRecipe
from p3kit.market.novelty import Distribution
from p3kit.policy.onnx_network import OUTPUTS, onnx_session
from p3kit.policy.trained_agent import Policy
from p3kit.runtime.policy import LoadedPolicy, PolicyFunction
from p3kit.spec import Spec, resolve_spec
from p3kit.spec.shipped import shipped_trainers

CARD, NETWORK = "card.json", "network.onnx"
KIND = "p3kit policy"
CARD_FORMAT = 1

_OF_TRAINER = ("trainer", "ppo", "schedules", "intervention", "interventions", "matrix", "tune")
"""Tables of a spec that belong to a trainer, whose file is not part of an export."""


def is_export(folder: Path) -> bool:
    """Return True for a folder that `export_policy` wrote."""
    try:
        card: Any = json.loads((folder / CARD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(card, dict) and card.get("kind") == KIND


def load_export(folder: Path, device: torch.device) -> Policy:
    """The policy of an exported folder. Raises InputError where a file is missing, altered or of a newer format."""
    card = json.loads((folder / CARD).read_bytes())
    if not isinstance(card.get("format"), int) or card["format"] > CARD_FORMAT:
        what = f"has format {card.get('format')}; this p3kit reads formats up to {CARD_FORMAT}"
        raise InputError(str(folder / CARD), what, "pip install -U p3kit")
    network = _network(folder, card)
    try:
        spec, data, trained = _spec(card, folder), card["data"], card["trained"]
        recipe = FeatureRecipe.from_json(data["recipe"])
        return Policy(
            name=card["name"],
            symbol=card["symbol"],
            spec=spec,
            checkpoint=trained["checkpoint"],
            global_step=trained["global_step"],
            feature_names=recipe.names,
            device=device,
            function=LoadedPolicy(_function(network), lambda observation: observation),
            recipe=recipe,
            trained_until=data["split_days"]["train"][1],
            distribution=Distribution.from_json(data["distribution"]),
            seed=trained["seed"],
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(str(folder / CARD), f"is damaged ({error!r})", "export the policy again") from error


def _network(folder: Path, card: Any) -> bytes:
    """The content of the network, whose checksum stands in the card."""
    path, remedy = folder / NETWORK, "export the policy again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", remedy) from error
    if hashlib.sha256(content).hexdigest() != (card.get("files") or {}).get(NETWORK):
        raise InputError(str(path), "is torn or altered: its checksum is not the one of card.json", remedy)
    return content


def _spec(card: Any, folder: Path) -> Spec:
    """The spec of the agent. The tables of a trainer that is not shipped are left out."""
    tables = card["spec"]
    if card["trained"]["trainer"] not in shipped_trainers():
        tables = {key: value for key, value in tables.items() if key not in _OF_TRAINER}
    return resolve_spec(tables, str(folder / CARD))


def _function(network: bytes) -> PolicyFunction:
    session = onnx_session(network)

    def function(observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        rows = {"observation": observation.float().cpu().numpy(), "mask": mask.cpu().numpy()}
        logits, value = (torch.from_numpy(found).to(observation.device) for found in session.run(OUTPUTS, rows))
        return logits, value

    return function
