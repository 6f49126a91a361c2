"""Bounds of every number: each key and list item has two limits, and what lies beyond is refused with file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt

import p3kit
from p3kit.errors import SpecError
from p3kit.spec import find_trainer, load_spec
from p3kit.spec.field_types import BOUNDS, alternatives, bare, fields_by_key, is_table, of_field
from p3kit.spec.knobs import knobs_model, read_knobs
from p3kit.spec.models import derived_name
from p3kit.spec.shipped import shipped_trainers
from p3kit.spec.validation import spec_model
from tests.command import invoke

Number = tuple[str, type, dict[type, float]]
HEAD = 'name = "x"\nsymbols = ["AAPL"]\n'
ENDLESS = "9" * (sys.get_int_max_str_digits() + 1)


def numbers(kind: Any, path: str, seen: tuple[type, ...] = ()) -> Iterator[Number]:
    """Path, type and limits of every number that a type accepts, in its tables and lists too."""
    for member in alternatives(kind):
        core, marks = bare(member)
        if core in (int, float):
            yield (
                path,
                core,
                {type(mark): getattr(mark, BOUNDS[type(mark)][0]) for mark in marks if type(mark) in BOUNDS},
            )
        elif is_table(core):
            for key, field in fields_by_key(core).items() if core not in seen else ():
                yield from numbers(of_field(field), f"{path}.{key}".lstrip("."), (*seen, core))
        elif get_origin(core) in (tuple, dict):
            for item in get_args(core):
                yield from numbers(item, f"{path}[]", seen) if item is not ... else ()


def model_of(trainer: Path) -> Any:
    return spec_model(knobs_model(read_knobs(trainer)))


@pytest.mark.parametrize("trainer", sorted(shipped_trainers()))
def test_every_number_has_a_lowest_and_a_highest_value(trainer: str) -> None:
    found = list(numbers(model_of(find_trainer(trainer)), ""))
    assert len(found) > 100
    for path, _, limits in found:
        assert {Gt, Ge} & limits.keys(), f"{path} has no lowest value"
        assert {Lt, Le} & limits.keys(), f"{path} has no highest value"
        assert all(abs(limit) <= 10**12 for limit in limits.values()), path


def test_numbers_of_own_trainers_have_limits_where_the_author_states_none(tmp_path: Path) -> None:
    trainer = tmp_path / "own.py"
    fields = ["total_timesteps: int = 10", "layers: tuple[int | float, ...] = (4,)", "low: Annotated[int, Ge(3)] = 3"]
    trainer.write_text("class Args:\n" + "".join(f'    {one}\n    """Some."""\n' for one in fields))
    limits = {path: found for path, _, found in numbers(model_of(trainer), "") if path.startswith("ppo.")}
    assert limits["ppo.total_timesteps"] == limits["ppo.layers[]"] == {Ge: -(10**12), Le: 10**12}
    assert limits["ppo.low"] == {Ge: 3, Le: 10**12}


PLAIN = sorted(
    {path: kind for path, kind, _ in numbers(model_of(find_trainer("ppo")), "") if path.count("[]") < 2}.items()
)
"""Every key and list item that is a number, and whole or not."""
IN_LISTS_OF_TABLES = (
    "data.columns.own",
    "intervention",
    "schedules",
    "tune",
    "diagnose.rows",
    "baselines",
    "matrix",
    "data.walk_forward",
)


def line_of(path: str, number: str) -> str:
    value = f"[{number}, {number}, {number}]" if path == "env.sizes[]" else f"[{number}]" if "[]" in path else number
    return f"{path.removesuffix('[]')} = {value}\n"


@pytest.mark.parametrize("number", ["9" * 21, f"-{'9' * 21}", ENDLESS, f"-{ENDLESS}", f"0x{'f' * 5_000}", "1e300"])
def test_a_number_beyond_its_bounds_is_refused_with_file_and_line(number: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    tried = [key for key, _ in PLAIN if not key.startswith(IN_LISTS_OF_TABLES)]
    assert len(tried) > 60
    for key in tried:
        path.write_text(HEAD + line_of(key, number))
        with pytest.raises(SpecError) as error:
            load_spec(path)
        assert all(fault.where.startswith(f"{path}:3:") for fault in error.value.faults), key
        said = [fault.what for fault in error.value.faults if fault.what.startswith(key.removesuffix("[]"))]
        assert any("expected " in what and "number" in what for what in said), key


@pytest.mark.parametrize(
    "lines",
    [
        '[matrix]\n"ppo.n_epochs" = [1, {}]',
        '[tune.space]\n"ppo.n_epochs" = [1, {}]',
        '[tune.space]\n"ppo.gamma" = {{ low = 0.1, high = {} }}',
        "[agents.AAPL.ppo]\nn_epochs = {}",
        "[agents.AAPL.env]\nsizes = [0.1, 0.2, {}]",
        '[schedules]\n"ppo.gamma" = {{ kind = "linear", start = 0.1, end = {} }}',
        '[schedules]\n"ppo.gamma" = {{ kind = "piecewise", points = [[0.0, 0.9], [1.0, {}]] }}',
        '[[intervention]]\nid = "a"\non = "policy.hold"\ndo = [{{ set = "ppo.gamma", to = {} }}]',
        '[[intervention]]\nid = "a"\non = {{ metric = "progress", op = ">", value = {} }}\ndo = [{{ note = "x" }}]',
        "[diagnose.rows.\"policy.hold\"]\nwarn = {}",
        "[baselines.supervised]\ndefault = {}",
        "[data.columns.own]\nmood = {}",
        "[ppo]\nunknown = {}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", ["9" * 21, ENDLESS])
def test_in_every_kind_of_table(lines: str, number: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(HEAD + lines.format(number) + "\n")
    result = invoke("validate", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(line.startswith(f"{path}:") for line in result.stderr.splitlines())


def test_the_position_behind_a_long_number_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f'{HEAD}note = "{ENDLESS}" # {ENDLESS}\nppo = {{ batch_size = -{ENDLESS}, gama = 1 }}\n')
    with pytest.raises(SpecError) as error:
        load_spec(path)
    columns = [fault.where.rpartition(":")[2] for fault in error.value.faults if ":4:" in fault.where]
    assert columns == ["9", str(9 + len(f"batch_size = -{ENDLESS}, "))]


def test_overrides_and_flags_have_the_same_bounds(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(HEAD)
    for number in ("9" * 21, ENDLESS):
        with pytest.raises(SpecError, match=r"ppo\.n_epochs.*expected a whole number from 1 to 1,000"):
            load_spec(path, [f"ppo.n_epochs={number}"])


def test_a_rollout_has_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"{HEAD}ppo.n_steps = 1_000_000\nenv.num_envs = 65_536\n")
    with pytest.raises(SpecError, match=r"x\.toml:3:1: ppo\.n_steps = 1000000: n_steps × num_envs is 65,536,000,000"):
        load_spec(path)


@pytest.mark.parametrize(
    "line", ["ppo.n_steps = 1", "ppo.n_steps = 5_000\nenv.num_envs = 65_536", "ppo.batch_size = 20_000"]
)
def test_a_fault_of_several_sizes_names_a_line_of_the_spec(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"{HEAD}{line}\n")
    with pytest.raises(SpecError, match=r"x\.toml:[34]:1: ppo\."):
        load_spec(path)


@pytest.mark.parametrize("name", ["a", "x" * 64, "x" * 300, "é (1)", "-_. ", "nan", "..b", ""])
@pytest.mark.parametrize("suffix", ["", "-production"])
def test_a_derived_name_is_a_name(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    made = derived_name(name, suffix)
    path.write_text(f'name = "{made}"\nsymbols = ["AAPL"]\n')
    assert load_spec(path).spec.name == made
    assert made.endswith(suffix.lstrip("-"))


@pytest.mark.parametrize("line", ["ppo.ent_coef = 2.1", "reward.weights.pnl = 2e6", "reward.action_bonus = 1e12"])
def test_a_weight_that_makes_gradients_infinite_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"{HEAD}{line}\n")
    with pytest.raises(SpecError, match=r"x\.toml:3:"):
        load_spec(path)


AT_THE_LIMIT = {
    "entropy": "ppo = { ent_coef = 2, batch_size = 2, n_steps = 40, total_timesteps = 320, n_epochs = 1 }",
    "value": "ppo = { vf_coef = 1000, n_steps = 40, total_timesteps = 320, n_epochs = 1 }\n"
    'reward = { weights = { pnl = 1e6 }, action_bonus = 1e6, scaling = "none", clip = "off" }',
}


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
@pytest.mark.parametrize("lines", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_weights_at_their_limits_train(lines: str, trainer: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f'{HEAD}trainer = "{trainer}"\nenv.num_envs = 4\n{lines}\n')
    (run,) = p3kit.run_spec(path, 1, tmp_path / "runs", progress=False)
    assert run.state == "done", run.message
