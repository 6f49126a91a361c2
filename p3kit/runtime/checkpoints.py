"""Checkpoints: flat dicts of tensors and plain values, written whole or not at all, and read without running code.

A file is one header line and a payload. The header names the format, the compression and the SHA-256 of the payload,
so a torn or altered file is refused by name instead of half loaded. Format 2 holds the card of each agent, format 1
does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zlib
from pathlib import Path
from typing import Any

import torch

from p3kit.errors import CheckpointError
from p3kit.rundir.rows import sync_folder

_MAGIC = "p3kit-checkpoint-"
FORMAT = 2
"""Version of the files that are written. Files of version 1 are read as well."""

Flat = dict[str, Any]
"""Key → tensor, int, float, str, bool or None. Keys are paths: `net/policy.0.weight`, `optimizer/3/exp_avg`."""


def save_checkpoint(path: Path, state: Flat, *, compress: bool) -> None:
    """Write `state` to `path`: temporary name, fsync, rename, so a kill leaves the old file or the new one.

    Raises CheckpointError when the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({key: _detached(value) for key, value in state.items()}, buffer)
    payload = buffer.getvalue()
    if compress:
        payload = zlib.compress(payload, level=1)  # weights hardly shrink; level 1 takes what is cheap to take
    header = f"{_MAGIC}{FORMAT} {'zlib' if compress else 'raw'} {hashlib.sha256(payload).hexdigest()}\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(header.encode())
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        remedy = "free some space or fix the folder, then p3kit resume"
        raise CheckpointError(str(path), f"cannot be written ({error.strerror or error})", remedy) from error
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk it cannot be removed, and the first error says why
            temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Flat:
    """Read a checkpoint. Raises CheckpointError when it is missing, torn, altered or in another format."""
    remedy = "start the run again"
    if path.stem != "init":
        remedy = "delete it: p3kit resume then begins at init.pt, the first checkpoint"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})", remedy) from error
    header, _, payload = raw.partition(b"\n")
    words = header.decode("ascii", errors="replace").split(" ")
    version = words[0].removeprefix(_MAGIC)
    if len(words) != 3 or not words[0].startswith(_MAGIC) or words[1] not in ("zlib", "raw") or not version.isdigit():
        raise CheckpointError(str(path), "is not a p3kit checkpoint", remedy)
    if not 1 <= int(version) <= FORMAT:
        what = f"has format {version}; this p3kit reads formats up to {FORMAT}"
        raise CheckpointError(str(path), what, "pip install -U p3kit")
    if hashlib.sha256(payload).hexdigest() != words[2]:
        raise CheckpointError(str(path), "is torn or altered: its checksum does not fit its content", remedy)
    try:
        payload = zlib.decompress(payload) if words[1] == "zlib" else payload
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except Exception as error:
        what = f"holds something else than tensors and plain values ({type(error).__name__})"
        raise CheckpointError(str(path), what, remedy) from error
    if not isinstance(state, dict):
        raise CheckpointError(str(path), "holds no dict of tensors", remedy)
    return state


def under(prefix: str, state: Flat) -> Flat:
    """Put `prefix/` before every key."""
    return {f"{prefix}/{key}": value for key, value in state.items()}


def part(prefix: str, state: Flat) -> Flat:
    """The entries below `prefix/`, without it."""
    start = f"{prefix}/"
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> Flat:
    """Moments and step counts by parameter position; hyperparameters are the spec's and are not stored."""
    states = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, moments in states.items() for name, value in moments.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Flat) -> None:
    """Restore what `optimizer_state` gave."""
    moments: dict[int, Flat] = {}
    for key, value in state.items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _detached(value: Any) -> Any:
    # a clone, since a view would write its whole storage
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
