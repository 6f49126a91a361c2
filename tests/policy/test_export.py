"""`p3kit export --policy`: a process without p3kit and PyTorch gets the same decisions from the folder alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import p3kit
from p3kit.env import TradingEnv
from p3kit.market import Bars, load_market
from p3kit.metrics import ACTIONS
from p3kit.policy.onnx_network import onnx_session, to_onnx
from p3kit.rundir import RunDir
from p3kit.runtime import load_checkpoint
from p3kit.runtime.checkpoints import part
from p3kit.runtime.policy import LoadedPolicy
from p3kit.spec import shipped_trainers
from tests.command import invoke
from tests.market.made import frame_of
from tests.policy.test_predict import BARS, train

FILES = {"README.md", "card.json", "network.onnx", "policy.py", "weights.safetensors"}
ALONE = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("p3kit", "torch", "pandas", "safetensors", "onnx", "onnxscript"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return p3kit.export_policy(str(run), tmp_path_factory.mktemp("exports") / "aaa")


def alone(folder: Path, *arguments: str) -> list[Any]:
    """Run `policy.py` in a process that can import only numpy and onnxruntime. Returns its JSON documents."""
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "policy.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [json.loads(line) for line in lines] if "--from" in arguments else [json.loads(done.stdout)]


def walk(policy: p3kit.Policy, run: Path, split: str = "validation") -> tuple[list[str], list[float]]:
    """Actions and equity of one continuous account over the split, in the environment."""
    market = load_market(policy.spec, [policy.symbol], RunDir(run).paths_from())
    first, end = market[policy.symbol].splits["validation"]
    env = TradingEnv(market, policy.spec, symbols=[policy.symbol], split=split, num_envs=1, continuous=True)
    step = env.reset_windows(torch.tensor([0]), torch.tensor([first]), torch.tensor([end - 1]))
    actions, equity = [], []
    while step.alive:
        time = market[policy.symbol].timestamps[step.bar.numpy()]
        action = policy.act(env.observe(step.index, step.account).numpy(), step.mask.numpy(), time)
        step = env.step(torch.from_numpy(action))
        actions.append(ACTIONS[int(action[0])])
        equity.append(step.equity.item())
    return actions, equity


def write_plain(bars: Bars, path: Path) -> Path:
    frame_of(bars).to_csv(path)
    return path


def check_same_walk(run: Path, folder: Path, bars: Bars, tmp_path: Path) -> None:
    policy = p3kit.load_policy(str(run))
    days = json.loads((folder / "card.json").read_text())["data"]["split_days"]["validation"]
    file = write_plain(bars, tmp_path / "bars.csv")
    steps = alone(folder, str(file), "--from", days[0], "--to", days[1])
    actions, equity = walk(policy, run)
    assert [step["action"] for step in steps] == actions
    assert [step["equity_at_next_close"] for step in steps] == equity
    (backtest,) = p3kit.evaluate_run(str(run))
    curve = [step["equity_at_next_close"] / policy.spec.env.initial_capital for step in steps]
    assert curve == pytest.approx(backtest.result["curves"]["equity"], rel=1e-12, abs=0)
    assert len(set(actions)) > 1, "a policy that always holds compares nothing"


def test_a_stranger_gets_the_actions_of_the_validation_split(run: Path, folder: Path, tmp_path: Path) -> None:
    check_same_walk(run, folder, BARS, tmp_path)


@pytest.mark.parametrize(
    ("action", "explained"),
    [pytest.param("sampled", "SHA-256", marks=pytest.mark.slow), ("sharpened", "fourth power")],
)
def test_a_stranger_gets_the_actions_of_other_rules_too(tmp_path: Path, action: str, explained: str) -> None:
    run = train(tmp_path, action=action)
    folder = p3kit.export_policy(str(run), tmp_path / "export")
    card = json.loads((folder / "card.json").read_text())
    assert card["action_rule"] == action
    assert explained in card["action_rule_means"]
    check_same_walk(run, folder, BARS, tmp_path)
    assert p3kit.load_policy(folder).predict(frame_of(BARS)).action == p3kit.load_policy(str(run)).predict(BARS).action


@pytest.mark.slow
@pytest.mark.parametrize("trainer", shipped_trainers())
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_so_does_one_of_every_trainer(trainer: str, precision: str, tmp_path: Path) -> None:
    run = train(tmp_path, trainer, "running", precision=precision)
    folder = p3kit.export_policy(str(run), tmp_path / "export")
    name = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
    assert json.loads((folder / "card.json").read_text())["network"]["precision"] == name
    check_same_walk(run, folder, BARS, tmp_path)


def test_it_decides_for_any_account_as_predict_does(run: Path, folder: Path, tmp_path: Path) -> None:
    policy, exported = p3kit.load_policy(str(run)), p3kit.load_policy(folder)
    frame, close = frame_of(BARS), float(BARS.close[-1])
    file = write_plain(BARS, tmp_path / "bars.csv")
    accounts = [
        None,
        p3kit.Account(cash=5_000.0),
        p3kit.Account(cash=500.0, start_capital=100_000.0),
        p3kit.Account(cash=50_000.0, shares=300.0, entry_price=close * 0.99, bars_held=3),
        p3kit.Account(cash=10.0, shares=9.0, entry_price=close * 1.2, bars_held=25, adds=2, max_drawdown=0.2),
        p3kit.Account(cash=100.0, shares=1.0, entry_price=close, start_capital=100_000.0, last_action="SELL_HALF"),
    ]
    for account in accounts:
        path = tmp_path / "account.json"
        path.write_text(json.dumps(account.to_dict() if account else {"cash": policy.spec.env.initial_capital}))
        (found,) = alone(folder, str(file), str(path))
        for decision in (policy.predict(frame, account), exported.predict(frame, account)):
            assert found["action"] == decision.action
            order = None if decision.order is None else {name: getattr(decision.order, name) for name in found["order"]}
            assert found["order"] == (order and {**order, "quantity": pytest.approx(order["quantity"], rel=1e-12)})
            assert found["valid"] == {name: reason is None for name, reason in decision.valid.items()}
            assert list(found["probabilities"].values()) == pytest.approx(
                list(decision.probabilities.values()), abs=1e-6
            )
            assert found["value"] == pytest.approx(decision.value, abs=1e-4)


def test_the_folder_is_what_its_card_says(run: Path, folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert {path.name for path in folder.iterdir()} == FILES
    assert card["files"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES - {"card.json"}
    }
    assert str(run.parent).encode() not in b"".join((folder / name).read_bytes() for name in FILES)
    policy = p3kit.load_policy(str(run))
    assert card["observation"]["size"] == policy.observation_size
    assert [row["name"] for row in card["features"]["list"]] == list(policy.feature_names)
    evaluation = card["validation"]["evaluation"]
    assert evaluation["metrics"]["eval/total_return"] is not None
    assert "sharpe_interval" in evaluation
    weights = part("trainer", load_checkpoint(run / "checkpoints" / "last.pt"))
    saved = load_file(folder / "weights.safetensors")
    assert set(saved) == {
        name for name in weights if name.startswith(("net/", "observation/")) and name[-5:] != "count"
    }
    assert "SYNTHETIC" not in (folder / "README.md").read_text()


def test_an_exported_policy_is_loaded_without_code(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for name in ("card.json", "network.onnx"):
        shutil.copy(folder / name, tmp_path / "copy")
    policy, own = p3kit.load_policy(tmp_path / "copy"), p3kit.load_policy(str(run))
    assert (policy.name, policy.spec, policy.recipe, policy.checkpoint) == (
        own.name,
        own.spec,
        own.recipe,
        own.checkpoint,
    )
    assert walk(policy, run) == walk(own, run)


def test_a_damaged_or_newer_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    network = bytearray((folder / "network.onnx").read_bytes())
    network[500] ^= 1
    (copy / "network.onnx").write_bytes(network)
    with pytest.raises(p3kit.InputError, match=r"network\.onnx: is torn or altered"):
        p3kit.load_policy(copy)
    (copy / "network.onnx").unlink()
    with pytest.raises(p3kit.InputError, match=r"network\.onnx: cannot be read"):
        p3kit.load_policy(copy)
    shutil.copy(folder / "network.onnx", copy)
    card = json.loads((folder / "card.json").read_text())
    for change, fault in (({"format": 2}, "has format 2; .*pip install"), ({"data": None}, "is damaged")):
        (copy / "card.json").write_text(json.dumps(card | change))
        with pytest.raises(p3kit.InputError, match=fault):
            p3kit.load_policy(copy)


def test_an_interrupted_export_keeps_the_earlier_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = p3kit.export_policy(str(run), tmp_path / "policy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace = Path.replace
    for at in (1, 2):  # the first rename takes the earlier export away, the second one brings the new one
        calls = iter(range(1, 10))

        def interrupted(path: Path, target: Path, at: int = at, calls: Iterator[int] = calls) -> Path:
            if next(calls) == at:
                raise KeyboardInterrupt
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            p3kit.export_policy(str(run), folder)
        monkeypatch.undo()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_foreign_folder_is_refused_and_an_export_replaced(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        p3kit.InputError, match=r"holds notes\.txt, which is not an export file; give the path of a new folder"
    ):
        p3kit.export_policy(str(run), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(p3kit.InputError, match="is not a folder"):
        p3kit.export_policy(str(run), tmp_path / "file")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    with pytest.raises(p3kit.InputError, match="holds files, but no export"):
        p3kit.export_policy(str(run), mine)
    assert (mine / "README.md").read_text() == "mine"
    shutil.copytree(folder, tmp_path / "again")
    (tmp_path / "again" / "README.md").write_text("old")
    p3kit.export_policy(str(run), tmp_path / "again", "last")
    assert "old" not in (tmp_path / "again" / "README.md").read_text()[:3]
    assert json.loads((tmp_path / "again" / "card.json").read_text())["trained"]["checkpoint"] == "last.pt"


def test_a_failed_write_leaves_the_old_folder(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for name in ("old", "new"):
        with pytest.raises(p3kit.InputError, match=rf"{name}: cannot be written \(No space left on device\)"):
            p3kit.export_policy(str(run), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert all((tmp_path / "old" / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_the_command_writes_and_refuses(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "aaa"
    arguments = ["export", "run-1/AAA", "--runs", str(run.parent), "--policy", str(place)]
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["card"]["name"] == "run-1/AAA"
    for wrong in (["--format", "yaml"], ["--output", "x.toml"], ["--name", "x"]):
        refused = invoke(*arguments, *wrong)
        assert refused.exit_code == 2
        assert f"{wrong[0]}: does not go with --policy" in refused.stderr
    refused = invoke("export", "run-1", "--runs", run.parent, "--checkpoint", "last")
    assert refused.exit_code == 2
    assert "--checkpoint: goes with --policy only" in refused.stderr


@pytest.mark.parametrize("package", [pytest.param("onnxscript", marks=pytest.mark.slow), "onnxruntime"])
def test_the_extra_is_named_where_it_is_missing(run: Path, folder: Path, package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import p3kit; p3kit.export_policy({str(run)!r}, 'x')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"needs the package '{package}', which is not installed; pip install 'p3kit[export]'" in done.stderr


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_network_of_mixed_precision_is_rounded_as_pytorch_rounds(precision: torch.dtype) -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(30, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))

    def function(observation: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = net(observation).float()
        return out[:, :7].masked_fill(~mask, torch.finfo(torch.float32).min).log_softmax(-1), out[:, 7]

    policy = LoadedPolicy(function, lambda rows: rows, lambda: torch.autocast("cpu", dtype=precision))
    network = onnx_session(to_onnx(policy, "a test", str(precision).removeprefix("torch."), 30, 7))
    observation, mask = torch.randn(500, 30), torch.rand(500, 7) < 0.7
    mask[:, 0] = True
    logits, _ = network.run(["logits", "value"], {"observation": observation.numpy(), "mask": mask.numpy()})
    expected = policy(observation, mask)[0].numpy()
    full = LoadedPolicy(function, lambda rows: rows)(observation, mask)[0].numpy()
    valid = mask.numpy()
    assert np.abs(logits - expected)[valid].mean() < 0.05 * np.abs(full - expected)[valid].mean()
    assert (logits.argmax(-1) == expected.argmax(-1)).all()


def test_a_network_that_onnx_cannot_express_is_refused() -> None:
    def function(observation: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value = observation.sum(-1)
        if value[0] > 0:  # depends on the data
            value = -value
        return torch.where(mask, 0.0, -1e9).log_softmax(-1), value

    with pytest.raises(p3kit.P3kitError, match="a test: its network cannot be written as ONNX: "):
        to_onnx(LoadedPolicy(function, lambda rows: rows), "a test", "float32", 5, 7)
