"""A trainer's knobs, read from the class `Args` at the top of its file without importing it (no torch here).

A knob is defined once, in the trainer:

    @dataclass
    class Args:
        learning_rate: Annotated[float, Gt(0), Le(1)] = 3e-4
        \"\"\"Step size of Adam; higher learns faster and less steadily.\"\"\"

The type is `float`, `int`, `bool`, `str`, `tuple[int, ...]`, `Literal[...]`, a union of those, or `Annotated[...]`
around any of these with bounds (`Gt`, `Ge`, `Lt`, `Le`) and markers: `"size"` fixes tensor shapes, `"fixed"` is read
once, at the start; neither can be scheduled. Bounds of a tuple are those of its items. A number without bounds lies
within ± 10¹². Defaults are literals, and a sentence stands under each field.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt
from pydantic import Field, Strict, TypeAdapter, ValidationError, create_model

from p3kit.errors import Fault, SpecError
from p3kit.spec import field_types
from p3kit.spec.base_model import LIVE, MOST
from p3kit.spec.models import Knobs

SCALARS: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}
BOUNDS: dict[str, Callable[[Any], BaseMetadata]] = {"Gt": Gt, "Ge": Ge, "Lt": Lt, "Le": Le}
MARKERS = ("size", "fixed")
"""Annotations of knobs that cannot change while a run trains."""

REQUIRED = {"total_timesteps": int}
"""Knobs of every trainer that a plan needs."""


@dataclass(frozen=True)
class Knob:
    """One field of a trainer's `Args`."""

    name: str
    annotation: Any
    """A type for pydantic; its bounds are inside."""
    default: Any
    bounds: tuple[BaseMetadata, ...]
    size: bool
    """Fixes tensor shapes."""
    live: bool
    """May be scheduled and changed while a run trains: a float without a marker."""
    doc: str
    line: int


def read_knobs(trainer_file: str | Path) -> list[Knob]:
    """The knobs of a trainer, in the order of its file. Raises SpecError with `file:line:column` of every fault."""
    path = Path(trainer_file)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Fault(str(path), f"cannot read the trainer: {error}")]) from None
    return list(_knobs_of(str(path), source))


AGENTS = ("one", "stack", "all")
"""Agents per run of a trainer: one; several independent ones; or all of a seed and a matrix point, which share an
encoder."""


@lru_cache(maxsize=64)
def read_agents(trainer_file: Path) -> Literal["one", "stack", "all"]:
    """The literal `AGENTS = "…"` at the top of a trainer, "one" where there is none. SpecError for other words."""
    for node in ast.parse(trainer_file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["AGENTS"]:
            word = node.value.value if isinstance(node.value, ast.Constant) else None
            if word not in AGENTS:
                where, known = f"{trainer_file}:{node.lineno}:1", ", ".join(f'"{name}"' for name in AGENTS)
                raise SpecError([Fault(where, f"AGENTS = {ast.unparse(node.value)}", f"it is one of {known}")])
            return word  # type: ignore[return-value]
    return "one"


def knobs_model(knobs: Sequence[Knob]) -> type[Knobs]:
    """The pydantic model of `[ppo]` for these knobs. Equal knobs give the same class."""
    return _knobs_model(tuple(knobs))


@lru_cache(maxsize=64)
def _knobs_model(knobs: tuple[Knob, ...]) -> type[Knobs]:
    fields: dict[str, Any] = {knob.name: (knob.annotation, Field(knob.default, description=knob.doc)) for knob in knobs}
    return create_model("Knobs", __base__=Knobs, __doc__=Knobs.__doc__, **fields)


@lru_cache(maxsize=64)
def _knobs_of(path: str, source: str) -> tuple[Knob, ...]:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise SpecError(
            [Fault(f"{path}:{error.lineno}:{error.offset}", f"not Python: {error.msg}", f"python {path} shows it")]
        ) from None
    args = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Args"), None)
    if args is None:
        raise SpecError([Fault(f"{path}:1:1", "no class Args", "a trainer's knobs are the fields of a dataclass Args")])
    return _Reader(path).read(args)


class _Reader:
    """Turns the body of `class Args` into knobs and collects every fault on the way."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[Fault] = []

    def read(self, args: ast.ClassDef) -> tuple[Knob, ...]:
        knobs = [knob for field, doc in self._fields(args) if (knob := self._knob(field, doc))]
        names = [knob.name for knob in knobs]
        for knob in knobs:
            if names.count(knob.name) > 1:
                self._fault(knob.line, 5, f"Args.{knob.name} is defined more than once")
        for name, kind in REQUIRED.items():
            if not self.faults and not any(k.name == name and isinstance(k.default, kind) for k in knobs):
                self._fault(args.lineno, 1, f"Args has no {name}: {kind.__name__}, which every plan needs")
        if self.faults:
            raise SpecError(dict.fromkeys(self.faults))
        return tuple(knobs)

    def _fault(self, line: int, column: int, what: str, hint: str = "") -> None:
        self.faults.append(Fault(f"{self.path}:{line}:{column}", what, hint))

    def _fields(self, args: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
        """Fields with the sentence under each. Methods and the class's docstring are passed over."""
        for node, below in zip(args.body, [*args.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                yield node, _sentence(below)
            elif isinstance(node, ast.Assign):
                where = node.lineno, node.col_offset + 1
                self._fault(*where, "a field of Args without a type", "write name: type = value")

    def _knob(self, field: ast.AnnAssign, doc: str) -> Knob | None:
        where = field.lineno, field.col_offset + 1
        name = field.target.id if isinstance(field.target, ast.Name) else ast.unparse(field.target)
        if not doc:
            self._fault(
                *where, f"Args.{name} has no sentence under it", "write meaning, unit, and effect of raising it"
            )
        try:
            kind = _Kind.of(field.annotation)
            default = ast.literal_eval(field.value) if field.value is not None else ...
        except _NotAKnobError as problem:
            self._fault(*where, f"Args.{name}: {problem}", "see p3kit/spec/knobs.py")
            return None
        except ValueError:
            default = ...
        if default is ...:
            self._fault(*where, f"Args.{name}: expected a literal default")
            return None
        knob = Knob(name, kind.annotation(), default, kind.bounds, "size" in kind.markers, kind.is_live, doc, where[0])
        self._check_default(knob, where)
        return knob

    def _check_default(self, knob: Knob, where: tuple[int, int]) -> None:
        try:
            TypeAdapter(knob.annotation).validate_python(knob.default, strict=True)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            self._fault(*where, f"Args.{knob.name} = {knob.default!r}: {said}", "give a default within its own bounds")


class _NotAKnobError(Exception):
    """An annotation that is none of the forms a knob may have."""


@dataclass(frozen=True)
class _Kind:
    """Content of an annotation: alternatives (types of a union), bounds on its numbers, markers."""

    alternatives: tuple[Any, ...]
    bounds: tuple[BaseMetadata, ...] = ()
    markers: tuple[str, ...] = ()

    @property
    def is_live(self) -> bool:
        return not self.markers and any(_core(alternative) is float for alternative in self.alternatives)

    @classmethod
    def of(cls, node: ast.expr) -> _Kind:
        match node:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                a, b = cls.of(left), cls.of(right)
                return cls(a.alternatives + b.alternatives, a.bounds + b.bounds, a.markers + b.markers)
            case ast.Subscript(value=value, slice=inside) if _name(value) == "Annotated":
                return cls._annotated(inside)
            case ast.Subscript(value=value, slice=inside) if _name(value) == "Literal":
                choices = inside.elts if isinstance(inside, ast.Tuple) else [inside]
                return cls((Literal[tuple(ast.literal_eval(choice) for choice in choices)],))
            case ast.Subscript(value=value, slice=ast.Tuple(elts=[item, ast.Constant(value=end)])) if (
                _name(value) == "tuple" and end is ...
            ):
                items = cls.of(item)
                return cls((_tuple_of(reduce(operator.or_, items.alternatives)),), items.bounds, items.markers)
            case _ if (name := _name(node)) in SCALARS:
                return cls((SCALARS[name],))
        raise _NotAKnobError(f"{ast.unparse(node)} is not a type a knob may have")

    @classmethod
    def _annotated(cls, inside: ast.expr) -> _Kind:
        if not isinstance(inside, ast.Tuple):
            raise _NotAKnobError("Annotated needs a type and its bounds")
        kind = cls.of(inside.elts[0])
        extras = [_bound_or_marker(node) for node in inside.elts[1:]]
        bounds = tuple(extra for extra in extras if isinstance(extra, BaseMetadata))
        markers = tuple(extra for extra in extras if isinstance(extra, str))
        bounded = tuple(_bounded(alternative, bounds) for alternative in kind.alternatives)
        return cls(bounded, kind.bounds + bounds, kind.markers + markers)

    def annotation(self) -> Any:
        """A type for pydantic: every number has limits; floats that may move are marked LIVE."""
        limited = map(_limited, self.alternatives)
        marked = [Annotated[kind, LIVE] if self.is_live and _core(kind) is float else kind for kind in limited]
        return reduce(operator.or_, marked)


def _bounded(kind: Any, bounds: tuple[BaseMetadata, ...]) -> Any:
    """Bounds apply to the numbers of a type: to a number itself, or to the items of a tuple; words have none."""
    if getattr(_core(kind), "__origin__", None) is tuple:
        return _of_items(kind, lambda item: _bounded(item, bounds))
    if _core(kind) not in (int, float):
        return kind
    return reduce(lambda bounded, bound: Annotated[bounded, bound], bounds, kind)


def _limited(kind: Any) -> Any:
    """Limits for the sides on which an author states none: a number of any size may hang a trainer."""
    if getattr(_core(kind), "__origin__", None) is tuple:
        return _of_items(kind, _limited)
    stated = {type(mark) for mark in getattr(kind, "__metadata__", ())}
    lowest = () if {Gt, Ge} & stated else (Ge(-MOST),)
    highest = () if {Lt, Le} & stated else (Le(MOST),)
    return _bounded(kind, (*lowest, *highest))


def _of_items(kind: Any, change: Callable[[Any], Any]) -> Any:
    """A tuple whose types of items are changed one by one."""
    (items, _) = _core(kind).__args__
    return _tuple_of(reduce(operator.or_, map(change, field_types.alternatives(items))))


def _tuple_of(item: Any) -> Any:
    """A tuple that TOML's arrays are accepted for."""
    return Annotated[tuple.__class_getitem__((item, ...)), Strict(False)]


def _core(kind: Any) -> Any:
    """The type inside `Annotated`."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _bound_or_marker(node: ast.expr) -> BaseMetadata | str:
    match node:
        case ast.Constant(value=str(marker)) if marker in MARKERS:
            return marker
        case ast.Call(func=func, args=[value], keywords=[]) if (name := _name(func)) in BOUNDS:
            try:
                return BOUNDS[name](ast.literal_eval(value))
            except ValueError:
                pass
    raise _NotAKnobError(f"{ast.unparse(node)} is neither a bound (Gt, Ge, Lt, Le of a number) nor a marker {MARKERS}")


def _name(node: ast.expr) -> str:
    """`Literal` and `typing.Literal` are the same."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _sentence(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""
