"""Hypothesis strategies: specs that are right, as the plain tables a user could write.

Values are drawn from the models' own types and bounds, so a new field is covered the day it is added. What a validator
ties together (three shares that sum to 1, rising sizes) has a strategy by hand.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from hypothesis import strategies as st
from pydantic import BaseModel

from p3kit.spec import find_trainer
from p3kit.spec.base_model import Table
from p3kit.spec.feature_names import BUILT_IN
from p3kit.spec.field_types import BOUNDS, alternatives, bare, child, fields_by_key, is_table, live_paths, of_field
from p3kit.spec.knobs import knobs_model, read_knobs
from p3kit.spec.models import SAMPLE_SYMBOLS
from p3kit.spec.validation import spec_model

MODEL = spec_model(knobs_model(read_knobs(find_trainer("ppo"))))
LIVE = sorted(live_paths(MODEL))


# --- from types -------------------------------------------------------------------------------------------------------


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values that a type accepts, None left out."""
    return st.one_of([_values_of_one(member) for member in alternatives(kind)])


def tables(model: type[BaseModel], **by_hand: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Sparse tables of a model: any of its keys may be absent."""
    fields = fields_by_key(model).items()
    optional = {key: by_hand[key] if key in by_hand else values(of_field(field)) for key, field in fields}
    return st.fixed_dictionaries({}, optional=optional)


def _values_of_one(member: Any) -> st.SearchStrategy[Any]:
    core, marks = bare(member)
    limits = {type(mark): getattr(mark, BOUNDS[type(mark)][0]) for mark in marks if type(mark) in BOUNDS}
    if get_origin(core) is Literal:
        return st.sampled_from(get_args(core))
    if core is str and any(isinstance(mark, MinLen) for mark in marks):
        return st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
    if core is bool:
        return st.booleans()
    if core is int:
        low, high = limits.get(Ge, limits.get(Gt, 0) + 1), limits.get(Le, limits.get(Lt, 0) - 1)
        return st.sampled_from([low, high]) | st.integers(low, high)
    if core is float:
        return _floats(limits)
    if get_origin(core) is tuple and get_args(core)[-1] is ...:
        return st.lists(values(get_args(core)[0]), min_size=1, max_size=3)
    if get_origin(core) is dict:
        return st.dictionaries(
            st.from_regex(r"[a-z][a-z_ ]{0,9}", fullmatch=True), values(get_args(core)[1]), max_size=3
        )
    if is_table(core):
        return tables(core)
    raise TypeError(f"{core} needs a strategy by hand")


def _floats(limits: dict[type, float]) -> st.SearchStrategy[float]:
    low, high = limits.get(Ge, limits.get(Gt)), limits.get(Le, limits.get(Lt))
    return st.floats(
        low, high, exclude_min=Gt in limits, exclude_max=Lt in limits and Le not in limits, allow_subnormal=False
    )


# --- by hand ----------------------------------------------------------------------------------------------------------


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Any]:
    """Three shares that sum to 1, or three ranges of days in order."""
    if draw(st.booleans()):
        parts = draw(st.lists(st.integers(1, 50), min_size=3, max_size=3))
        shares = [part / sum(parts) for part in parts]
        return dict(zip(("train", "validation", "test"), shares, strict=True))
    days = sorted(draw(st.lists(st.dates(date(1990, 1, 1), date(2030, 1, 1)), min_size=6, max_size=6, unique=True)))
    ranges = [f"{first}..{last}" for first, last in zip(days[::2], days[1::2], strict=True)]
    return dict(zip(("train", "validation", "test"), ranges, strict=True))


def sizes() -> st.SearchStrategy[list[float]]:
    """Three rising shares."""
    return st.lists(st.integers(1, 100), min_size=3, max_size=3, unique=True).map(
        lambda s: [n / 100 for n in sorted(s)]
    )


WEIGHTS = st.floats(0.01, 2.0)


def observation(*, own: bool) -> st.SearchStrategy[dict[str, Any]]:
    """At least one feature; columns of the user only where there are files."""
    features = st.just("all") | st.lists(st.sampled_from(BUILT_IN), min_size=1, unique=True)
    columns = st.lists(st.sampled_from(["mood", "News Score", "%B", "é"]), unique=True, max_size=4 if own else 0)
    return tables(_model_at("observation"), features=features, columns=columns)


def reward() -> st.SearchStrategy[dict[str, Any]]:
    """Weights above 0, so that no combination of a base and an agent rewards nothing."""
    weights = st.fixed_dictionaries({}, optional=dict.fromkeys(_keys("reward", "weights"), WEIGHTS))
    return tables(_model_at("reward"), weights=weights)


def criteria() -> st.SearchStrategy[dict[str, Any]]:
    entropy = st.tuples(st.floats(0, 1), st.floats(1.01, 2)).map(list) | st.just("off")
    minimum = tables(_model_at("criteria", "minimum"), entropy=entropy)
    return tables(_model_at("criteria"), minimum=minimum)


def knobs() -> st.SearchStrategy[dict[str, Any]]:
    """`[ppo]` with minibatches that fit into the rollout of a single env."""
    return tables(_model_at("ppo"), n_steps=st.integers(64, 4096), batch_size=st.integers(2, 64))


def live_values(path: str) -> st.SearchStrategy[float]:
    """Numbers that the key at `path` accepts."""
    kind: Any = MODEL
    for part in path.split("."):
        kind = child(kind, part)
    if path.startswith("reward.weights."):
        return WEIGHTS
    return _values_of_one(next(member for member in alternatives(kind) if bare(member)[0] is float))


@st.composite
def schedule(draw: st.DrawFn, path: str) -> dict[str, Any]:
    """Any kind of schedule that stays within the bounds of its key."""
    number = live_values(path)
    kind = draw(st.sampled_from(["constant", "linear", "cosine", "exponential", "piecewise"]))
    if kind == "constant":
        return {"kind": kind, "value": draw(number)}
    if kind == "piecewise":
        progress = sorted(draw(st.sets(st.floats(0, 1), min_size=1, max_size=4)))
        return {"kind": kind, "points": [[at, draw(number)] for at in progress]}
    ends = number.filter(lambda value: value > 0) if kind == "exponential" else number
    return {"kind": kind, "start": draw(ends), "end": draw(ends)}


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    """By full path, or by bare name where that is short for it."""
    paths = draw(st.lists(st.sampled_from(LIVE), max_size=3, unique=True))
    names = [path.removeprefix("ppo.") if draw(st.booleans()) else path for path in paths]
    return {name: draw(schedule(path)) for name, path in zip(names, paths, strict=True)}


@st.composite
def matrices(draw: st.DrawFn) -> dict[str, Any]:
    paths = draw(st.lists(st.sampled_from(LIVE), max_size=2, unique=True))
    return {path: draw(st.lists(live_values(path), min_size=1, max_size=3, unique=True)) for path in paths}


INTERVENTIONS: list[dict[str, Any]] = [
    {
        "on": "policy.hold",
        "cause": ["ent_coef_low"],
        "release": {"metric": "policy/entropy_norm", "op": ">", "value": 0.25, "patience": 2},
        "do": [{"scale": "ppo.ent_coef", "by": 5.0, "max": 0.1, "until": "release", "ramp": {"updates": 2}}],
    },
    {
        "on": {"all": ["policy.uniform", {"not": {"metric": "progress", "op": "<", "value": 0.5}}]},
        "do": [{"rollback": "last_good", "else": "init"}, {"add": "gamma", "by": -0.01, "min": 0.5}],
    },
    {"on": ["num.nan:observation"], "do": [{"dump": "minibatch"}, {"stop": "fail"}]},
    {
        "controller": {
            "key": "ppo.learning_rate", "metric": "policy/kl_divergence", "target": 0.01, "min": 1e-5, "max": 1e-2,
        }
    },
]  # fmt: skip
"""One of each shape."""


@st.composite
def interventions(draw: st.DrawFn) -> list[dict[str, Any]]:
    chosen = draw(st.lists(st.sampled_from(INTERVENTIONS), max_size=3))
    return [{"id": f"rule-{number}", **rule} for number, rule in enumerate(chosen)]


@st.composite
def spec_tables(draw: st.DrawFn) -> dict[str, Any]:
    """A whole spec, sparse, as tomli would give it."""
    source = draw(st.sampled_from(["sample", "synthetic", "csv", "parquet"]))
    names = (
        st.sampled_from(SAMPLE_SYMBOLS)
        if source == "sample"
        else st.from_regex(r"[A-Z0-9][A-Z0-9._^=-]{0,9}", fullmatch=True)
    )
    symbols = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    by_bars = {"path": st.nothing() | st.just("bars/{symbol}.csv"), "walk_forward": st.nothing()}  # hangs on real days
    data = draw(tables(_model_at("data"), split=splits(), **by_bars))
    if source in ("csv", "parquet"):
        data["path"] = "bars/{symbol}." + source
    by_hand = {
        "observation": observation(own=source in ("csv", "parquet")),
        "env": tables(_model_at("env"), sizes=sizes(), max_position=st.just(1.0)),
        "reward": reward(),
        "ppo": knobs(),
        "schedules": schedules(),
        "compute": tables(_model_at("compute"), device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1"])),
        "evaluation": tables(_model_at("evaluation")),
        "checkpoints": tables(_model_at("checkpoints")),
        "early_stop": tables(_model_at("early_stop")),
        "criteria": criteria(),
        "agents": st.dictionaries(
            st.sampled_from(symbols),
            st.fixed_dictionaries({}, optional={"reward": reward(), "early_stop": tables(_model_at("early_stop"))}),
        ),
        "intervention": interventions(),
        "matrix": matrices(),
        "baselines": st.just({"supervised": {"default": -0.88, symbols[0]: 0.1}}),
        "diagnose": st.just({"mode": "watch", "rows": {"policy.hold": {"warn": 0.95, "patience": 3}}}),
        "tune": st.just({"space": {"ppo.learning_rate": {"low": 1e-4, "high": 1e-3}, "ppo.batch_size": [32, 64]}}),
        "start_date": st.dates(date(2000, 1, 1), date(2040, 1, 1)),
        "seeds": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
        "interventions": st.sampled_from(["guide", "off"]),
    }  # fmt: skip
    name = draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,20}", fullmatch=True))
    optional = draw(st.fixed_dictionaries({}, optional=by_hand))
    if optional.keys() & {"schedules", "matrix", "agents"}:  # they would win over what tuning tries, which is a fault
        optional.pop("tune", None)
    return {"name": name, "symbols": symbols, **optional, "data": {**data, "source": source}}


def _model_at(*path: str) -> type[Table]:
    kind: Any = MODEL
    for part in path:
        kind = child(kind, part)
    model: type[Table] = bare(kind)[0]
    return model


def _keys(*path: str) -> list[str]:
    return list(fields_by_key(_model_at(*path)))
