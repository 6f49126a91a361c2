"""Pages that are written from the code they are about: the spec reference, the glossary of metrics, the commands.

Each function returns a whole page. `tests/docs/test_generated.py` keeps the committed pages equal to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from p3kit.cli import COMMANDS, main
from p3kit.metrics import METRICS
from p3kit.spec import field_types, shipped_trainers
from p3kit.spec.base_model import LIVE
from p3kit.spec.interventions import Intervention
from p3kit.spec.knobs import Knob, read_agents, read_knobs
from p3kit.spec.models import Spec
from p3kit.spec.not_offered import NOT_OFFERED
from p3kit.spec.writing import toml_value

WRITTEN = "*This page is written from the code: `pytest tests/docs --refresh-golden`.*"

# --- the spec ---------------------------------------------------------------------------------------------------------

SPEC_HEAD = f"""# Every word of a spec

A spec says what differs from these defaults; `name` and `symbols` are the only keys it must have. `p3kit show SPEC` prints
every value in force with its origin, `--set KEY=VALUE` changes one for a run, and `p3kit schema` gives editors all of this.

**~** marks numbers that may move while a run trains: by `[schedules]`, and by interventions. Tables that may differ from agent
to agent (`[agents.AMD]`, `[matrix]`) are observation, env, reward, ppo, schedules, evaluation, checkpoints, early_stop and
criteria.

{WRITTEN}
"""


def spec_reference() -> str:
    """Every table and key, with what it accepts, its default, and its sentence."""
    parts = [SPEC_HEAD, "## At the top\n", _table_of(Spec, only_values=True)]
    for key, field in field_types.fields_by_key(Spec).items():
        if key == "ppo":
            parts += _knob_tables()
        elif key == "schedules":
            parts.append(f"## [schedules]\n\n{_sentence(field)}\n")
            parts += [_variant(member) for member in get_args(get_args(get_args(field.annotation)[1])[0])]
        elif key == "intervention":
            parts.append(f"## [[intervention]]\n\n{_sentence(field)}\n\n{_table_of(Intervention)}")
            parts += [_variant(model) for model in _parts_of_interventions()]
        elif model := _model_of(field_types.of_field(field)):
            parts += _tables(model, key)
    return "\n".join(parts).rstrip("\n") + "\n"


def _tables(model: type[BaseModel], path: str) -> Iterator[str]:
    """A heading and a table for a model, then for the models inside it."""
    yield f"## [{path}]\n\n{_doc(model)}\n\n{_table_of(model)}"
    for key, field in field_types.fields_by_key(model).items():
        if inner := _model_of(field_types.of_field(field)):
            yield from _tables(inner, f"{path}.{key}")


def _table_of(model: type[BaseModel], *, only_values: bool = False) -> str:
    rows = ["| key | accepts | default | meaning |", "|---|---|---|---|"]
    for key, field in field_types.fields_by_key(model).items():
        kind = field_types.of_field(field)
        if only_values and (_model_of(kind) or key in ("schedules", "intervention")):
            continue
        live = (
            " **~**" if any(LIVE in field_types.bare(one)[1] for one in [kind, *field_types.alternatives(kind)]) else ""
        )
        rows.append(_row(f"`{key}`{live}", field_types.in_words(kind), _default(field), _sentence(field)))
    return "\n".join(rows) + "\n"


def _knob_tables() -> Iterator[str]:
    """`[ppo]`: the knobs that all shipped trainers have, then what each has beside them."""
    knobs = {name: read_knobs(file) for name, file in sorted(shipped_trainers().items())}
    common = [knob for knob in knobs["ppo"] if all(knob.name in {k.name for k in own} for own in knobs.values())]
    shared = {knob.name for knob in common}
    yield (
        "## [ppo]\n\nThe trainer's own knobs, read from the class `Args` at the top of its file; a trainer of yours brings its "
        f"own ([how](own.md)). These are in all shipped trainers:\n\n{_knob_table(common)}"
    )
    for name, own in knobs.items():
        rest = [knob for knob in own if knob.name not in shared]
        runs = {"one": "one agent", "stack": "a stack of agents", "all": "all agents of a seed"}
        agents = runs[read_agents(shipped_trainers()[name])]
        if rest:
            yield f"### [ppo] of `{name}`\n\nOne run is {agents}. Beside the above:\n\n{_knob_table(rest)}"


def _knob_table(knobs: list[Knob]) -> str:
    rows = ["| key | accepts | default | meaning |", "|---|---|---|---|"]
    for knob in knobs:
        default = f"`{toml_value(list(knob.default) if isinstance(knob.default, tuple) else knob.default)}`"
        mark = f"`{knob.name}`{' **~**' if knob.live else ''}"
        rows.append(_row(mark, field_types.in_words(knob.annotation), default, knob.doc))
    return "\n".join(rows) + "\n"


def _parts_of_interventions() -> list[type[BaseModel]]:
    """Tables that can stand inside an intervention, each once, in the order of their modules."""
    from p3kit.spec import actions, conditions, interventions

    found = []
    for module in (conditions, actions, interventions):
        models = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, BaseModel)]
        found += [one for one in models if one.__module__ == module.__name__ and one is not Intervention]
    return found


def _variant(model: Any) -> str:
    model = field_types.bare(model)[0]
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__).lower()
    return f"### {name[0].upper() + name[1:]}\n\n{_doc(model)}\n\n{_table_of(model)}"


def _model_of(kind: Any) -> type[BaseModel] | None:
    members = [field_types.bare(member)[0] for member in field_types.alternatives(kind) if field_types.is_table(member)]
    return members[0] if len(members) == 1 else None


def _doc(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _sentence(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    if value is None or value is PydanticUndefined:
        return "–"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True, by_alias=True)
        if not value:
            return "–"
    return f"`{toml_value(list(value) if isinstance(value, tuple) else value)}`"


# --- metrics ----------------------------------------------------------------------------------------------------------

METRICS_HEAD = f"""# Every metric

What `metrics.jsonl`, the reports and the dashboard call by name. A trainer can record nothing that is not here. Returns and shares
are fractions, never percent. *Healthy* is what a healthy run shows, not what a verdict asks for; a dash means that no range is
known to be right for every task. What a value outside means, [the diagnosis](diagnosis.md) says.

`effective/PATH` is the value in force of any key that moves: `effective/ppo.learning_rate`, `effective/reward.weights.cost`.

{WRITTEN}
"""
GROUPS = {
    "policy": "the policy: entropy, step sizes, actions",
    "value": "the value function",
    "grad": "gradients",
    "reward": "the reward, as a whole and by component",
    "episode": "training episodes",
    "eval": "evaluations on the whole validation split",
    "perf": "speed and memory",
    "diag": "evidence for the diagnosis",
}


def metrics_glossary() -> str:
    """Every metric by group: unit, meaning, healthy range."""
    groups: dict[str, list[str]] = {}
    for metric in METRICS.values():
        group = metric.name.partition("/")[0]
        row = _row(f"`{metric.name}`", metric.unit, metric.meaning, _range(metric.healthy))
        groups.setdefault(group, ["| metric | unit | meaning | healthy |", "|---|---|---|---|"]).append(row)
    parts = [f"## {group}/: {GROUPS[group]}\n\n" + "\n".join(rows) + "\n" for group, rows in groups.items()]
    return "\n".join([METRICS_HEAD, *parts]).rstrip("\n") + "\n"


def _range(healthy: tuple[float | None, float | None] | None) -> str:
    if healthy is None:
        return "–"
    low, high = healthy
    if low is None:
        return f"≤ {high:g}"
    return f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"


# --- commands ---------------------------------------------------------------------------------------------------------

COMMANDS_HEAD = f"""# Every command

stdout is the result, stderr the progress. Exit codes: 0 fine, 1 the work failed, 2 the input is at fault, 3 a probe or criterion was
not met, or bars are too few or too old for a decision, 4 inputs are beyond the novelty threshold (`predict --strict`), 130 interrupted.
`--json` prints the result as [a documented form](json.md); completion for names of commands, specs, runs,
agents and trainers comes with `p3kit completion`.

{WRITTEN}
"""


def commands_reference() -> str:
    """`--help` of every command, as a terminal of 100 columns shows it."""
    parts = [COMMANDS_HEAD]
    context = click.Context(main, info_name="p3kit", help_option_names=["-h", "--help"])
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        parts.append(f"## p3kit {name}\n\n```text\n{_help(command, context, name)}\n```\n")
        if isinstance(command, click.Group):
            inside = click.Context(command, info_name=name, parent=context)
            for sub in command.commands:
                parts.append(f"### p3kit {name} {sub}\n\n```text\n{_help(command.commands[sub], inside, sub)}\n```\n")
    return "\n".join(parts).rstrip("\n") + "\n"


def _help(command: click.Command, parent: click.Context, name: str) -> str:
    settings = {"max_content_width": 100, "terminal_width": 100, "help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=name, parent=parent, **settings)  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())


def _row(*cells: str) -> str:
    """Nothing in a cell may break out of it."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


DATA_HEAD = f"""# Files of bars

p3kit reads files of bars as programs and vendors write them. `p3kit data FILE` names the shape of a file, shows its columns and its
bars, and prints the `[data]` table that reads it:

```sh
p3kit data data/AAPL.csv            # one file, without a spec
p3kit init mine.toml --bars data    # a spec for the files of a folder, or for one file with several symbols
p3kit data mine.toml                # the bars of the spec: range, gaps, bars a year, splits
```

Nothing is filled, sorted or dropped. What is in doubt is an error that names the file, the row, and the line to write.

## Shapes

A file may have several of these shapes at once.

{WRITTEN}

"""

DATA_TAIL = """
## Columns

Names count in any case, and without signs: `Adj. Close` is `adjclose`. For other names, or none, `[data]` maps them:

```toml
[data]
source = "csv"
path = "data/{symbol}.csv"                          # relative to this file; ~ is your home folder, {{ and }} are braces
columns = { timestamp = "When", close = "Settle" }  # or numbers from 1: { timestamp = 1, close = 5 }
adjust = "adj_close"                                # all four prices × adjusted close / close
bars_per_year = 252                                 # a number of your own
```

`columns = { open = "off" }` reads a file without its opens, `{ symbol = "off" }` without its column of symbols.

| missing | orders fill | stops and targets see |
|---|---|---|
| nothing | at the next open | the open, then high and low |
| `open` | at the close of the next bar | the last close, raised to the low, then lowered to the high; then high and low |
| `high` | as before | the larger of open and close as the high; the close where `open` is missing, too |
| `low` | as before | the smaller of open and close as the low; the close where `open` is missing, too |
| all three | at the close of the next bar | the close alone |

Features use `high` and `low` only together. The exact words are in the docstring of
[`p3kit.env`](../p3kit/env/__init__.py), and `tests/env/test_missing_columns.py` compares every set of columns with a ledger.

## Adjusted closes

`adjust = "off"`, the default, reads prices as they stand, and a note gives the size and the time of the difference.
`"adj_close"` multiplies all four prices by adjusted close / close, as yfinance does. `"auto"` does so where the adjusted close is
complete, positive and different. `p3kit init` writes `"auto"` where the first file has such a column.

## Days and time zones

Timestamps with an offset are kept in UTC, and so are the days of `data.split`. Where every bar stands at local midnight, the local
day is kept: a day in Tokyo does not become the day before.

## Bars per year

Returns and volatilities are annualised by bars per year. Metrics use the number of their split. Features use that of the training
split, which `run.json` keeps with the agent.

- A split of a year or more is counted: bars ÷ years. Interruptions of more than 30 days are left out.
- A shorter one cannot see all holidays. It uses 252 sessions (365 where the weekend trades) × the bars of a session, and a note.
- Splits that differ by more than 5 % get a note.
- `data.bars_per_year` states one number for all.

Sessions come from the bars alone. A session has the date of its middle, so the Sunday evening of futures belongs to Monday.
Foreign exchange by the hour has 252 × 24 = 6,048 bars a year, US stocks by the minute 252 × 390 = 98,280.

## Gaps

Nights, weekends, lunch breaks and shortened sessions are no gaps, and neither are holidays that come again and again. A hole within a
session and a missing day are. A bar that comes much sooner than usual is noted: a day that still runs, or two exports in one file.
"""


def data_reference() -> str:
    """One line per shape, and what the keys of [data] mean."""
    from p3kit.market.shapes import SHAPES

    rows = [_row("shape", "found in", "recognised by", "read"), "|---|---|---|---|"]
    rows += [_row(shape.name, shape.found_in, shape.how, shape.reading) for shape in SHAPES]
    return DATA_HEAD + "\n".join(rows) + "\n" + DATA_TAIL


LIMITS_HEAD = f"""# What p3kit does not do

A spec that uses one of these words is refused with the reason and the nearest thing that p3kit does.

{WRITTEN}

"""


def limits_page() -> str:
    """Wishes that are not offered, with the reason and what comes nearest."""
    rows = [_row("wish", "not offered, because", "nearest", "words in a spec"), "|---|---|---|---|"]
    rows += [
        _row(wish.name, wish.because, wish.nearest, ", ".join(f"`{word}`" for word in wish.words))
        for wish in NOT_OFFERED
    ]
    system = _row("Windows", "locks and processes are POSIX's", "WSL (Windows Subsystem for Linux)", "")
    return LIMITS_HEAD + "\n".join([*rows, system]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "data.md": data_reference,
    "spec.md": spec_reference,
    "metrics.md": metrics_glossary,
    "commands.md": commands_reference,
    "limits.md": limits_page,
}
