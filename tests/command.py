"""The command line, called in the process of a test."""

from __future__ import annotations

from click.testing import CliRunner, Result

from p3kit.cli import main


def invoke(*words: object, answer: str | None = None) -> Result:
    """Call `p3kit WORDS`, with `answer` on its standard input. What is no error of click's is raised."""
    return CliRunner().invoke(main, [str(word) for word in words], input=answer, catch_exceptions=False)
