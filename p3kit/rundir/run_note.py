"""The user's note and tags of a run: `note.json` in its directory. Nothing else depends on them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from p3kit.errors import InputError, P3kitError
from p3kit.rundir import rows
from p3kit.rundir.directory import RUN_NAME, RunDir

LONGEST_TAG = 40
LONGEST_NOTE = 10_000
"""In characters."""


@dataclass(frozen=True)
class RunNote:
    """Text and tags that the user keeps with a run."""

    text: str = ""
    tags: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The tags in one line and the text in its own lines; none where there is nothing."""
        tags = [f"tags: {', '.join(self.tags)}"] if self.tags else []
        return tags + [f"note: {line}" for line in self.text.splitlines()]

    def edited(self, text: str | None, add: Collection[str], remove: Collection[str]) -> RunNote:
        """Return a copy with another text (None keeps it), with the tags of `add` and without those of `remove`."""
        kept = [tag for tag in dict.fromkeys((*self.tags, *add)) if tag not in remove]
        return RunNote(self.text if text is None else text.strip(), tuple(sorted(kept)))


def read_note(run: RunDir) -> RunNote:
    """Read the note of a run. A damaged file reads as a note that names the damage."""
    try:
        return _read(run)
    except P3kitError as error:
        return RunNote(f"cannot be read: {error}")


def edit_note(run: RunDir, text: str | None, add: Sequence[str], remove: Sequence[str]) -> RunNote:
    """Change the note of a run, also while it trains. Edits of several processes are made one after the other."""
    with rows.locked(run.path / "note.json"):
        note = _read(run).edited(text, add, remove)
        rows.write_json(run.path / "note.json", {"note": note.text, "tags": list(note.tags)}, sealed=True)
    return note


def check_note(text: str | None, tags: Collection[str]) -> None:
    """Raise InputError for a text that is too long, and for a tag that is no single word."""
    if text is not None and len(text) > LONGEST_NOTE:
        what = f"has {len(text):,} characters; a note has at most {LONGEST_NOTE:,}"
        raise InputError("--text", what, "keep longer texts in a file, and write its name here")
    for tag in tags:
        if not tag or len(tag) > LONGEST_TAG or not tag.isprintable() or any(mark in tag for mark in " ,"):
            what = f"is no tag: one word of at most {LONGEST_TAG} characters, without spaces and commas"
            raise InputError(f"--tag {tag!r}", what, "use --text for a sentence")
        if RUN_NAME.fullmatch(tag):
            raise InputError(f"--tag {tag!r}", "is the name of a run, not a tag", "give one --tag for each tag")


def _read(run: RunDir) -> RunNote:
    path = run.path / "note.json"
    try:
        document: Any = rows.read_json(path) if path.stat().st_size else {}
    except FileNotFoundError:
        return RunNote()
    text, tags = (document.get("note", ""), document.get("tags", [])) if isinstance(document, dict) else (None, None)
    if not isinstance(text, str) or not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise P3kitError(str(path), "is no note of a run", "remove the file")
    return RunNote(text, tuple(tags))
