"""Checks of the files of a run directory that have no checksum: of another version, or edited.

Each function returns a short description of the fault, and None if there is none. A reader checks what only it needs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from p3kit.errors import P3kitError
from p3kit.metrics import METRICS as GLOSSARY
from p3kit.metrics import is_metric
from p3kit.rundir.rows import EVENT_KINDS, RowKind, encode

Kinds = Mapping[str, type | tuple[type, ...]]
_NUMBER = (int, float)
MOST_THREADS = 1_024
"""Most torch threads of a run, as `compute.threads` has it."""
_RUN: Kinds = {"name": str, "agents": list}
_RUN_MAY_HAVE: Kinds = {
    "run": str,
    "created": _NUMBER,
    "spec": dict,
    "data": dict,
    "command": list,
    "trainer": str,
    "threads": int,
}
_AGENT_MAY_HAVE: Kinds = {"symbol": str, "seed": int, "total_timesteps": int, "spec": dict}
_STATUS_MAY_HAVE: Kinds = {"pid": int, "heartbeat": _NUMBER, "message": str, "agents": dict}
_METRICS: Kinds = {"agent": str, "iteration": int, "global_step": int, "time": _NUMBER, "metrics": dict}
_EVENT: Kinds = {"seq": int, "time": _NUMBER, "kind": str}
_EVENT_MAY_HAVE: Kinds = {"agent": str, "global_step": int, "agents": list, "metrics": dict}
_OF_A_KIND: Mapping[str, Kinds] = {
    "evaluation": {"agent": str, "global_step": int, "metrics": dict},
    "verdict": {"agent": str, "grade": str},
    "intervention": {"decision": str},
}


def wrong_run(info: Any, newest: int) -> str:
    """Return the faults of a run.json of a schema up to `newest`."""
    if not isinstance(info, dict):
        return "is no table"
    if not isinstance(info.get("schema_version", 0), int) or info.get("schema_version", 0) > newest:
        return f"has a schema newer than {newest}"
    if wrong := _wrong(info, _RUN, _RUN_MAY_HAVE):
        return wrong
    threads = info.get("threads")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        return f"threads is {threads}"
    for number, agent in enumerate(info["agents"]):
        if wrong := _wrong(agent, {"name": str}, _AGENT_MAY_HAVE):
            return f"agents[{number}]: {wrong}"
    return ""


def wrong_status(status: Any, states: tuple[str, ...]) -> str:
    """Return the faults of a status.json."""
    wrong = _wrong(status, {"state": str}, _STATUS_MAY_HAVE)
    if not wrong and status["state"] not in states:
        wrong = f"state is {status['state']!r}"
    for name, agent in (status.get("agents") or {}).items() if not wrong else ():
        wrong = wrong or ("" if isinstance(agent, dict) else f"agents.{name} is no table")
    return wrong


def wrong_metrics(row: Any) -> str:
    """Return the faults of a row of metrics."""
    if wrong := _wrong(row, _METRICS):
        return wrong
    numbers = (name for name, value in row["metrics"].items() if not _is_number(value))
    return next((f"metrics.{name} is no number" for name in numbers), "")


def wrong_event(row: Any) -> str:
    """Return the faults of an event."""
    if wrong := _wrong(row, _EVENT, _EVENT_MAY_HAVE):
        return wrong
    if row["kind"] not in EVENT_KINDS:
        return f"kind is {row['kind']!r}"
    return _wrong(row, _OF_A_KIND.get(row["kind"], {}))


METRICS = RowKind(b'{"agent": ', wrong_metrics)
EVENTS = RowKind(b'{"seq": ', wrong_event)


_NUMBERS_OF: dict[str, Kinds] = {
    "reward": {"edges": list, "counts": list},
    "gradients": {"edges": list, "counts": list},
    "actions": {"labels": list, "counts": list},
    "value_map": {"bars": list, "unrealised": list, "values": list},
    "equity": {"timestamps": list, "equity": list},
}
"""Fields of a histogram's `data`, by kind."""


def wrong_histogram(document: Any, kind: str, agent: str, global_step: int) -> str:
    """Describe what is wrong with the file of this histogram; "" if nothing is. A swapped file is wrong."""
    wrong = _wrong(document, {"kind": str, "agent": str, "global_step": int, "data": dict})
    if wrong:
        return wrong
    for key, value in (("kind", kind), ("agent", agent), ("global_step", global_step)):
        if document[key] != value:
            return f"{key} is {document[key]!r:.60}, but its name stands for {value!r:.60}"
    return _wrong(document["data"], _NUMBERS_OF.get(kind, {}))


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in ("nan", "inf", "-inf")


def _wrong(value: Any, must_have: Kinds, may_have: Kinds | None = None) -> str:
    if not isinstance(value, dict):
        return "is no table"
    for key, kind in must_have.items():
        if key not in value:
            return f"{key} is missing"
        if not _is(value[key], kind):
            return f"{key} is {value[key]!r:.60}"
    for key, kind in (may_have or {}).items():
        if value.get(key) is not None and not _is(value[key], kind):
            return f"{key} is {value[key]!r:.60}"
    return ""


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def checked_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of metrics as it is written. Raises P3kitError for unknown metrics and for text."""
    if missing := [key for key in ("agent", "iteration", "global_step", "time", "metrics") if key not in row]:
        raise P3kitError("metrics row", f"lacks {', '.join(missing)}")
    metrics = {}
    for name, value in row["metrics"].items():
        if not is_metric(name):
            near = difflib.get_close_matches(name, GLOSSARY, n=1)
            guess = f'did you mean "{near[0]}"? else ' if near else ""
            hint = f'{guess}name a metric of your own "own/{name.rpartition("/")[2]}"'
            raise P3kitError(f"metric {name!r}", "is not in the glossary", hint)
        if value is None:
            continue
        number = encode(value)
        if isinstance(number, bool | list | dict) or (isinstance(value, str)):
            raise P3kitError(f"metric {name!r}", f"is {value!r}, which is no number")
        metrics[name] = number
    return {
        "agent": str(row["agent"]),
        "iteration": int(row["iteration"]),
        "global_step": int(row["global_step"]),
        "time": float(row["time"]),
        "metrics": metrics,
    }
