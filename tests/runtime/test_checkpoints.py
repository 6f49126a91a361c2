"""Checkpoints are whole or refused, and never run code."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("compress", [True, False])
def test_what_is_saved_comes_back(tmp_path: Path, compress: bool) -> None:
    save_checkpoint(tmp_path / "last.pt", STATE, compress=compress)
    state = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(state.pop("net/weight"), STATE["net/weight"])
    assert state == {key: value for key, value in STATE.items() if key != "net/weight"}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("position", [0, 30, 200, -1])
def test_a_flipped_byte_is_refused(tmp_path: Path, position: int) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE, compress=True)
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0x10
    path.write_bytes(raw)
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
    path.write_bytes(f"p3kit-checkpoint-{FORMAT} raw {hashlib.sha256(payload).hexdigest()}\n".encode() + payload)
    with pytest.raises(CheckpointError, match=r"holds something else than tensors .*; delete it: p3kit resume"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_format_1_is_read_and_a_newer_one_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE, compress=True)
    written = path.read_bytes()
    assert written.startswith(f"p3kit-checkpoint-{FORMAT} ".encode())
    path.write_bytes(written.replace(f"checkpoint-{FORMAT}".encode(), b"checkpoint-1", 1))
    assert load_checkpoint(path).keys() == STATE.keys()
    path.write_bytes(written.replace(f"checkpoint-{FORMAT}".encode(), b"checkpoint-99", 1))
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
