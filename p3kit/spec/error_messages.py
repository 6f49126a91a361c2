"""From pydantic's errors to sentences that a user can act on: key, value, what was expected, nearest right word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from p3kit.spec import field_types
from p3kit.spec.keypath import KeyPath, written_path
from p3kit.spec.models import ReversedRange, Spec, parse_range
from p3kit.spec.nearest import nearest
from p3kit.spec.not_offered import not_offered
from p3kit.spec.writing import toml_value

OTHER_WORDS = {
    # CleanRL
    "clip_coef": "clip_range",
    "num_steps": "n_steps",
    "update_epochs": "n_epochs",
    "minibatch_size": "batch_size",
    "num_minibatches": "batch_size",
    # others
    "fee": "commission_bps",
    "fees": "commission_bps",
    "commission": "commission_bps",
    "transaction_cost": "commission_bps",
    "slippage": "slippage_bps",
    "cash": "initial_capital",
    "capital": "initial_capital",
    "balance": "initial_capital",
    "initial_cash": "initial_capital",
    "initial_balance": "initial_capital",
    "starting_cash": "initial_capital",
    "window_size": "window",
    "lookback": "window",
    "look_back": "window",
    "sequence_length": "window",
    "stop_loss": "stop",
    "take_profit": "target",
    "lr": "learning_rate",
    "entropy_coef": "ent_coef",
    "value_coef": "vf_coef",
    "discount": "gamma",
    "lam": "gae_lambda",
    "lambda": "gae_lambda",
    "seed": "seeds",
    "symbol": "symbols",
    "agent": "agents",
    "interventions": "intervention",
}
"""Words of other libraries and what they are called here: hints, never aliases."""


LONGEST_VALUE = 60
"""Characters of a value that a message shows."""


MOST_PROBLEMS = 50
"""More are counted, not printed: a user corrects the first ones, and the search for right words is slow."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a spec, before it is known which file and line it came from."""

    path: KeyPath
    what: str
    hint: str = ""


def problems_of(error: ValidationError, model: type[Spec], tables: Mapping[str, Any]) -> list[Problem]:
    """One problem per place, in the order of pydantic's errors."""
    by_path: dict[KeyPath, Problem] = {}
    details = error.errors(include_url=False)
    for detail in details[:MOST_PROBLEMS]:
        path, kind, value = _locate(detail, model, tables)
        if detail["type"] == "too_short" and value:
            continue  # pydantic counts only the accepted items; the others have their own errors
        by_path.setdefault(path, _problem(detail, path, kind, value, model, tables))
    if len(details) > MOST_PROBLEMS:
        rest = Problem((), f"{len(details) - MOST_PROBLEMS:,} more faults; this does not look like a spec of p3kit")
        return [*by_path.values(), rest]
    return list(by_path.values())


def _locate(detail: ErrorDetails, model: type[Spec], tables: Mapping[str, Any]) -> tuple[KeyPath, Any, Any]:
    """Path, type and value of the place that an error is about.

    pydantic's `loc` contains the members of unions beside keys. A walk over value and type together separates them.
    """
    path: list[str | int] = []
    kind: Any = model
    value: Any = tables
    loc = list(detail["loc"])
    while loc:
        part = loc.pop(0)
        if field_types.is_tagged(kind) and isinstance(part, str):
            kind = field_types.tagged(kind, part) or kind
        elif len(field_types.alternatives(kind)) > 1:
            continue  # the label of a plain union's member
        elif isinstance(part, int) and not isinstance(value, list | tuple):
            kind = field_types.child(kind, part)  # one thing where a list of one is meant
        else:
            path.append(part)
            kind = field_types.child(kind, part) if kind is not None else None
            inside = isinstance(value, Mapping) and part in value
            inside = inside or (isinstance(value, list | tuple) and isinstance(part, int) and part < len(value))
            value = value[part] if inside else None
    return tuple(path), kind, value


def _problem(
    detail: ErrorDetails, path: KeyPath, kind: Any, value: Any, model: type[Spec], tables: Mapping[str, Any]
) -> Problem:
    def said(what: str) -> str:
        return f"{name_of(path, tables)}{_shown(value)}: {what}"

    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(path, value, model, said)
        case "missing":
            return Problem(path, said(f"missing; expected {field_types.in_words(kind)}"))
        case "value_error":
            what = str(detail["ctx"]["error"])  # about a whole table, the sentence names its keys
            return Problem(path, f"{name_of(path, tables)}: {what}" if isinstance(value, Mapping) else said(what))
        case "unknown_form":
            return Problem(path, said(detail["msg"]))
        case "union_tag_invalid":
            path, value = (*path, "kind"), value["kind"]  # `said` names these
            known = detail["ctx"]["expected_tags"].replace("'", "").split(", ")
            return Problem(path, said(f"expected {_one_of(known)}"), _near(value, known))
        case "union_tag_not_found":
            return Problem(path, said('expected a table such as { kind = "linear", start = 3e-4, end = 1e-5 }'))
        case "too_short":
            return Problem(path, said("expected at least one item"))
    if isinstance(value, str) and (what := _reversed(value)):
        return Problem(path, said(what))
    hint = _near(value, field_types.literals(kind))
    if not hint and len(path) == 1 and field_types.in_words(kind) == "a table":
        hint = f"write [{path[0]}], and its keys below"
    return Problem(path, said(f"expected {field_types.in_words(kind)}"), hint)


def _reversed(text: str) -> str:
    """The fault of a range of days that ends before it starts; "" for other text."""
    try:
        parse_range(text)
    except ReversedRange as error:
        return str(error)
    except ValueError:
        pass
    return ""


def name_of(path: KeyPath, tables: Mapping[str, Any]) -> str:
    """A path for a message. Interventions have their id: their number is useless for a user who extends a pack."""
    if len(path) > 1 and path[0] == "intervention":
        rule = tables["intervention"][path[1]]
        if isinstance(rule, Mapping) and isinstance(rule.get("id"), str):
            below = written_path(path[2:])
            return f"intervention {toml_value(rule['id'])}" + (f": {below}" if below else "")
    return written_path(path)


def _shown(value: Any) -> str:
    """` = 3`; a value too long to help is left out."""
    try:
        text = toml_value(value)
    except (TypeError, ValueError):  # a list of None, a number of thousands of digits
        return ""
    if len(text) <= LONGEST_VALUE:
        return f" = {text}"
    return f" = {text[: LONGEST_VALUE - 1]}…" if isinstance(value, str) else ""


def _near(value: Any, known: Iterable[str]) -> str:
    near = nearest(value, known) if isinstance(value, str) else None
    return f'did you mean "{near}"?' if near else ""


def _one_of(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words[:-1]) + f' or "{words[-1]}"'


# --- unknown keys -----------------------------------------------------------------------------------------------------


def _unknown_key(path: KeyPath, value: Any, model: type[Spec], said: Callable[[str], str]) -> Problem:
    what = "unknown table" if isinstance(value, Mapping) and len(path) == 1 else "unknown key"
    return Problem(path, said(what), _right_word(path, model))


def _right_word(path: KeyPath, model: type[Spec]) -> str:
    """The best hint for an unknown key."""
    *above, word = (str(part) for part in path)
    here = _keys_at(model, path[:-1])
    if wish := not_offered(word):
        return wish
    if word in OTHER_WORDS and OTHER_WORDS[word] in here:
        unit = ", in basis points: 0.1 % is 10" if OTHER_WORDS[word].endswith("_bps") else ""
        return f'here it is called "{OTHER_WORDS[word]}"{unit}'
    elsewhere = _home_of(word, model) or _home_of(OTHER_WORDS.get(word, ""), model)
    if elsewhere:
        return elsewhere
    if near := nearest(word, here):
        own = " A column of observation.columns goes into columns.own" if above == ["data", "columns"] else ""
        return f'did you mean "{near}"?{own}'
    if above and here:
        return f"{written_path(tuple(path[:-1]))} has {', '.join(here)}"
    return f"known here: {', '.join(here)}" if here else ""


def _keys_at(model: type[Spec], path: KeyPath) -> list[str]:
    kind: Any = model
    for part in path:
        kind = field_types.child(kind, part)
        if kind is None:
            return []
    return field_types.keys_of(kind)


def _home_of(word: str, model: type[Spec]) -> str:
    """First table that has a key of this name."""
    for key in field_types.key_paths(model):
        if key[-1] == word:
            table = ".".join(key[:-1])
            return f'"{word}" belongs ' + (f"in [{table}]" if table else "at the top, above the first [table]")
    return ""
