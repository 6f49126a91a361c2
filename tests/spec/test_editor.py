"""Tests of an editor with the `#:schema` line, through a TOML language server (tombi): red lines and hover texts.

`tox -e editor` has tombi; where it is missing these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p3kit.spec import shipped_specs
from p3kit.spec.starter import start_spec

ROOT = Path(__file__).parents[2]
TOMBI = shutil.which("tombi", path=str(Path(sys.executable).parent)) or shutil.which("tombi")
pytestmark = pytest.mark.skipif(TOMBI is None, reason="tombi is not installed: pip install tombi, or tox -e editor")

WRONG = """#:schema ./p3kit.schema.json
name = "x"
symbols = ["AAPL"]

[ppo]
clip_rang = 0.2
gamma = 2
patch = 4

[env]
fill = "nxt"
"""


class Editor:
    """The part of an editor that talks to a language server: the Language Server Protocol over its pipes."""

    def __init__(self, folder: Path) -> None:
        self._server = subprocess.Popen(
            [str(TOMBI), "lsp", "--offline"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._number = 0
        self._told: list[dict[str, Any]] = []
        self.ask("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": {}})
        self._send("initialized", {})

    def close(self) -> None:
        self._server.kill()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            assert pipe is not None
            pipe.close()

    def open(self, path: Path) -> list[dict[str, Any]]:
        """Opens a file; what is underlined in it."""
        document = {"uri": path.as_uri(), "languageId": "toml", "version": 1, "text": path.read_text()}
        self._send("textDocument/didOpen", {"textDocument": document})
        report = self.ask("textDocument/diagnostic", {"textDocument": {"uri": path.as_uri()}})
        return list(report["items"])

    def hover(self, path: Path, word: str) -> str:
        """Hover text of the first `word` of a file."""
        line, text = next((i, text) for i, text in enumerate(path.read_text().splitlines()) if text.startswith(word))
        position = {"line": line, "character": text.index(word) + 1}
        answer = self.ask("textDocument/hover", {"textDocument": {"uri": path.as_uri()}, "position": position})
        return json.dumps(answer, ensure_ascii=False)

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        self._number += 1
        self._send(method, params, self._number)
        while True:
            message = self._receive()
            if message.get("id") == self._number and "method" not in message:
                assert "error" not in message, message
                return message["result"]
            if "id" in message:  # a request of the server to the editor, which has no answer
                self._write({"jsonrpc": "2.0", "id": message["id"], "result": None})

    def _send(self, method: str, params: dict[str, Any], number: int | None = None) -> None:
        self._write({"jsonrpc": "2.0", "method": method, "params": params} | ({"id": number} if number else {}))

    def _write(self, message: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        body = json.dumps(message).encode()
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._server.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        length = 0
        while line := self._server.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        assert length, "the language server has ended"
        message: dict[str, Any] = json.loads(self._server.stdout.read(length))
        return message


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[Editor]:
    shutil.copy(ROOT / "specs" / "p3kit.schema.json", tmp_path)
    editor = Editor(tmp_path)
    yield editor
    editor.close()


@pytest.mark.parametrize("spec", shipped_specs(), ids=lambda path: path.stem)
def test_nothing_is_underlined_in_a_shipped_spec(spec: Path) -> None:
    told = subprocess.run([str(TOMBI), "lint", "--offline", str(spec)], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def test_nothing_is_underlined_in_the_starter_nor_in_one_for_a_trainer_of_ones_own(tmp_path: Path) -> None:
    trainer = tmp_path / "my_ppo.py"
    text = (ROOT / "trainers" / "ppo.py").read_text()
    knob = "    learning_rate: Annotated[float, Gt(0), Le(1)] = 3e-4\n"
    trainer.write_text(text.replace(knob, '    own_knob: float = 1.0\n    """Mine."""\n' + knob, 1))
    start_spec(tmp_path / "mine.toml", bars=None, trainer=str(trainer), overwrite=False)
    start_spec(tmp_path / "first.toml", bars=None, trainer=None, overwrite=False)
    mine = tmp_path / "mine.toml"
    mine.write_text(mine.read_text().replace("[ppo]\n", "[ppo]\nown_knob = 2.0\n"))
    told = subprocess.run([str(TOMBI), "lint", "--offline", "."], capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr


def test_slips_are_underlined_where_they_are(editor: Editor, tmp_path: Path) -> None:
    spec = tmp_path / "wrong.toml"
    spec.write_text(WRONG)
    underlined = {WRONG.splitlines()[item["range"]["start"]["line"]]: item["message"] for item in editor.open(spec)}
    assert set(underlined) == {"clip_rang = 0.2", "gamma = 2", 'fill = "nxt"'}
    assert "clip_rang" in underlined["clip_rang = 0.2"]


def test_descriptions_show(editor: Editor, tmp_path: Path) -> None:
    spec = tmp_path / "wrong.toml"
    spec.write_text(
        WRONG.replace("clip_rang ", "clip_range ").replace("gamma = 2", "gamma = 0.9").replace("nxt", "next")
    )
    editor.open(spec)
    assert "How far the probability ratio may leave 1" in editor.hover(spec, "clip_range")
    assert "ppo_shared only" in editor.hover(spec, "patch")
    assert "At the next bar's open" in editor.hover(spec, "fill")
