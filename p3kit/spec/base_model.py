"""Base of every table of a spec: the strict base model and the small types its fields share.

Strict means: a word is never a number, and a bool is never a number. NaN and infinity are refused. An int is accepted
where a float is expected (`clip = 10`), and a float without a fraction where an int is expected
(`total_timesteps = 1e6`, see `field_types.with_whole_numbers`); 2048.5 steps are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, Strict, model_serializer


class Table(BaseModel):
    """A table of the spec: immutable, with known keys only."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(self, to_plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """TOML has no null: a field that is not set is absent from the plain form."""
        return {key: value for key, value in to_plain(self).items() if value is not None}


class Live:
    """Marks a number that schedules and interventions may move while a run trains."""

    def __repr__(self) -> str:
        return "LIVE"


LIVE = Live()


@dataclass(frozen=True)
class Words:
    """Text for messages on the values of a type whose bounds do not describe them."""

    text: str


Item = TypeVar("Item")
Items = Annotated[tuple[Item, ...], Strict(False)]
"""A TOML array, kept as a tuple. The items themselves stay strict."""

MOST_COUNT = 1_000_000_000
"""Limit of whole numbers without a closer one: more never happens in a run, and torch's integers hold it."""
MOST = 1_000_000_000_000
"""Limit of other numbers without a closer one: their products stay finite in float32."""

Whole = Annotated[int, Ge(-MOST), Le(MOST)]
Number = Annotated[float, Ge(-MOST), Le(MOST)]
Pair = Annotated[tuple[Number, Number], Strict(False)]
"""A TOML array of two numbers: low, high."""

Positive = Annotated[float, Gt(0), Le(MOST)]
NotNegative = Annotated[float, Ge(0), Le(MOST)]
Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
OpenShare = Annotated[float, Gt(0), Lt(1)]
Count = Annotated[int, Ge(1), Le(MOST_COUNT)]
CountOrNone = Annotated[int, Ge(0), Le(MOST_COUNT)]

Auto = Literal["auto"]
Off = Literal["off"]


def set_fields(table: Table) -> list[str]:
    """Fields of a model that are set, by the name a user writes."""
    fields = type(table).model_fields
    return [field.alias or name for name, field in fields.items() if getattr(table, name) is not None]
