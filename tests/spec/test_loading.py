"""Files on top of files, overrides on top of those, and where every value came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from p3kit.errors import InputError, SpecError
from p3kit.spec import LoadedSpec, agent_spec, load_spec, resolve_spec
from p3kit.spec.shipped import find_spec, shipped_specs

Write = Callable[[str, str], Path]
BASE = """
name = "base"
symbols = ["AAPL", "AMD"]
seeds = [1, 2]

[ppo]
learning_rate = 1e-4
gamma = 0.9

[schedules]
clip_range = { kind = "linear", start = 0.3, end = 0.1 }
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file below the current directory, which is empty."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def child(write: Write, text: str, *overrides: str) -> LoadedSpec:
    write("base.toml", BASE)
    return load_spec(write("child.toml", 'extends = "base.toml"\n' + text), overrides)


def test_tables_merge_and_lists_and_scalars_replace(write: Write) -> None:
    spec = child(write, 'name = "child"\nseeds = [7]\n[ppo]\ngamma = 0.95\n').spec
    assert (spec.name, spec.seeds, spec.symbols) == ("child", (7,), ("AAPL", "AMD"))
    assert (spec.ppo.gamma, spec.ppo.learning_rate, spec.ppo.n_epochs) == (0.95, 1e-4, 10)


def test_a_schedule_of_another_kind_replaces(write: Write) -> None:
    spec = child(write, '[schedules]\nclip_range = { kind = "constant", value = 0.2 }\n').spec
    assert spec.schedules["ppo.clip_range"].model_dump() == {"kind": "constant", "value": 0.2}


def test_later_overrides_win(write: Write) -> None:
    overrides = ["ppo.gamma=0.5", "ppo.gamma = 0.6", "env.fill=close", 'name="by hand"', "seeds=[3, 4]"]
    spec = child(write, "", *overrides).spec
    assert (spec.ppo.gamma, spec.env.fill, spec.name, spec.seeds) == (0.6, "close", "by hand", (3, 4))


def test_every_origin_is_told(write: Write) -> None:
    origins = child(write, "\n[ppo]\ngamma = 0.95\n", "ppo.ent_coef=0.05").origins
    assert origins["ppo.gamma"] == "child.toml:4:1"
    assert origins["ppo.learning_rate"] == "base.toml:7:1"
    assert origins["ppo.ent_coef"] == "--set ppo.ent_coef=0.05"
    assert origins["ppo.n_steps"] == "default"
    assert origins['schedules."ppo.clip_range".start'] == "base.toml:11:33"


def test_several_bases_in_order(write: Write) -> None:
    write("one.toml", 'name = "one"\nsymbols = ["AAPL"]\nseeds = [1]\n')
    write("two.toml", 'name = "two"\nseeds = [2]\n')
    spec = load_spec(write("both.toml", 'extends = ["one.toml", "two.toml"]\nsymbols = ["AMD"]\n')).spec
    assert (spec.name, spec.seeds, spec.symbols) == ("two", (2,), ("AMD",))


def test_a_base_may_be_extended_twice(write: Write) -> None:
    """Two ways to one base are no circle."""
    write("base.toml", BASE)
    write("one.toml", 'extends = "base.toml"\n')
    write("two.toml", 'extends = "base.toml"\n')
    assert load_spec(write("both.toml", 'extends = ["one.toml", "two.toml"]\n')).spec.name == "base"


def test_faults_of_all_files_at_once(write: Write) -> None:
    write("base.toml", BASE.replace("gamma", "gama"))
    path = write("child.toml", 'extends = "base.toml"\n[env]\nwindow = 0\n')
    with pytest.raises(SpecError) as error:
        load_spec(path, ["env.fil=next"])
    assert str(error.value).splitlines() == [
        '--set env.fil=next: env.fil = "next": unknown key; did you mean "fill"?',
        'base.toml:8:1: ppo.gama = 0.9: unknown key; did you mean "gamma"?',
        "child.toml:3:1: env.window = 0: expected a whole number from 1 to 10,000",
    ]


def test_paths_are_relative_to_their_file(write: Write) -> None:
    """The spec may move around; the run must not hold the path of somebody's home."""
    write("specs/base.toml", 'name = "x"\nsymbols = ["A"]\n[data]\nsource = "csv"\npath = "../bars/{symbol}.csv"\n')
    spec = load_spec(write("specs/deep/child.toml", 'extends = "../base.toml"\n').resolve()).spec
    assert spec.data.path == "bars/{symbol}.csv"


def test_a_trainer_of_ones_own(write: Write) -> None:
    write(
        "mine/slow.py",
        'class Args:\n    total_timesteps: int = 10\n    """Env steps."""\n    speed: float = 0.5\n    """Speed."""\n',
    )
    path = write("mine/spec.toml", 'name = "x"\nsymbols = ["AAPL"]\ntrainer = "slow.py"\n[ppo]\nspeed = 0.1\n')
    spec = load_spec(path).spec
    assert spec.trainer == "mine/slow.py"
    assert spec.ppo.model_dump() == {"total_timesteps": 10, "speed": 0.1}
    again = resolve_spec(spec.model_dump(mode="json"), "run.json")
    assert again == spec


def test_a_run_reads_the_knobs_of_the_trainer_that_ran(write: Write) -> None:
    """A run directory keeps its trainer.py: what the shipped one has become is of no interest to it."""
    copy = write(
        "run/trainer.py",
        'class Args:\n    total_timesteps: int = 10\n    """Env steps."""\n    old: float = 1.0\n    """Gone."""\n',
    )
    tables = {"name": "x", "symbols": ["AAPL"], "trainer": "ppo", "ppo": {"old": 2}}
    assert resolve_spec(tables, "run.json", copy).ppo.old == 2.0


def test_carriage_returns_and_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes('\ufeffname = "x"\r\nsymbols = ["AAPL"]\r\n[ppo]\r\ngamma = 0.5\r\n'.encode())
    assert load_spec(path).origins["ppo.gamma"] == f"{path}:4:1"


def test_dotted_names_and_bare_names(write: Write) -> None:
    text = (
        BASE
        + 'reward.weights.cost = { kind = "constant", value = 0.1 }\n'
        + "[matrix]\nppo.gamma = [0.9]\ngae_lambda = [0.9, 1]\n"
    )
    spec = load_spec(write("spec.toml", text)).spec
    assert set(spec.schedules) == {"ppo.clip_range", "reward.weights.cost"}
    assert spec.points() == [{"ppo.gamma": 0.9, "ppo.gae_lambda": 0.9}, {"ppo.gamma": 0.9, "ppo.gae_lambda": 1}]


def test_an_agents_own_values(write: Write) -> None:
    text = BASE + '[agents.AMD]\nppo = { gamma = 0.8 }\nschedules = { ent_coef = { kind = "constant", value = 0.1 } }\n'
    spec = load_spec(write("spec.toml", text)).spec
    amd = agent_spec(spec, "AMD", {"reward.weights.cost": 0.3, "ppo.learning_rate": 1})
    assert (amd.ppo.gamma, amd.reward.weights.cost, amd.ppo.learning_rate) == (0.8, 0.3, 1.0)
    assert set(amd.schedules) == {"ppo.clip_range", "ppo.ent_coef"}
    assert agent_spec(spec, "AAPL", {}).ppo.gamma == 0.9
    assert (amd.agents, amd.matrix) == ({}, {})


def test_a_combination_at_fault_names_the_agent() -> None:
    tables = {"name": "x", "symbols": ["AAPL"]}
    spec = resolve_spec(tables, "a test")
    with pytest.raises(SpecError, match=r"agent AAPL, ppo.batch_size = 99999: ppo.batch_size = 99999: larger than"):
        agent_spec(spec, "AAPL", {"ppo.batch_size": 99_999})


def test_a_shipped_spec_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_spec(Path("specs/phase3.toml")) in shipped_specs()
    (tmp_path / "specs").mkdir()
    own = Path("specs/phase3.toml")
    own.write_text('name = "own"\nsymbols = ["AAPL"]\n')
    assert find_spec(own) == own
    for typo in ("specs/phas3.toml", "specs/phase3.tml"):
        with pytest.raises(InputError, match=rf'{re.escape(typo)}: no such file; did you mean "specs/phase3\.toml"\?'):
            find_spec(Path(typo))
