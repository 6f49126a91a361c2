"""Actions of an `[[intervention]]`: these verbs are all there is, and no code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le, MinLen
from pydantic import Discriminator, Field, Tag, model_validator

from p3kit.spec.base_model import Number, Positive, Table, set_fields
from p3kit.spec.conditions import Span

Permanent = Literal["permanent"]
UntilRelease = Literal["release"]
Duration = Permanent | UntilRelease | Span


class Set(Table):
    """Set a key to a value. A schedule on it continues and is hidden meanwhile."""

    set: str
    """A spec path; a bare name means ppo.NAME."""
    to: Number
    """The value."""
    until: Duration = "permanent"
    """permanent, release, or a span such as { env_steps = 10_000 }."""
    ramp: Span | None = None
    """Change gradually over this span."""


class Scale(Table):
    """Multiply the effective value of a key; schedules continue."""

    scale: str
    """A spec path; a bare name means ppo.NAME."""
    by: Positive
    """The factor."""
    max: Number | None = None
    """Never above this; needed when the factor is above 1."""
    min: Number | None = None
    """Never below this; needed when the factor is below 1."""
    until: Duration = "permanent"
    """permanent, release, or a span such as { env_steps = 10_000 }."""
    ramp: Span | None = None
    """Change gradually over this span."""

    @model_validator(mode="after")
    def _is_bounded(self) -> Scale:
        if self.by == 1:
            raise ValueError("by = 1 changes nothing")
        return _check_bound(self, self.by, upwards=self.by > 1)


class Add(Table):
    """Add to the effective value of a key; schedules continue."""

    add: str
    """A spec path; a bare name means ppo.NAME."""
    by: Number
    """Number to add; may be negative."""
    max: Number | None = None
    """Never above this; needed when `by` is above 0."""
    min: Number | None = None
    """Never below this; needed when `by` is below 0."""
    until: Duration = "permanent"
    """permanent, release, or a span such as { env_steps = 10_000 }."""
    ramp: Span | None = None
    """Change gradually over this span."""

    @model_validator(mode="after")
    def _is_bounded(self) -> Add:
        if self.by == 0:
            raise ValueError("by = 0 changes nothing")
        return _check_bound(self, self.by, upwards=self.by > 0)


Modifier = TypeVar("Modifier", bound=Table)


def _check_bound(modifier: Modifier, by: float, upwards: bool) -> Modifier:
    side = "max" if upwards else "min"
    if getattr(modifier, side) is None:
        raise ValueError(f"by = {by:g} needs a {side}, so that repeating it cannot run away")
    return modifier


class Rollback(Table):
    """Return to earlier weights, optimiser and normalisers. Needs a change beside it, or the same failure repeats."""

    rollback: Literal["last_good", "init"]
    """The newest checkpoint without an open symptom, or the initial weights."""
    otherwise: Literal["init", "stop"] = Field("init", alias="else")
    """Fallback if there is none."""
    over_budget: Literal["block", "stay"] = "block"
    """If `diagnose.budget` forbids the rollback: block the rule, or keep the weights and make its other changes."""


class Reinit(Table):
    """Draw new initial weights for a part of the network, at the end of the update; its optimiser moments are reset to
    0."""

    reinit: Literal["dormant", "policy_head", "value_head"]
    """Part to draw: dormant hidden units, or a head; a policy's head gets small weights."""


class Freeze(Table):
    """Stop a part from changing, for the rest of the run."""

    freeze: Literal["encoder", "normalizer"]
    """Part to freeze: the encoder that all agents share (scope = "run"), or the statistics of observations."""


class Normalize(Table):
    """Start running statistics for the rest of the run. Statistics that the spec has from the start begin again."""

    normalize: Literal["rewards", "observations"]
    """Values to divide by their spread from now on: rewards as with reward.scaling = "running", or the observation
    values whose root mean square is above 5."""


class Dump(Table):
    """Write evidence into the run directory."""

    dump: Literal["episode_replay", "minibatch"]
    """Evidence to write."""
    episodes: Annotated[int, Ge(1), Le(1_000)] = 2
    """Episodes to replay."""


class Stop(Table):
    """End the agent's training."""

    stop: Literal["fail", "done"]
    """Result of the run."""


class Note(Table):
    """Journal a sentence."""

    note: Annotated[str, MinLen(1)]
    """The sentence."""


VERBS: dict[str, type[Table]] = {
    "set": Set,
    "scale": Scale,
    "add": Add,
    "rollback": Rollback,
    "reinit": Reinit,
    "freeze": Freeze,
    "normalize": Normalize,
    "dump": Dump,
    "stop": Stop,
    "note": Note,
}
"""Every verb an intervention may use."""

HARMLESS = (Dump, Note)
"""Verbs that leave the training alone."""


def _verb(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else set_fields(value) if isinstance(value, Table) else ()
    return next((verb for verb in VERBS if verb in keys), None)


Action = Annotated[
    Annotated[Set, Tag("set")]
    | Annotated[Scale, Tag("scale")]
    | Annotated[Add, Tag("add")]
    | Annotated[Rollback, Tag("rollback")]
    | Annotated[Reinit, Tag("reinit")]
    | Annotated[Freeze, Tag("freeze")]
    | Annotated[Normalize, Tag("normalize")]
    | Annotated[Dump, Tag("dump")]
    | Annotated[Stop, Tag("stop")]
    | Annotated[Note, Tag("note")],
    Discriminator(
        _verb,
        custom_error_type="unknown_form",
        custom_error_message=f"expected a table with one of the verbs {', '.join(VERBS)}",
    ),
]


def written_keys(action: Table) -> Iterator[str]:
    """The key that an action moves, as it is written; nothing for other verbs."""
    match action:
        case Set(set=key) | Scale(scale=key) | Add(add=key):
            yield key


def changes_something(action: Table) -> bool:
    """Return True if an action changes what happens next in training."""
    return isinstance(action, Set | Scale | Add | Reinit | Freeze | Normalize)
