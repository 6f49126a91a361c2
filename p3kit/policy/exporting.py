"""Write a trained agent as files that others can load: safetensors, ONNX, a JSON card, a reader in plain numpy."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from p3kit.errors import InputError
from p3kit.policy import reader
from p3kit.policy.exported import is_export
from p3kit.policy.loading import load_policy
from p3kit.policy.onnx_network import to_onnx
from p3kit.policy.policy_card import make_policy_card
from p3kit.policy.policy_readme import policy_readme
from p3kit.rundir import find_run, folder_of_runs
from p3kit.rundir.rows import sync_folder
from p3kit.runtime.card import weights_of
from p3kit.runtime.checkpoints import Flat, load_checkpoint
from p3kit.runtime.machine import precision_of

FILES = ("README.md", "card.json", "network.onnx", "policy.py", "weights.safetensors")
_OF_TRAINING = ("env", "reward", "loss_scale", "noise")
"""Parts of a whole checkpoint that the policy does not use, beside the optimisers."""


def export_policy(
    agent: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    checkpoint: str = "best",
    runs_root: str | Path | None = None,
) -> Path:
    """Write a trained agent into `folder`, for use without p3kit and PyTorch.

    The folder holds the network as ONNX, the weights as safetensors, `card.json` (features, normaliser, actions, mask,
    costs, spec, validation), `policy.py` (a reader that needs numpy and onnxruntime) and a README. It is written whole
    or not at all. An earlier export in it is replaced.

    Args:
        agent: `run-42/AAPL`, or a run that `open_run` returned; `run-42` is enough for a run of one agent.
        folder: The folder to write. A folder that holds anything but an export is refused.
        checkpoint: `best` (the weights that validation chose), `last`, or the name of a file in `checkpoints/`.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Raises:
        InputError: The folder is in use, or the agent or checkpoint is not found.
        MissingExtra: The packages of the extra `export` are not installed.

    Example:
        >>> p3kit.export_policy("run-42/AAPL", "exports/aapl")
    """
    place = Path(os.path.abspath(folder))  # noqa: PTH100  (a link is refused, not followed)
    _check_folder(place)
    run, _ = find_run(folder_of_runs(runs_root), os.fspath(agent))
    policy = load_policy(agent, checkpoint, runs_root=runs_root)
    name = policy.name.partition("/")[2]
    precision = str(precision_of(policy.spec, torch.device("cpu"))).removeprefix("torch.")
    network = to_onnx(policy.function, policy.name, precision, policy.observation_size, len(policy.action_names))
    card = make_policy_card(policy, run, name, precision)
    files = {
        "network.onnx": network,
        "weights.safetensors": _weights(load_checkpoint(run.checkpoint(policy.checkpoint)), policy.name),
        "policy.py": Path(reader.__file__).read_bytes(),
        "README.md": policy_readme(card).encode(),
    }
    card["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    _write_folder(place, files | {"card.json": json.dumps(card, indent=1).encode()})
    return place


def _weights(state: Flat, name: str) -> bytes:
    """The tensors of the policy as safetensors, by the names of the trainer."""
    tensors = {
        key: value.contiguous()
        for key, value in weights_of(state).items()
        if isinstance(value, Tensor)
        and "optimizer" not in key.partition("/")[0]
        and key.partition("/")[0] not in _OF_TRAINING
    }
    content: bytes = safetensors.torch.save(tensors, {"policy": name})
    return content


def _check_folder(folder: Path) -> None:
    """Raise InputError unless `folder` does not exist, is empty, or is an earlier export."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(str(folder), "is not a folder", "give the path of a folder")
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if not held:
        return
    foreign = sorted(held - set(FILES))
    if foreign or not is_export(folder):
        what = f"holds {foreign[0]}, which is not an export file" if foreign else "holds files, but no export"
        raise InputError(str(folder), what, "give the path of a new folder")


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write `files` as the whole content of `folder`. An error or an interrupt leaves the earlier export in place."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        new, old = scratch / "new", scratch / "old"
        try:
            new.mkdir()
            for name, content in files.items():
                with (new / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            sync_folder(new)
            _check_folder(folder)  # again: a file may have been added meanwhile
            if folder.exists():
                folder.replace(old)
            new.replace(folder)
            sync_folder(folder.parent)
        finally:
            if old.exists() and not folder.exists():
                old.replace(folder)
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise InputError(
            str(folder), f"cannot be written ({error.strerror or error})", "give the path of another folder"
        ) from error
