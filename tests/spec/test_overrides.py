"""`--set` as shells hand it on: text without quotes, lists without brackets, and the user's own line in the hint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from p3kit.errors import SpecError
from p3kit.spec import find_trainer, load_spec
from p3kit.spec.field_types import alternatives, bare, key_paths, literals
from p3kit.spec.keypath import value_at_path
from p3kit.spec.knobs import knobs_model, read_knobs
from p3kit.spec.overrides import read_override
from p3kit.spec.validation import spec_model

MODEL = spec_model(knobs_model(read_knobs(find_trainer("ppo"))))


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\nsymbols = ["AAPL"]\n')
    return path


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("compute.device=cuda:0", "cuda:0"),
        ("name=2nd-try", "2nd-try"),
        ("name=my test", "my test"),
        ("name=2024", "2024"),
        ("name=2024-01-02", "2024-01-02"),
        ("name='x y'", "x y"),
        ("interventions=off", None),
        ("env.stop=off", "off"),
        ("env.stop=0.5", 0.5),
        ("data.columns.close=Adj Close", "Adj Close"),
        ("data.columns.close=4", 4),
        ("seeds=[3, 4]", (3, 4)),
        ("ppo.value_loss=huber", "huber"),
        ("criteria.minimum.entropy=off", "off"),
        ("agents.AAPL.ppo.value_loss=huber", None),
    ],
)
def test_text_needs_no_quotes_where_the_key_takes_text(override: str, value: Any, spec: Path) -> None:
    loaded = load_spec(spec, [override])
    if value is not None:
        found: Any = loaded.spec
        for part in override.partition("=")[0].split("."):
            found = getattr(found, part)
        assert found == value


def test_every_key_that_takes_text_takes_it_without_quotes() -> None:
    tried = 0
    for path in key_paths(MODEL):
        kind: Any = MODEL
        for part in path:
            kind = bare(kind)[0].model_fields[part].annotation
        words = literals(kind) or (
            ["5y 2nd:try/{symbol}"] if str in [bare(one)[0] for one in alternatives(kind)] else []
        )
        for word in words:
            tables = read_override(f"{'.'.join(path)}={word}", MODEL)
            assert value_at_path(tables, path) == word
            tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("seeds=1,2,3", "--set 'seeds=[1,2,3]'"),
        ("seeds=1 2 3", "--set 'seeds=[1, 2, 3]'"),
        ("seeds=5", "--set 'seeds=[5]'"),
        ("symbols=AAPL", "--set 'symbols=[\"AAPL\"]'"),
        ("symbols=[AAPL,BRK.B]", '--set \'symbols=["AAPL","BRK.B"]\''),
        ("ppo.hidden=64, 64", "--set 'ppo.hidden=[64, 64]'"),
        ("agents.AAPL.ppo.hidden=64,64", "--set 'agents.AAPL.ppo.hidden=[64,64]'"),
        ("env.sizes=0.1,0.2,0.3", "--set 'env.sizes=[0.1,0.2,0.3]'"),
        ("criteria.minimum.entropy=0.1,0.5", "--set 'criteria.minimum.entropy=[0.1,0.5]'"),
        ("matrix.ppo.value_loss=mse,huber", '--set \'matrix.ppo.value_loss=["mse","huber"]\''),
        ("tune.space.gamma=0.9,0.99", "--set 'tune.space.gamma=[0.9,0.99]'"),
        (
            "schedules.gamma={kind=linear,start=0.9,end=0.99}",
            "--set 'schedules.gamma={kind=\"linear\",start=0.9,end=0.99}'",
        ),
        (
            "data.walk_forward={train=5y,validation=1y,step=6m}",
            '--set \'data.walk_forward={train="5y",validation="1y",step="6m"}\'',
        ),
    ],
)
def test_the_hint_is_the_own_line_that_works_in_a_shell(override: str, hint: str, spec: Path) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(spec, [override])
    (fault,) = error.value.faults
    assert fault.where == f"--set {override}"
    assert fault.hint == f"write {hint}"
    _, typed = shlex.split(hint)
    read_override(typed, MODEL)


@pytest.mark.parametrize("override", ["seeds=[1", "symbols=['AAPL", "symbols=", "env=3", "data.split=0.7,0.1,0.2"])
def test_a_line_that_cannot_be_mended_is_shown_quoted(override: str, spec: Path) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(spec, [override])
    (fault,) = error.value.faults
    assert shlex.quote(override) in fault.hint or f"--set {override.partition('=')[0]}." in fault.hint


def test_a_long_override_is_cut_in_the_message(spec: Path) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(spec, [f"seeds={'9' * 5_000}"])
    assert len(str(error.value)) < 1_000
