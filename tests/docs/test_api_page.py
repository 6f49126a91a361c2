"""docs/api.md and docs/notebook.ipynb: the reference is that of the docstrings, and the examples run."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import p3kit
from tests.documented import ROOT

PAGE = ROOT / "docs" / "api.md"
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
BEGIN, END = re.findall(r"<!-- /?reference[^\n]*-->", PAGE.read_text(encoding="utf-8"))
FUNCTIONS = re.findall(r"\[`(\w+)`\]\(#", PAGE.read_text(encoding="utf-8"))


def reference() -> str:
    """A section per function: its signature and its docstring."""
    return "\n" + "\n".join(_section(name) for name in FUNCTIONS)


def _section(name: str) -> str:
    function = getattr(p3kit, name)
    parameters = inspect.signature(function).parameters.values()
    stars = [index for index, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY]
    words = [str(one.name) + (f"={_default(one)}" if one.default is not one.empty else "") for one in parameters]
    if stars:
        words.insert(stars[0], "*")
    return f"### {name}\n\n```text\n{name}({', '.join(words)})\n```\n\n{_text(inspect.getdoc(function) or '')}\n"


def _default(parameter: inspect.Parameter) -> str:
    whole = repr(parameter.default)
    return f"{type(parameter.default).__name__}()" if "(" in whole and whole != "()" else whole


def _text(docstring: str) -> str:
    """Sections of a docstring as markdown: headings in bold, arguments as lists, the example as code."""
    parts = re.split(r"^(Args|Returns|Raises|Example):\n", docstring, flags=re.M)
    text = [parts[0].strip()]
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = inspect.cleandoc(body)
        if heading == "Example":
            lines = f"```pycon\n{lines}\n```"
        elif heading != "Returns":
            lines = re.sub(r"\n +", " ", lines)
            lines = re.sub(r"^([\w, ]+): ", r"- `\1`: ", lines, flags=re.M)
        text.append(f"**{heading}**\n\n{lines}")
    return "\n\n".join(text) + "\n"


def test_the_reference_is_that_of_the_docstrings(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    current = head + reference() + tail
    if request.config.getoption("--refresh-golden"):
        PAGE.write_text(current, encoding="utf-8")
    assert current == PAGE.read_text(encoding="utf-8"), "refresh docs/api.md, then read the diff"


def test_every_function_of_the_api_is_in_the_table() -> None:
    functions = {name for name in p3kit.__all__ if inspect.isfunction(getattr(p3kit, name))}
    assert functions == set(FUNCTIONS)


def _cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _run(program: str, folder: Path) -> str:
    """Run a program in an empty folder, as a script of a user. Returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_examples_of_the_page_run_in_order(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    assert "run-1 done " in _run("\n".join(blocks), tmp_path)


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_order(tmp_path: Path) -> None:
    cells = "\n".join(_cells())
    _run(f"{cells}\nassert len(metrics) > 3\nassert plt.gcf().axes", tmp_path)
    assert (tmp_path / "runs" / "run-1" / "run.json").exists()


@pytest.mark.slow
def test_the_notebook_runs_in_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a real kernel: progress as plain lines, the DataFrame and the figure as outputs."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel then draws into the notebook
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "run-1/AAPL running" in outputs
    assert "text/html" in outputs
    assert "image/png" in outputs


def test_the_notebook_is_valid_and_holds_no_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | (
            {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        )
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    compile("\n".join(_cells()), str(NOTEBOOK), "exec")
