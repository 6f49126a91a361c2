"""`validate`, `show` and `schema` as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p3kit.spec import agent_spec, load_spec
from p3kit.spec.schema import schema_text
from tests.command import invoke

Golden = Callable[[str, str], None]
ROOT = Path(__file__).parents[2]

NOTED = """
name = "noted"
symbols = ["AAPL", "AMD"]
seeds = [1, 2]
interventions = "guide"
start_date = 2027-01-04

[data]
path = "nowhere/{symbol}.csv"
synthetic = { edge = 0.0 }

[env]
fill = "close"
backend = "scalar"

[reward]
formulas = "guide"
action_bonus = 0.01
weights = { pnl = 0.9 }

[ppo]
learning_rate = 3e-3
gamma = 0.995
batch_size = 96

[schedules]
learning_rate = { kind = "linear", start = 3e-4, end = 1e-5 }

[evaluation]
every = 20_000

[early_stop]
patience = 20

[criteria.minimum]
entropy = [1.4, 1.9]

[agents.AMD]
ppo = { learning_rate = 1e-5 }

[diagnose]
mode = "act"

[[intervention]]
id = "together"
on = { metric = "policy/kl_divergence", op = ">", value = 0.1 }
scope = "run"
do = [{ note = "x" }]

[matrix]
gae_lambda = [0.9, 0.95]

[tune]
space = { gamma = [0.9, 0.99] }
"""


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("noted.toml").write_text(NOTED)
    return "noted.toml"


def test_validate_says_what_is_worth_knowing(noted: str, golden: Golden) -> None:
    result = invoke("validate", noted)
    assert result.exit_code == 0
    golden("spec/notes.txt", result.stdout)


def test_validate_as_json(noted: str) -> None:
    right, wrong = invoke("validate", noted, "--json"), invoke("validate", noted, "--json", "--set", "ppo.gamma=2")
    assert (right.exit_code, wrong.exit_code) == (0, 2)
    assert json.loads(right.stdout)["valid"] is True
    assert json.loads(right.stdout)["notes"]
    fault = {"where": "--set ppo.gamma=2", "what": "ppo.gamma = 2: expected a number from 0 to 1", "hint": ""}
    assert json.loads(wrong.stdout) == {"valid": False, "faults": [fault], "notes": []}


def test_show_tells_origins_and_can_be_read_again(noted: str) -> None:
    shown = invoke("show", noted, "--set", "ppo.vf_coef=0.7").stdout
    assert "[agents.AMD.ppo]\nlearning_rate = 1e-05                                   # noted.toml:39:9\n" in shown
    lines = {line.split(" = ")[0]: line.split("# ")[-1] for line in shown.splitlines() if " = " in line}
    assert lines["vf_coef"] == "--set ppo.vf_coef=0.7"
    assert lines["n_steps"] == "default"
    Path("shown.toml").write_text(shown)
    assert load_spec("shown.toml").spec == load_spec(noted, ["ppo.vf_coef=0.7"]).spec


def test_show_as_json(noted: str) -> None:
    shown = json.loads(invoke("show", noted, "--json").stdout)
    assert shown["spec"]["env"]["fill"] == "close"
    assert shown["origins"]["env.fill"] == "noted.toml:13:1"


def test_show_of_a_run(noted: str) -> None:
    from p3kit.rundir import RunDir
    from p3kit.spec import find_trainer

    spec = load_spec(noted).spec
    agent = {"name": "AMD", "symbol": "AMD", "spec": agent_spec(spec, "AMD", {}).model_dump(mode="json")}
    info = {"name": "noted", "spec": spec.model_dump(mode="json"), "agents": [agent]}
    RunDir.create(Path("runs"), info, NOTED, find_trainer("ppo"))
    run = json.loads(invoke("show", "run-1", "--json").stdout)
    assert run["spec"] == info["spec"]
    assert (run["origins"]["ppo.gamma"], run["origins"]["ppo.n_steps"]) == ("spec.toml:23:1", "default")
    assert json.loads(invoke("show", "latest/AMD", "--json").stdout)["spec"]["ppo"]["learning_rate"] == 1e-5
    assert invoke("show", "run-1", "--set", "ppo.gamma=1").exit_code == 2


def test_show_of_nothing(noted: str) -> None:
    result = invoke("show", "run-7")
    assert result.exit_code == 2
    assert "run-7" in result.stderr


def test_schema() -> None:
    assert invoke("schema").stdout == schema_text()
    assert invoke("schema", "--trainer", "sac").exit_code == 2


def test_validate_is_light() -> None:
    """Nothing heavy is imported to check a spec."""
    code = (
        "import sys; from p3kit.cli import main; main(['validate', 'specs/phase3.toml'], standalone_mode=False); "
        "heavy = {'torch', 'aim', 'matplotlib', 'envpool', 'pandas', 'ray', 'optuna', 'gymnasium'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
