"""The card of an agent: everything that a decision needs beside the weights, as one JSON string in each checkpoint.

A checkpoint holds it under `agent/NAME/card`, so that a checkpoint alone is enough to load a policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from p3kit.runtime.checkpoints import Flat

Card = dict[str, Any]
"""name, symbol, seed, trainer, spec, data (recipe, split days and fingerprint, as in run.json)."""


def make_card(info: Mapping[str, Any], plan: Mapping[str, Any]) -> Card:
    """The card of one agent, from `run.json` and the agent's entry in it."""
    own = {key: plan[key] for key in ("name", "symbol", "seed", "spec") if key in plan}
    data = (info.get("data") or {}).get(plan.get("symbol"))
    return {**own, "trainer": info.get("trainer"), "data": data}


def card_entry(card: Card) -> Flat:
    """The card as an entry of a checkpoint."""
    return {f"agent/{card['name']}/card": json.dumps(card, sort_keys=True)}


def cards_in(state: Flat) -> dict[str, Card]:
    """The cards of a checkpoint by the agent's name; none in a checkpoint of format 1."""
    cards = (json.loads(text) for key, text in state.items() if key.startswith("agent/") and key.endswith("/card"))
    return {card["name"]: card for card in cards}


def weights_of(state: Flat) -> Flat:
    """The trainer's own part of a checkpoint."""
    whole = {key.removeprefix("trainer/"): value for key, value in state.items() if key.startswith("trainer/")}
    return whole or {key: value for key, value in state.items() if not key.startswith("agent/")}
