"""Short labels of agents: what all agents have in common is left out, what differs stays."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BETWEEN = re.compile(r"/|\.(?=s\d+(?:\.|$)|w\d{4}-\d\d-\d\d|[A-Za-z_]\w*=)")
"""Separators of `run-3/AAPL.s1.w2018-01-04.hidden=64x64`. The dots of BRK.B and 0.001 are none."""


def shorter_labels(labels: Sequence[str]) -> list[list[str]]:
    """The labels in shorter and shorter forms, each form as unique as the labels.

    `AAPL.s1.learning_rate=0.1` and `AAPL.s2.learning_rate=0.1` become `s1` and `s2`; several keys are abbreviated too:
    `learning_rate=0.1` becomes `lr=0.1`.
    """
    parts = [_BETWEEN.split(label) for label in labels]
    if len(set(labels)) < 2:
        return []
    common = set.intersection(*map(set, parts))
    differing = [[part for part in own if part not in common] or own[:1] for own in parts]
    joined = [_joined(label, own) for label, own in zip(labels, differing, strict=True)]
    abbreviated = [_joined(label, [*map(_abbreviated, own)]) for label, own in zip(labels, differing, strict=True)]
    return [form for form in (joined, abbreviated) if len(set(form)) == len(set(labels))]


def _joined(label: str, parts: Sequence[str]) -> str:
    """`run-3/AAPL.s1`, with the slash of the label where its run is still there."""
    run, slash, _ = label.partition("/")
    whole = ".".join(parts)
    return f"{run}/{whole[len(run) + 1 :]}" if slash and len(parts) > 1 and parts[0] == run else whole


def fitting_labels(labels: Sequence[str], width: int) -> list[str]:
    """The longest form of the labels that fits `width` columns, else the shortest one."""
    forms = [list(labels), *shorter_labels(labels)]
    return next((form for form in forms if max(map(len, form), default=0) <= width), forms[-1])


def _abbreviated(part: str) -> str:
    """`learning_rate=0.1` as `lr=0.1`."""
    key, sign, value = part.partition("=")
    return "".join(word[:1] for word in key.split("_")) + sign + value if sign else part
