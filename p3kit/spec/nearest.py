"""The nearest right word, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a typing error most likely meant, if any. Case does not count."""
    by_lower = {name.lower(): name for name in known}
    found = get_close_matches(word.lower()[:100], by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean "clip_range"?`, to append to a message; `otherwise` when nothing is near."""
    near = nearest(word, known)
    return f'; did you mean "{near}"?' if near else otherwise
