"""Escapes for text that others wrote: specs, run directories, data files, messages of other programs.

Every printer uses these functions: `terminal` for what a terminal or a log shows, `one_line` for a single field of it,
`markdown`, `code` and `fenced` for pages, `picture` and `distinct_pictures`
for matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f"
_DIRECTION = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Marks that reorder the text around them (Boucher and Anderson 2021, Trojan Source)."""
_OTHER = "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff"
_ACTIVE = re.compile(f"[{_CONTROL}{_DIRECTION}{_OTHER}]")
_BREAKS = re.compile(f"[\n\t{_CONTROL}{_DIRECTION}{_OTHER}]")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}

_LONGEST_LABEL = 64
"""As long as the name of an agent may be. A longer label leaves no room for the picture."""

_URL = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
"""The places where GitHub's markdown makes a link of a bare address."""


def terminal(text: str) -> str:
    """Replace control and direction characters by `\\u001b` and the like. Line breaks and tabs stay.

    The result is still valid inside a string of JSON or TOML.
    """
    return _ACTIVE.sub(_code_point, text)


def one_line(text: str) -> str:
    """Escape as `terminal` does, and line breaks and tabs as well."""
    return _BREAKS.sub(_code_point, text)


def markdown(text: str) -> str:
    """Return one line of markdown that shows `text`: no links, images, tags, code, table cells or line breaks."""
    line = one_line(" ".join(str(text).split()))
    line = re.sub(r"([\\|`*])", r"\\\1", line)
    line = re.sub(r"\](?=[(\[:])", r"]\\", line)
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")
    return _URL.sub(r"\\", line)


def code(text: str) -> str:
    """Return `text` as inline code of markdown, also within a table."""
    line = one_line(" ".join(str(text).split()))
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def fenced(text: str) -> str:
    """Return a line for a fenced block of markdown. It cannot end the block."""
    return one_line(text).replace("```", "'''")


def picture(text: str) -> str:
    """Return a label for matplotlib, which reads text between dollar signs as a formula. Long text is shortened."""
    line = one_line(text)
    line = line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"
    return line.replace("$", r"\$")


def distinct_pictures(texts: Iterable[str]) -> dict[str, str]:
    """Return a label for matplotlib per text. Different texts get different labels, also where they are shortened:
    first from the end, else from the middle, else with a number in front."""
    texts = list(dict.fromkeys(texts))
    part = (_LONGEST_LABEL - 1) // 2
    middle = [text if len(text) <= _LONGEST_LABEL else f"{text[:part]}…{text[-part:]}" for text in texts]
    for form in (texts, middle, [f"{number}: {text}" for number, text in enumerate(texts, 1)]):
        labels = dict(zip(texts, map(picture, form), strict=True))
        if len(set(labels.values())) == len(texts):
            break
    return labels


def _code_point(found: re.Match[str]) -> str:
    return _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}"
