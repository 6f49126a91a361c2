"""Promises of the language as a whole: words, defaults, packs, shipped specs, schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from p3kit.market.sample import SYMBOLS
from p3kit.metrics import COMPONENTS
from p3kit.spec import (
    Spec,
    agent_spec,
    field_types,
    find_trainer,
    get_path,
    load_spec,
    resolve_spec,
    shipped_specs,
    shipped_trainers,
)
from p3kit.spec.actions import VERBS
from p3kit.spec.conditions import named_symptoms
from p3kit.spec.expansion import PACKS, read_pack
from p3kit.spec.field_types import live_paths
from p3kit.spec.interventions import Intervention
from p3kit.spec.knobs import knobs_model, read_knobs
from p3kit.spec.models import SAMPLE_SYMBOLS, Weights, parse_range
from p3kit.spec.notes import notes
from p3kit.spec.schema import schema_text
from p3kit.spec.validation import spec_model
from p3kit.symptoms import SYMPTOMS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def spec() -> Spec:
    return resolve_spec({"name": "smallest", "symbols": ["AAPL"]}, "a test")


@pytest.mark.parametrize("path", shipped_specs(), ids=lambda path: path.name)
def test_every_shipped_spec_loads(path: Path) -> None:
    loaded = load_spec(path)
    assert loaded.source_text.startswith("#:schema ./p3kit.schema.json")
    for symbol in loaded.spec.symbols:
        for point in loaded.spec.points():
            agent_spec(loaded.spec, symbol, point)


def test_there_are_shipped_specs_and_trainers() -> None:
    assert {"smoke.toml", "phase3.toml"} <= {path.name for path in shipped_specs()}
    assert find_trainer("ppo") == shipped_trainers()["ppo"]


def test_the_committed_schema_is_current() -> None:
    committed = (ROOT / "specs" / "p3kit.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), "run: p3kit schema > specs/p3kit.schema.json"


def test_the_schema_knows_every_word() -> None:
    schema = json.loads(schema_text())
    assert set(schema["properties"]) == {*Spec.model_fields, "extends", "interventions", "validated"}
    knobs = schema["properties"]["ppo"].get("$ref", "").split("/")[-1] or "Knobs"
    described = schema["$defs"][knobs]["properties"]
    shipped = [read_knobs(file) for file in shipped_trainers().values()]
    assert set(described) == {knob.name for knobs in shipped for knob in knobs}
    assert described["patch"]["description"].endswith("(ppo_shared only)")
    assert all(field["description"] for field in described.values())
    assert "null" not in schema_text()


def models(kind: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    for member in field_types.alternatives(kind):
        core, _ = field_types.bare(member)
        if field_types.is_table(core) and core not in seen:
            seen.add(core)
            yield core
            for field in core.model_fields.values():
                yield from models(field_types.of_field(field), seen)
        else:
            for argument in getattr(core, "__args__", ()):
                yield from models(argument, seen) if not isinstance(argument, str) else ()


def test_every_field_has_a_sentence() -> None:
    whole = spec_model(knobs_model(read_knobs(find_trainer("ppo"))))
    found = list(models(whole, set()))
    assert len(found) > 40
    for model in found:
        assert model.__doc__
        for key, field in field_types.fields_by_key(model).items():
            assert field.description, f"{model.__name__}.{key}"


def test_defaults_are_the_guides(spec: Spec) -> None:
    guide = {
        "ppo.learning_rate": 3e-4, "ppo.n_steps": 2048, "ppo.batch_size": 64, "ppo.n_epochs": 10, "ppo.gamma": 0.99,
        "ppo.gae_lambda": 0.95, "ppo.clip_range": 0.2, "ppo.ent_coef": 0.01, "ppo.vf_coef": 0.5,
        "ppo.max_grad_norm": 0.5, "ppo.target_kl": 0.015, "ppo.total_timesteps": 100_000, "env.num_envs": 8,
        "observation.clip": 10.0, "reward.clip": 10.0, "checkpoints.every": 10_000, "checkpoints.keep_best": 3,
        "evaluation.every": 5_000,
        "early_stop.patience": 5, "early_stop.min_delta": 0.01, "early_stop.stretch_sharpe": 0.8,
        "criteria.minimum.validation_sharpe": 0.3, "criteria.minimum.entropy": (0.5, 1.5),
        "criteria.strong.validation_sharpe": 0.5, "criteria.strong.max_drawdown": 0.2,
    }  # fmt: skip
    assert {path: get_path(spec, path) for path in guide} == guide
    assert [getattr(spec.reward.weights, name) for name in COMPONENTS] == [0.40, 0.15, 0.15, 0.05, 0.10, 0.05, 0.0]


def test_words_shared_with_other_modules() -> None:
    assert SAMPLE_SYMBOLS == SYMBOLS
    assert tuple(Weights.model_fields) == COMPONENTS


def test_live_numbers(spec: Spec) -> None:
    live = set(live_paths(type(spec)))
    assert {"ppo.learning_rate", "ppo.ent_coef", "ppo.clip_range", "ppo.target_kl", "reward.weights.cost"} <= live
    assert not live & {"ppo.n_steps", "ppo.batch_size", "ppo.n_epochs", "ppo.init_gain", "env.num_envs", "env.window"}
    for path in live:
        get_path(spec, path)


@pytest.mark.parametrize("path", ["ppo.gama", "nothing", "ppo.gamma.deeper", ""])
def test_no_such_path(spec: Spec, path: str) -> None:
    with pytest.raises(KeyError):
        get_path(spec, path)


def test_the_spec_cannot_be_changed(spec: Spec) -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"


def test_points_multiply() -> None:
    tables = {
        "name": "x",
        "symbols": ["AAPL"],
        "matrix": {"gamma": [0.9, 0.99], "reward.weights.cost": [0.1, 0.2, 0.3]},
    }
    points = resolve_spec(tables, "a test").points()
    assert len(points) == 6
    assert points[0] == {"ppo.gamma": 0.9, "reward.weights.cost": 0.1}
    assert points[-1] == {"ppo.gamma": 0.99, "reward.weights.cost": 0.3}


def test_days() -> None:
    first, last = parse_range("2010-01-01..2018-12-31")
    assert (first.year, last.month) == (2010, 12)
    with pytest.raises(ValueError, match="ends before it starts"):
        parse_range("2018-12-31..2010-01-01")


# --- interventions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACKS)
def test_packs_are_right(pack: str) -> None:
    spec = resolve_spec({"name": "x", "symbols": ["AAPL"], "interventions": pack}, "a test")
    assert len(spec.intervention) == len(read_pack(pack)) > 0
    assert spec.diagnose.mode == "act"


def test_own_interventions_follow_the_pack() -> None:
    own = {"id": "mine", "on": "policy.hold", "do": [{"note": "seen"}]}
    tables = {"name": "x", "symbols": ["AAPL"], "interventions": "guide", "intervention": [own]}
    assert resolve_spec(tables, "a test").intervention[-1].id == "mine"


def test_every_verb_can_be_written() -> None:
    actions: list[dict[str, Any]] = [
        {"set": "ppo.ent_coef", "to": 0.05, "until": {"env_steps": 10_000}},
        {"scale": "ppo.learning_rate", "by": 0.5, "min": 1e-5, "ramp": {"updates": 2}},
        {"add": "reward.weights.cost", "by": 0.05, "max": 0.3},
        {"rollback": "last_good", "else": "init"},
        {"reinit": "dormant"},
        {"freeze": "normalizer"},
        {"normalize": "observations"},
        {"dump": "episode_replay", "episodes": 3},
        {"stop": "fail"},
        {"note": "done"},
    ]
    assert [next(iter(action)) for action in actions] == list(VERBS)
    rule = {"id": "all", "on": {"any": ["policy.hold", {"not": "policy.uniform"}]}, "do": actions}
    tables = {"name": "x", "symbols": ["AAPL"], "intervention": [rule]}
    spec = resolve_spec(tables, "a test")
    assert [type(action) for action in spec.intervention[0].actions()] == list(VERBS.values())
    assert resolve_spec(spec.model_dump(mode="json"), "again") == spec


LEFT_BY_GUIDE = {
    "obs.scale": "the guide clips observations, which the environment does anyway; the pack repair normalizes them",
    "multi.interference": "no row of the guide's; the pack repair normalizes the rewards of the agent that outweighs",
    "net.rank": "follows opt.step_too_big, net.dormant or a reward row, each of which has a rule",
}
"""Rows that a change of the catalogue fixes but no rule of the pack, each with the reason."""


LEFT_BY_REPAIR = {
    "net.rank": "follows opt.step_too_big, net.dormant or a reward row, each of which has a rule",
    "opt.grad": "follows the size of rewards or observations, each of which has a rule; by itself clipping answers it",
}
"""Rows with an automatic repair that no rule of the pack is on: why."""


def symptoms_of(rule: Intervention) -> set[str]:
    """Every symptom in any part of a rule's trigger."""
    named = {name for trigger in rule.on or () for name in named_symptoms(trigger)}
    return named | {name.partition(":")[0] for name in rule.unless or ()}


def test_the_guide_pack_has_a_rule_for_what_can_be_repaired() -> None:
    """Every row with an automatic repair, and every row of the guide with an instruction, has a rule on it."""
    spec = resolve_spec({"name": "x", "symbols": ["AAPL"], "interventions": "guide"}, "a test")
    covered = {name for rule in spec.intervention for name in symptoms_of(rule)}
    repairable = {row.id for row in SYMPTOMS.values() if row.automatic}
    assert repairable - covered == set(LEFT_BY_GUIDE)
    looked_at = {"gen.gap", "reward.bimodal", "reward.corr", "reward.one_sign", "reward.tail"}
    assert looked_at | {"policy.early_entropy", "run.oom"} <= covered


def test_what_the_pack_changes_for_a_while_has_an_end() -> None:
    """The guide raises the entropy bonus and the weights "temporarily"; a permanent bonus pays for churn."""
    spec = resolve_spec({"name": "x", "symbols": ["AAPL"], "interventions": "guide"}, "a test")
    for name in ("guide-all-hold-entropy", "guide-all-hold-penalties", "guide-all-hold-diversity"):
        (rule,) = [rule for rule in spec.intervention if rule.id == name]
        assert all(action.until != "permanent" for action in rule.actions())  # type: ignore[attr-defined]


def test_the_repair_pack_has_a_rule_for_every_automatic_repair() -> None:
    spec = resolve_spec({"name": "x", "symbols": ["AAPL"], "interventions": "repair"}, "a test")
    covered = {name for rule in spec.intervention for name in symptoms_of(rule)}
    repairable = {row.id for row in SYMPTOMS.values() if row.automatic}
    assert repairable - covered == set(LEFT_BY_REPAIR)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("name", ["phase3", "smoke"])
def test_nothing_in_a_pack_is_left_unapplied(name: str, pack: str) -> None:
    loaded = load_spec(ROOT / "specs" / f"{name}.toml", [f'interventions="{pack}"'])
    assert not [note for note in notes(loaded) if "not applied" in note or f"{pack}-" in note]


def test_the_mode_follows_the_interventions(spec: Spec) -> None:
    assert spec.diagnose.mode == "watch"
    rule = {"id": "a", "on": "policy.hold", "do": [{"note": "seen"}]}
    base = {"name": "x", "symbols": ["AAPL"], "intervention": [rule]}
    assert resolve_spec(base, "a test").diagnose.mode == "act"
    assert resolve_spec({**base, "diagnose": {"mode": "watch"}}, "a test").diagnose.mode == "watch"
