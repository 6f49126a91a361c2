"""TOML text as plain tables. All files of p3kit read TOML through here."""

from __future__ import annotations

import re
from typing import Any

import tomli

_LONG_NUMBER = re.compile(r"(?<![\w.+-])[+-]?\d[\d_]{4000,}(?![\w.+-])")


def read_toml(text: str) -> dict[str, Any]:
    """Tables of a TOML text. Raises tomli.TOMLDecodeError, and RecursionError for nesting without end.

    Python converts at most 4,300 decimal digits to a whole number. Longer numbers are read as hexadecimal ones of equal
    length: their value is another, but every key refuses both, and all positions stay.
    """
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError:
        raise
    except ValueError:
        return tomli.loads(_LONG_NUMBER.sub(lambda found: f"0x{'f' * (len(found[0]) - 2)}", text))
