"""The types of the spec's fields: walk down by key, and describe the accepted values as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, Discriminator, Tag
from pydantic.fields import FieldInfo

from p3kit.spec.base_model import LIVE, Words

BOUNDS: dict[type, tuple[str, str]] = {
    Gt: ("gt", "above"),
    Ge: ("ge", "at least"),
    Lt: ("lt", "below"),
    Le: ("le", "at most"),
}
"""Kinds of bounds: the attribute that holds the limit, and the word for it."""


def bare(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without `Annotated`, and the arguments of `Annotated`."""
    if get_origin(kind) is Annotated:
        core, *metadata = get_args(kind)
        return core, tuple(metadata)
    return kind, ()


def of_field(field: FieldInfo) -> Any:
    """The type of a model's field, annotations included."""
    metadata = [*field.metadata, *([field] if field.discriminator else [])]
    return Annotated[(field.annotation, *metadata)] if metadata else field.annotation


def alternatives(kind: Any) -> list[Any]:
    """The members of a union, None left out; the type itself when it is no union."""
    core, _ = bare(kind)
    if get_origin(core) in (Union, UnionType):
        return [member for member in get_args(core) if member is not NoneType]
    return [kind]


def tagged(kind: Any, tag: str) -> Any | None:
    """The member of a tagged union with `tag`; None if `kind` is no tagged union or has no such member."""
    for member in alternatives(kind):
        core, metadata = bare(member)
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in metadata):
            return member
        discriminator = core.model_fields.get("kind") if is_table(core) else None
        if discriminator is not None and get_args(discriminator.annotation) == (tag,):
            return member
    return None


def is_tagged(kind: Any) -> bool:
    """Return True if one key of the value selects the member of the union."""
    _, metadata = bare(kind)
    return any(isinstance(mark, Discriminator) or getattr(mark, "discriminator", None) for mark in metadata)


def is_table(kind: Any) -> bool:
    """Return True if a type is one of our models."""
    core, _ = bare(kind)
    return isinstance(core, type) and issubclass(core, BaseModel)


def child(kind: Any, key: str | int) -> Any | None:
    """The type under a key of a table or an index of a list; None when there is no such place."""
    for member in alternatives(kind):
        core, _ = bare(member)
        arguments = get_args(core)
        if is_table(core) and (field := fields_by_key(core).get(str(key))):
            return of_field(field)
        if get_origin(core) is dict and isinstance(key, str):
            return arguments[1]
        if get_origin(core) is tuple and isinstance(key, int):
            return arguments[0] if arguments[-1] is ... else arguments[min(key, len(arguments) - 1)]
    return None


_EXACT = 2.0**53
"""Floats below it hold every whole number."""


def with_whole_numbers(kind: Any, value: Any) -> Any:
    """A value of a spec with ints in place of floats without a fraction, where `kind` takes an int and no float."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        cores = [bare(member)[0] for member in alternatives(kind)]
        return int(value) if int in cores and float not in cores else value
    if isinstance(value, Mapping):
        return {key: with_whole_numbers(child(kind, key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_whole_numbers(child(kind, i), item) for i, item in enumerate(value)]
    return value


def fields_by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields of a model by the key a user writes."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def keys_of(kind: Any) -> list[str]:
    """The keys a table may have; empty for other types."""
    return [key for member in alternatives(kind) if is_table(member) for key in fields_by_key(bare(member)[0])]


def live_paths(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted paths of the numbers that may move while a run trains."""
    for key, field in fields_by_key(model).items():
        kind, path = of_field(field), (*above, key)
        if is_table(kind):
            yield from live_paths(bare(kind)[0], path)
        elif any(LIVE in bare(member)[1] for member in [kind, *alternatives(kind)]):
            yield ".".join(path)


def key_paths(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all keys of a model and the tables in it."""
    for key, field in fields_by_key(model).items():
        yield (*above, key)
        if is_table(of_field(field)):
            yield from key_paths(bare(of_field(field))[0], (*above, key))


# --- as text ----------------------------------------------------------------------------------------------------------


def in_words(kind: Any) -> str:
    """Text on the values that a type accepts: `a number above 0, at most 1, or "off"`."""
    words = [word for member in alternatives(kind) for word in _member_words(member)]
    words = list(dict.fromkeys(words))
    if len(words) == 1:
        return words[0]
    comma = "," if any("," in word or " and " in word for word in words) else ""
    return ", ".join(words[:-1]) + f"{comma} or {words[-1]}"


def literals(kind: Any) -> list[str]:
    """The words a type accepts literally."""
    members = (bare(member)[0] for member in alternatives(kind))
    return [word for core in members if get_origin(core) is Literal for word in get_args(core) if isinstance(word, str)]


def _member_words(member: Any) -> list[str]:
    core, metadata = bare(member)
    if said := [mark.text for mark in metadata if isinstance(mark, Words)]:
        return said
    if get_origin(core) is Literal:
        return [f'"{word}"' if isinstance(word, str) else str(word).lower() for word in get_args(core)]
    if core in (int, float):
        noun = "a whole number" if core is int else "a number"
        return [noun + _bounds(metadata)]
    if get_origin(core) is tuple:
        return [_list_words(get_args(core))]
    if is_table(core) or get_origin(core) is dict:
        return ["a table"]
    simple = {str: "text in quotes", bool: "true or false", date: "a day such as 2027-01-04, without quotes"}
    return [simple[core]] if core in simple else []


def _list_words(items: tuple[Any, ...]) -> str:
    if items[-1] is ...:
        return f"a list, each item {in_words(items[0])}"
    return f"a list of {len(items)}, each {in_words(items[0])}"


def _bounds(metadata: tuple[Any, ...]) -> str:
    """` above 0 and at most 1`, ` from 0 to 1`."""
    limits = {type(mark): getattr(mark, BOUNDS[type(mark)][0]) for mark in metadata if type(mark) in BOUNDS}
    if set(limits) == {Ge, Le}:
        return f" from {_number(limits[Ge])} to {_number(limits[Le])}"
    words = [f"{BOUNDS[bound][1]} {_number(limit)}" for bound, limit in limits.items()]
    return " " + " and ".join(words) if words else ""


def _number(value: float) -> str:
    """`1,000`; `1e9` and larger powers of ten in short."""
    power = len(str(abs(value))) - 1
    if isinstance(value, int) and power >= 9 and abs(value) == 10**power:
        return f"{'-' if value < 0 else ''}1e{power}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
