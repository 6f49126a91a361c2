"""The rich console of every table and live board: foreign text is inert, and outside a terminal nothing is cut."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import rich.console
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from p3kit import escape
from p3kit.agent_labels import shorter_labels
from p3kit.terminal import LastingStream, lasting_stream

_UNBOUNDED = 100_000
"""Columns outside a terminal: every table is as wide as it needs."""
_FOLDED = 32
"""Columns that a sentence in a table keeps."""
_PROSE = 80
"""Columns for sentences outside a terminal."""


class Console(rich.console.Console):
    """A console without markup in strings. It follows `sys.stdout` and `sys.stderr`, guarded or not."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False, **options: Any) -> None:
        self._lasting: LastingStream | None = None
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(stderr=stderr, quiet=quiet, **(plain | options))
        if "file" not in options and "width" not in options and not self.is_jupyter and not self.file.isatty():
            self.width = _UNBOUNDED

    @property
    def file(self) -> Any:
        """The stream to write to, without the escaping of `guarded_output`: the console escapes text itself."""
        if self._file is not None:
            return self._file
        current: Any = sys.stderr if self.stderr else sys.stdout
        stream = lasting_stream(getattr(current, "rich_proxied_file", current))  # a live table redirects it
        if self._lasting is None or self._lasting.stream is not stream.stream:
            self._lasting = stream
        return self._lasting

    @file.setter
    def file(self, new_file: Any) -> None:
        self._file = new_file

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape.terminal(segment.text), segment.style)


def prose_width(console: rich.console.Console) -> int:
    """Columns for sentences: the console's; where they are unbounded `COLUMNS`, or 80."""
    if console.width != _UNBOUNDED:
        return console.width
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) else _PROSE


class FittingTable(Table):
    """A table that fits a narrow terminal: labels in the column `agents` get shorter, then `optional` columns are
    dropped, the first ones first. Both are given by their headings. A label is never folded over lines."""

    def __init__(self, *, optional: Sequence[str] = (), agents: str = "", **options: Any) -> None:
        plain: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "bold"}
        super().__init__(**(plain | options))
        self.optional = optional
        self.agents = agents

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        unbounded = options.update(max_width=_UNBOUNDED)
        whole = self.columns
        chosen = whole
        for chosen in self._narrower():
            self.columns = [column for column in chosen if column.overflow != "fold"]
            room = options.max_width - _FOLDED * (len(chosen) - len(self.columns))
            if Measurement.get(console, unbounded, self).maximum <= room:
                chosen = [replace(c, no_wrap=True) if c.header == self.agents else c for c in chosen]
                break
        self.columns = chosen
        yield from super().__rich_console__(console, options)
        self.columns = whole

    def _narrower(self) -> Iterator[list[Column]]:
        """The columns, then with shorter labels, then with fewer and fewer of the optional ones."""
        columns = [self._unfolded(column) if column.header == self.agents else column for column in self.columns]
        yield columns
        labels = [str(cell) for column in columns if column.header == self.agents for cell in column.cells]
        for form in shorter_labels(labels):
            texts: list[rich.console.RenderableType] = [_label(text) for text in form]
            columns = [replace(c, _cells=texts) if c.header == self.agents else c for c in columns]
            yield columns
        for heading in self.optional:
            columns = [column for column in columns if column.header != heading]
            yield columns

    @staticmethod
    def _unfolded(column: Column) -> Column:
        return replace(column, _cells=[_label(str(cell)) for cell in column.cells])


def _label(text: str) -> Text:
    """A label that is cut, not folded, where it does not fit."""
    return Text(text, no_wrap=True, overflow="ellipsis")
