"""p3kit.runtime.compiling: half a file in torch's cache is compiled again; other failures fall back to the function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.exc import InductorError

from p3kit.runtime.compiling import compiled_or_plain


def double(number: int) -> int:
    return 2 * number


class FakeCompiler:
    """Stands for torch.compile: its functions load the files `libraries`, as torch loads kernels."""

    def __init__(self, *libraries: Path) -> None:
        self.libraries = libraries

    def __call__(self, function: Any, mode: str | None = None) -> Any:
        def compiled(number: int) -> str:
            for library in self.libraries:
                if library.exists() and library.read_text(encoding="utf-8") != "whole":
                    raise InductorError(ImportError("file too short", path=str(library)), None)
            return f"compiled {function(number)}"

        return compiled


@pytest.fixture
def reasons() -> list[str]:
    return []


def test_half_a_kernel_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reasons: list[str]) -> None:
    torn, other, whole = (tmp_path / f"{name}.so" for name in ("torn", "other", "whole"))
    for path, text in ((torn, ""), (other, "who"), (whole, "whole")):
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(torch, "compile", FakeCompiler(torn, whole, other))
    call = compiled_or_plain(double, reasons.append, on_cuda=False)
    assert call(2) == "compiled 4"
    assert (torn.exists(), other.exists(), whole.exists(), reasons) == (False, False, True, [])


def test_a_kernel_that_stays_torn_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reasons: list[str]
) -> None:
    torn = tmp_path / "torn.so"

    class Broken(FakeCompiler):
        def __call__(self, function: Any, mode: str | None = None) -> Any:
            def compiled(number: int) -> int:
                torn.write_text("", encoding="utf-8")
                raise InductorError(ImportError("file too short", path=str(torn)), None)

            return compiled

    monkeypatch.setattr(torch, "compile", Broken())
    call = compiled_or_plain(double, reasons.append, on_cuda=False)
    assert [call(2), call(3)] == [4, 6]
    assert reasons == ["ImportError: file too short"]
