"""`card.json` of an exported policy: everything that a program without p3kit needs to use it, and how good it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.env.rules import Rules
from p3kit.market import FeatureRecipe
from p3kit.metrics import ACTIONS
from p3kit.policy import card_texts as texts
from p3kit.policy.exported import CARD_FORMAT, KIND, NETWORK
from p3kit.policy.onnx_network import INPUTS, OPSET, OUTPUTS
from p3kit.policy.trained_agent import Policy
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.spec import Spec

_RULES = ("initial_capital", "sizes", "max_position", "max_adds", "fill", "commission", "slippage", "stop", "target")
_RULES_OF_TIME = ("max_hold", "episode_bars", "ruin")


def make_policy_card(policy: Policy, run: RunDir, agent: str, precision: str) -> dict[str, Any]:
    """The card of a policy, without the hashes of the files beside it."""
    info = run.info()
    plan = next(plan for plan in info["agents"] if plan["name"] == agent)
    data = info["data"][policy.symbol]
    known = {"recipe": policy.recipe.to_json(), "distribution": policy.distribution.to_json()}
    until = {"split_days": {"train": [None, policy.trained_until]}}  # for a run of format 1
    return {
        "kind": KIND,
        "format": CARD_FORMAT,
        "name": policy.name,
        "symbol": policy.symbol,
        "synthetic": bool(data.get("synthetic")),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "intended_use": texts.INTENDED_USE,
        "limits": list(texts.LIMITS),
        "trained": _trained(policy, info, plan),
        "network": _network(policy, precision),
        "features": features_card(policy.recipe),
        "observation": _observation(policy),
        "actions": actions_card(policy.spec),
        "action_rule": policy.action_rule,
        "action_rule_means": texts.ACTION_RULE_TEXTS[policy.action_rule],
        "mask": list(texts.MASK_TEXTS),
        "account": account_card(policy.spec),
        "data": {**until, **data, **known},
        "validation": _validation(run, agent, policy.global_step),
        "spec": plan["spec"],
        "versions": {"trained": info.get("versions"), "exported": provenance()["versions"]},
    }


def _trained(policy: Policy, info: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: plan.get(key) for key in ("seed", "total_timesteps", "point")}
    about = {key: info.get(key) for key in ("trainer", "run", "created", "git_commit")}
    return {**about, **own, "checkpoint": policy.checkpoint, "global_step": policy.global_step}


def _network(policy: Policy, precision: str) -> dict[str, Any]:
    size, actions = policy.observation_size, len(policy.action_names)
    shapes = (
        ("batch", size, "float32"),
        ("batch", actions, "bool"),
        ("batch", actions, "float32"),
        ("batch", "float32"),
    )
    described = dict(zip((*INPUTS, *OUTPUTS), shapes, strict=True))
    return {
        "file": NETWORK,
        "opset": OPSET,
        "inputs": {name: list(described[name]) for name in INPUTS},
        "outputs": {name: list(described[name]) for name in OUTPUTS},
        "logits": "log-probabilities; a masked action has the smallest float32",
        "value": "expected discounted sum of the scaled rewards of the training",
        "precision": precision,
        "rounding": "every operation in float32"
        if precision == "float32"
        else f"operations that the run computed in {precision} are computed in float32 and rounded to {precision}",
        "running_normaliser": "inside the network"
        if policy.spec.observation.normalize == "running"
        else "none, or inside the network where an intervention began one",
        "weights": "weights.safetensors: tensors by the names of the trainer",
    }


def features_card(recipe: FeatureRecipe) -> dict[str, Any]:
    """Formulas, normaliser and columns of the features."""
    rows = []
    for name, mean, scale in zip(recipe.names, recipe.mean, recipe.scale, strict=True):
        formula, bars = texts.feature_text(name, recipe.own)
        rows.append({"name": name, "formula": formula, "bars_before": bars, "mean": mean, "scale": scale})
    return {
        "formulas": recipe.formulas,
        "definitions": dict(texts.DEFINITIONS),
        "look_back": recipe.look_back,
        "bars_per_year": recipe.bars_per_year,
        "price_columns": list(recipe.columns),
        "own_columns": list(recipe.own),
        "adjust": recipe.adjust,
        "adjust_means": "off: prices as they are; adj_close: open, high, low and close are multiplied by adj_close / "
        "close; auto: adj_close where the file has that column",
        "list": rows,
    }


def _observation(policy: Policy) -> dict[str, Any]:
    account = [
        {"name": name, "formula": texts.ACCOUNT_TEXTS.get(name, "1 where it was the last action, else 0")}
        for name in ACCOUNT_FIELDS
    ]
    return {
        "size": policy.observation_size,
        "window": policy.window,
        "order": "features of the oldest bar of the window in their order, and so on to bar t, the newest; then the "
        "account fields",
        "clip": float(policy.spec.observation.clip),
        "clip_means": "every value is cut to at least -clip and at most clip, in float32",
        "account_fields": account,
        "account_words": dict(texts.ACCOUNT_WORDS),
    }


def actions_card(spec: Spec) -> list[dict[str, Any]]:
    """The actions in the order of the logits."""
    sizes = dict(zip(("BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE"), Rules.from_spec(spec).sizes, strict=True))
    return [
        {"index": i, "name": name, "meaning": texts.ACTION_TEXTS[name].format(size=sizes.get(name, 0.0))}
        for i, name in enumerate(ACTIONS)
    ]


def account_card(spec: Spec) -> dict[str, Any]:
    """Rules and costs of the account, as numbers and as text."""
    rules = Rules.from_spec(spec)
    numbers = {name: getattr(rules, name) for name in (*_RULES, *_RULES_OF_TIME)}
    return {**numbers, "sizes": list(rules.sizes), "units": texts.ACCOUNT_UNITS, "steps": list(texts.STEP_TEXTS)}


def _validation(run: RunDir, agent: str, step: int | None) -> dict[str, Any]:
    """Evaluation and verdict of the checkpoint as recorded; empty where it was not evaluated."""
    evaluations = [event for event in run.read_events("evaluation", agent=agent) if event["global_step"] == step]
    verdicts = [event for event in run.read_events("verdict", agent=agent) if event.get("chosen_step") == step]
    kept = {"seq", "kind", "agent", "crc", "time"}
    return {
        name: {key: value for key, value in events[-1].items() if key not in kept} if events else None
        for name, events in (("evaluation", evaluations), ("verdict", verdicts))
    }
