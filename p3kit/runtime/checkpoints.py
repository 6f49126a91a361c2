"""Checkpoints: flat dicts of tensors and plain values, written whole or not at all, and read without running code.

A file is in the safetensors format, which every reader of that format opens: tensors under their keys, plain values as
one JSON text in `__metadata__`, and the SHA-256 of the file beside it. A torn or altered file is refused by name. With
compression, one header line with the SHA-256 of what follows stands before the same bytes compressed by zlib.

Format 3 is that. Format 2 was written with `torch.save`, and format 1 as well, without the card of each agent.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from p3kit.errors import CheckpointError
from p3kit.rundir.rows import sync_folder

_MAGIC = "p3kit-checkpoint-"
FORMAT = 3
"""Version of the files that are written. Files of version 1 and 2 are read as well."""

_NO_CHECKSUM = "0" * 64
"""Stands in the place of the SHA-256 while it is computed."""

Flat = dict[str, Any]
"""Key → tensor, int, float, str, bool or None. Keys are paths: `net/policy.0.weight`, `optimizer/3/exp_avg`."""


def save_checkpoint(path: Path, state: Flat, *, compress: bool) -> None:
    """Write `state` to `path`: temporary name, fsync, rename, so a kill leaves the old file or the new one.

    Raises CheckpointError when the disk is full or the folder cannot be written.
    """
    payload, header = to_safetensors(state), b""
    if compress:
        payload = zlib.compress(payload, level=1)  # weights hardly shrink; level 1 takes what is cheap to take
        header = f"{_MAGIC}{FORMAT} zlib {hashlib.sha256(payload).hexdigest()}\n".encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(header)
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        remedy = "free some space or fix the folder, then p3kit resume"
        raise CheckpointError(str(path), f"cannot be written ({error.strerror or error})", remedy) from error
    finally:
        with contextlib.suppress(OSError):  # it fails on a read-only disk, too; the first error has the reason
            temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Flat:
    """Read a checkpoint of any format. Raises CheckpointError when it is missing, torn, altered or something else."""
    remedy = "start the run again"
    if path.stem != "init":
        remedy = "delete it: p3kit resume then begins at init.pt, the first checkpoint"
    try:
        state = _read(path.read_bytes())
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})", remedy) from error
    except _Refused as refused:
        raise CheckpointError(str(path), str(refused), refused.remedy or remedy) from refused
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in state.items()}


class _Refused(Exception):
    """The bytes are not a checkpoint of this version; the text completes "FILE ..."."""

    remedy = ""


class _Newer(_Refused):
    remedy = "pip install -U p3kit"

    def __init__(self, version: int) -> None:
        super().__init__(f"has format {version}; this p3kit reads formats up to {FORMAT}")


def _read(raw: bytes) -> Flat:
    if not raw.startswith(_MAGIC.encode()):
        return from_safetensors(raw)
    header, _, payload = raw.partition(b"\n")
    words = header.decode("ascii", errors="replace").split(" ")
    version = words[0].removeprefix(_MAGIC)
    if len(words) != 3 or words[1] not in ("zlib", "raw") or not version.isdigit() or version == "0":
        raise _Refused("is not a p3kit checkpoint")
    if int(version) > FORMAT:
        raise _Newer(int(version))
    if hashlib.sha256(payload).hexdigest() != words[2]:
        raise _Refused("is torn or altered: its checksum does not fit its content")
    try:
        payload = zlib.decompress(payload) if words[1] == "zlib" else payload
    except zlib.error as error:
        raise _Refused(f"cannot be decompressed ({error})") from error
    return from_safetensors(payload) if int(version) == FORMAT else _read_older(payload)


def _read_older(payload: bytes) -> Flat:
    """Read the content of formats 1 and 2, which was written with `torch.save`."""
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _Refused(f"contains other objects than tensors and plain values ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise _Refused("holds no dict of tensors")
    return state


def to_safetensors(state: Flat) -> bytes:
    """Return `state` as the bytes of a safetensors file, with plain values and a checksum in its metadata."""
    tensors = {key: _detached(value) for key, value in state.items() if isinstance(value, Tensor)}
    values = {key: _plain(key, value) for key, value in state.items() if key not in tensors}
    own = {"sha256": _NO_CHECKSUM, "format": FORMAT, "keys": list(state), "values": values}
    metadata = {"p3kit": json.dumps(own)}  # one key, since safetensors writes several in a random order
    content = safetensors.torch.save(tensors, metadata)
    place = content.index(_NO_CHECKSUM.encode())
    return b"".join((content[:place], _checksum(content, place), content[place + 64 :]))


def from_safetensors(content: bytes) -> Flat:
    """Return what `to_safetensors` wrote."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        own = json.loads(header["__metadata__"]["p3kit"])
        version, checksum, keys, values = int(own["format"]), str(own["sha256"]).encode(), own["keys"], own["values"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _Refused("is not a p3kit checkpoint") from error
    if version > FORMAT:
        raise _Newer(version)
    if len(checksum) != 64 or _checksum(content, content.index(checksum)) != checksum:
        raise _Refused("is torn or altered: its checksum does not fit its content")
    try:
        found = values | safetensors.torch.load(content)
        return {key: found[key] for key in keys}  # safetensors reads in a random order
    except Exception as error:
        raise _Refused(f"contains other objects than tensors and plain values ({type(error).__name__})") from error


def _checksum(content: bytes, place: int) -> bytes:
    """SHA-256 of a safetensors file in hex, with zeros at `place`, where it stands itself."""
    digest = hashlib.sha256(content[:place])
    digest.update(_NO_CHECKSUM.encode())
    digest.update(memoryview(content)[place + 64 :])
    return digest.hexdigest().encode()


def _plain(key: str, value: Any) -> Any:
    if value is None or isinstance(value, int | float | str):
        return value
    raise TypeError(f"{key}: a checkpoint holds tensors, int, float, str, bool and None, not {type(value).__name__}")


def _detached(value: Tensor) -> Tensor:
    # a clone, since safetensors refuses tensors that share memory
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def under(prefix: str, state: Flat) -> Flat:
    """Put `prefix/` before every key."""
    return {f"{prefix}/{key}": value for key, value in state.items()}


def part(prefix: str, state: Flat) -> Flat:
    """The entries below `prefix/`, without it."""
    start = f"{prefix}/"
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def state_hash(state: Flat) -> str:
    """SHA-256 of a state: of its names in order, and of every value."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode())
        found.update(value.cpu().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return found.hexdigest()


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
