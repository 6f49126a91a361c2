"""Positions of the keys in a TOML text, for messages such as `specs/phase3.toml:14:1`.

`tomli` parses the text and finds every syntax error, but its result has no positions. This scanner reads the same text
again and records only the beginnings of keys and list items. It requires that tomli accepted the text (or all of it up
to `stop`), so it does not parse values: strings, brackets and commas are enough. A property test compares its result
with tomli's.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

import tomli

from p3kit.spec.keypath import KeyPath
from p3kit.spec.reading import read_toml

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:\\.|[^"\\\n])*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:\\.|(?!""")[^\\])*"""(?:"{0,2})', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:(?!''')[\s\S])*'''(?:'{0,2})")
_PLAIN_VALUE = re.compile(r"[^,\]}#\n]+")


@dataclass
class Positions:
    """Offsets of keys, in characters from the start of the text."""

    offsets: dict[KeyPath, int] = field(default_factory=dict)
    """Where each key, table and list item was first written."""
    twice: list[tuple[KeyPath, int, int]] = field(default_factory=list)
    """Values written more than once: path, first offset, later offset."""


class Lines:
    """Turns offsets into lines and columns, both counted from 1, columns in characters."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def at(self, offset: int) -> str:
        """`14:1`"""
        line = bisect_right(self._starts, offset)
        return f"{line}:{offset - self._starts[line - 1] + 1}"


def scan(text: str, stop: int | None = None) -> Positions:
    """Positions of all keys that begin before `stop` (default: the end of the text)."""
    scanner = _Scanner(text, len(text) if stop is None else stop)
    try:
        scanner.statements()
    except _UnreadableError:
        if stop is None:
            raise AssertionError("the scanner cannot read what tomli accepted") from None
    return scanner.found


class _UnreadableError(Exception):
    """The text is not TOML from here on; tomli reports the fault."""


class _Scanner:
    def __init__(self, text: str, stop: int) -> None:
        self.text = text
        self.stop = stop
        self.at = 0
        self.table: KeyPath = ()
        self.arrays: dict[KeyPath, int] = {}
        self.headers: set[KeyPath] = set()
        self.found = Positions()

    def statements(self) -> None:
        while self._skip(_BLANK) < self.stop:
            if self._peek("["):
                self._header()
            else:
                self._key_value(self.table)

    def _header(self) -> None:
        start = self.at
        is_array = self._peek("[[")
        self.at += 2 if is_array else 1
        path = self._inside_arrays(self._key(), last_too=not is_array)
        closing = self.text.find("]", self.at)
        if closing < 0:
            raise _UnreadableError
        self.at = closing + (2 if is_array else 1)
        if is_array:
            self._note(path, start)
            self.arrays[path] = self.arrays.get(path, -1) + 1
            path = (*path, self.arrays[path])
        elif path in self.headers:
            self.found.twice.append((path, self.found.offsets[path], start))
        self.headers.add(path)
        for depth in range(1, len(path) + 1):
            self._note(path[:depth], start)
        self.table = path

    def _inside_arrays(self, key: KeyPath, last_too: bool) -> KeyPath:
        """`[[a]]` then `[a.b]` means b of the newest a."""
        path: KeyPath = ()
        for depth, part in enumerate(key):
            path = (*path, part)
            if path in self.arrays and (last_too or depth < len(key) - 1):
                path = (*path, self.arrays[path])
        return path

    def _key_value(self, table: KeyPath) -> None:
        start = self._skip(_SPACE)
        key = self._key()
        for depth in range(1, len(key)):
            self._note((*table, *key[:depth]), start)
        path = (*table, *key)
        if path in self.found.offsets:
            self.found.twice.append((path, self.found.offsets[path], start))
        self._note(path, start)
        if not self._peek("="):
            raise _UnreadableError
        self.at += 1
        self._value(path)

    def _key(self) -> KeyPath:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            parts.append(self._key_part())
            self._skip(_SPACE)
            if not self._peek("."):
                return tuple(parts)
            self.at += 1

    def _key_part(self) -> str:
        for pattern in (_BASIC, _LITERAL, _BARE_KEY):
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return match[0] if pattern is _BARE_KEY else _unquoted(match[0])
        raise _UnreadableError

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        if self._peek("["):
            self._items(path)
        elif self._peek("{"):
            self._inline_table(path)
        else:
            self._scalar()

    def _items(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while self._more("]"):
            self._note((*path, index), self.at)
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._more("}"):
            self._key_value(path)

    def _more(self, closing: str) -> bool:
        """Move to the next item, past blanks and a comma; False (and past `closing`) at the end."""
        self._skip(_BLANK)
        if self._peek(","):
            self.at += 1
            self._skip(_BLANK)
        if self.at >= self.stop:
            raise _UnreadableError
        if self._peek(closing):
            self.at += 1
            return False
        return True

    def _scalar(self) -> None:
        for pattern in (_LONG_BASIC, _LONG_LITERAL, _BASIC, _LITERAL, _PLAIN_VALUE):
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return
        raise _UnreadableError

    def _note(self, path: KeyPath, offset: int) -> None:
        self.found.offsets.setdefault(path, offset)

    def _peek(self, expected: str) -> bool:
        return self.text.startswith(expected, self.at)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        if match := pattern.match(self.text, self.at):
            self.at = match.end()
        return self.at


def _unquoted(key: str) -> str:
    try:
        return str(read_toml(f"key = {key}")["key"])
    except tomli.TOMLDecodeError:  # an escape that there is not
        raise _UnreadableError from None
