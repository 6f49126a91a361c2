"""Checkpoints are whole or refused, and never run code."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from p3kit.errors import CheckpointError
from p3kit.runtime.checkpoints import (
    FORMAT,
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    part,
    save_checkpoint,
    under,
)

STATE = {"net/weight": torch.randn(3, 4, dtype=torch.float64), "step": 7, "rate": 0.1, "name": "AAPL", "none": None}

TENSORS = {
    "bf16": torch.tensor([1.5, -0.0, math.inf], dtype=torch.bfloat16),
    "fp16": torch.tensor([65_504.0, 6e-8], dtype=torch.float16),
    "fp32": torch.tensor([[1e-45, math.nan]]),
    "fp64": torch.tensor([0.1, -math.inf], dtype=torch.float64),
    "int64": torch.tensor([2**63 - 1, -(2**63)]),
    "int32": torch.tensor([-1], dtype=torch.int32),
    "int16": torch.tensor([-1], dtype=torch.int16),
    "int8": torch.tensor([-128], dtype=torch.int8),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "number": torch.tensor(0.1, dtype=torch.float64),
    "flag": torch.tensor(True),
    "empty": torch.empty(0, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "part": torch.arange(6.0)[1::2],
    "parameter": torch.nn.Parameter(torch.ones(2)),
}
SHARED = torch.arange(4.0)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize("compress", [True, False])
def test_what_is_saved_comes_back(tmp_path: Path, compress: bool) -> None:
    save_checkpoint(tmp_path / "last.pt", STATE, compress=compress)
    state = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(state.pop("net/weight"), STATE["net/weight"])
    assert state == {key: value for key, value in STATE.items() if key != "net/weight"}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("compress", [True, False])
def test_tensors_of_every_kind_come_back_exactly(tmp_path: Path, compress: bool) -> None:
    shared = {"one": SHARED, "same": SHARED, "view": SHARED[2:]}
    save_checkpoint(tmp_path / "last.pt", TENSORS | shared, compress=compress)
    state = load_checkpoint(tmp_path / "last.pt")
    assert list(state) == list(TENSORS | shared), "the order is kept"
    for name, expected in (TENSORS | shared).items():
        assert (state[name].dtype, state[name].shape) == (expected.dtype, expected.shape), name
        assert state[name].numpy(force=True).tobytes() == _bytes(expected) if name != "bf16" else True, name
        assert torch.equal(state[name].nan_to_num(), expected.detach().nan_to_num()), name
    state["one"][3] = -1.0
    assert (state["same"][3], state["view"][1], SHARED[3]) == (3.0, 3.0, 3.0), "tensors do not share memory"


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes() if tensor.dtype != torch.bfloat16 else b""


@given(st.dictionaries(st.text(min_size=1), PLAIN))
def test_plain_values_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("run") / "last.pt"
    save_checkpoint(path, values, compress=False)
    found = load_checkpoint(path)
    assert list(found) == list(values)
    assert {key: _exactly(value) for key, value in found.items()} == {k: _exactly(v) for k, v in values.items()}


def _exactly(value: Any) -> Any:
    """The type of a value and its bits; every NaN counts as the same."""
    if isinstance(value, float):
        return float, struct.pack("d", math.nan if math.isnan(value) else value)
    return type(value), value


@pytest.mark.parametrize("value", [[1], (1,), {"a": 1}, b"x", Path("x"), object()])
def test_other_values_are_refused_when_they_are_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"net/x: a checkpoint holds tensors, int, float, str, bool and None, not \w+"):
        save_checkpoint(tmp_path / "last.pt", {"net/x": value}, compress=False)
    assert not list(tmp_path.iterdir())


def test_any_reader_of_safetensors_opens_an_uncompressed_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", STATE, compress=False)
    with safe_open(tmp_path / "last.pt", framework="numpy") as file:
        assert file.keys() == ["net/weight"]
        assert (file.get_tensor("net/weight") == STATE["net/weight"].numpy()).all()


@pytest.mark.parametrize("compress", [True, False])
def test_equal_states_make_equal_files(tmp_path: Path, compress: bool) -> None:
    for name in ("one", "other"):
        save_checkpoint(tmp_path / name, STATE | TENSORS, compress=compress)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("version", range(1, FORMAT))
@pytest.mark.parametrize("compress", [True, False])
def test_an_older_checkpoint_can_be_read(tmp_path: Path, compress: bool, version: int) -> None:
    whole = io.BytesIO()
    torch.save(STATE, whole)
    payload = zlib.compress(whole.getvalue()) if compress else whole.getvalue()
    header = f"p3kit-checkpoint-{version} {'zlib' if compress else 'raw'} {hashlib.sha256(payload).hexdigest()}\n"
    (tmp_path / "last.pt").write_bytes(header.encode() + payload)
    state = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(state["net/weight"], STATE["net/weight"])
    assert state["rate"] == 0.1
    assert list(state) == list(STATE)


@pytest.mark.parametrize("compress", [True, False])
def test_a_flipped_byte_is_refused(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"net/weight": torch.arange(3.0), "step": 7}, compress=compress)
    whole = path.read_bytes()
    altered = [whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :] for i in range(len(whole))]
    torn = [whole[:i] for i in range(len(whole))]
    for damaged in (*altered, *torn, whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.pt: "):
            load_checkpoint(path)


def test_a_torn_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE, compress=False)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="torn or altered"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "harm"),))  # type: ignore[return-value]

    (tmp_path / "last.pt").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(CheckpointError, match="not a p3kit checkpoint"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "text", ["{}", "[]", "[" * 9_000, '{"__metadata__": {"p3kit": "[]"}}', '{"__metadata__": 3}', "NaN"]
)
def test_a_foreign_safetensors_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "last.pt").write_bytes(struct.pack("<Q", len(text)) + text.encode())
    with pytest.raises(CheckpointError, match="not a p3kit checkpoint"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize("how", ["pickle", "torch.save", "noise"])
def test_what_is_harmful_is_refused_under_a_right_checksum_too(tmp_path: Path, how: str) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "harm"),))  # type: ignore[return-value]

    whole = io.BytesIO()
    if how == "torch.save":
        torch.save({"step": Harm()}, whole)
    payload = {"pickle": pickle.dumps(Harm()), "torch.save": whole.getvalue(), "noise": b"PK" + b"x" * 500}[how]
    path = tmp_path / "last.pt"
    for version, fault in (
        (1, "contains other objects than tensors .*"),
        (2, "contains other objects.*"),
        (FORMAT, "is not a.*"),
    ):
        path.write_bytes(f"p3kit-checkpoint-{version} raw {hashlib.sha256(payload).hexdigest()}\n".encode() + payload)
        with pytest.raises(CheckpointError, match=rf"last\.pt: {fault}; delete it: p3kit resume"):
            load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("compress", [True, False])
def test_a_newer_format_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    path = tmp_path / "last.pt"
    with monkeypatch.context() as newer:
        newer.setattr("p3kit.runtime.checkpoints.FORMAT", 99)
        save_checkpoint(path, STATE, compress=compress)
    with pytest.raises(CheckpointError, match=f"has format 99; this p3kit reads formats up to {FORMAT}; pip"):
        load_checkpoint(path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE, compress=True)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        CheckpointError, match=r"last\.pt: cannot be written \(No space left on device\); free some space"
    ):
        save_checkpoint(path, {"step": 8}, compress=True)
    assert load_checkpoint(path)["step"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_optimizer_goes_on_where_it_was(tmp_path: Path) -> None:
    def adam() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(5))
        return weight, torch.optim.AdamW([weight], lr=0.1, fused=True)

    def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        weight.grad = weight.detach() * torch.arange(5)
        optimizer.step()

    one, first = adam()
    step(one, first)
    save_checkpoint(tmp_path / "a.pt", under("optimizer", optimizer_state(first)), compress=True)
    two, second = adam()
    two.data = one.data.clone()
    load_optimizer_state(second, part("optimizer", load_checkpoint(tmp_path / "a.pt")))
    step(one, first)
    step(two, second)
    assert torch.equal(one, two)
