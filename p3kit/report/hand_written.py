"""Hand-written parts of a generated file: what stands between keep-markers survives when the file is written again.

<!-- keep:notes phase3 -->
Anything a person wrote here.
<!-- /keep -->
"""

from __future__ import annotations

import re
from pathlib import Path

from p3kit.errors import InputError

_BLOCK = re.compile(r"<!-- keep:(?P<name>[^\n]*?) -->\n(?P<body>.*?)<!-- /keep -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (?P<end>/)?keep(?::[^\n]*?)? -->")


def keep_hand_written(generated: str, path: Path) -> str:
    """Return `generated` with the keep-blocks of the file at `path`, by name.

    A block without a place in the new text goes to the end: text written by hand is never dropped. Raises InputError
    for a marker without its partner, because the end of the hand-written part is unknown then.
    """
    if not path.exists():
        return generated
    old = path.read_text(encoding="utf-8")
    _check_pairs(old, path)
    kept = {match["name"]: match["body"] for match in _BLOCK.finditer(old)}
    placed = {match["name"] for match in _BLOCK.finditer(generated)}
    text = _BLOCK.sub(lambda match: _block(match["name"], kept.get(match["name"], match["body"])), generated)
    orphans = [_block(name, body) for name, body in kept.items() if name not in placed and body.strip()]
    return text if not orphans else text.rstrip("\n") + "\n\n" + "\n\n".join(orphans) + "\n"


def _block(name: str, body: str) -> str:
    return f"<!-- keep:{name} -->\n{body}<!-- /keep -->"


def _check_pairs(text: str, path: Path) -> None:
    opened_at = None
    for match in _MARKER.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if bool(match["end"]) == (opened_at is None):
            what = "ends a kept part that never began" if match["end"] else "begins a kept part inside another"
            raise InputError(f"{path}:{line}", f"{match[0]} {what}", "correct the markers; nothing was overwritten")
        opened_at = None if match["end"] else line
    if opened_at is not None:
        raise InputError(f"{path}:{opened_at}", "a kept part never ends", "add <!-- /keep --> on a line of its own")
