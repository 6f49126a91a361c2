"""Pages generated from code: the spec reference, the glossary of metrics, the commands.

Each function returns a whole page. `tests/docs/test_generated.py` keeps the committed pages equal to them.
"""

from __future__ import annotations

import copy
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

WRITTEN = "*This page is generated from the code: `pytest tests/docs --refresh-golden`.*"

# --- the spec ---------------------------------------------------------------------------------------------------------

SPEC_HEAD = f"""# Every key of a spec

A spec holds what differs from these defaults. Only `name` and `symbols` are required. `p3kit show SPEC` prints every value in force
with its origin. `--set KEY=VALUE` changes one value for a run. `p3kit schema` prints a JSON schema for editors.

**~** marks numbers that `[schedules]` and interventions can change during a run. These tables may differ between agents
(`[agents.AMD]`, `[matrix]`): observation, env, reward, ppo, schedules, evaluation, checkpoints, early_stop and criteria.

{WRITTEN}
"""


def spec_reference() -> str:
    """Every table and key, with its accepted values, default and sentence."""
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
    """Yield a heading and a table for a model, then for the models inside it."""
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
        "## [ppo]\n\nThe trainer's hyperparameters. p3kit reads them from the class `Args` at the top of its file; your own "
        f"trainer can have its own ([how](own.md)). All shipped trainers have these:\n\n{_knob_table(common)}"
    )
    for name, own in knobs.items():
        rest = [knob for knob in own if knob.name not in shared]
        runs = {"one": "one agent", "stack": "a stack of agents", "all": "all agents of a seed"}
        agents = runs[read_agents(shipped_trainers()[name])]
        if rest:
            yield f"### [ppo] of `{name}`\n\nOne run is {agents}. Further hyperparameters:\n\n{_knob_table(rest)}"


def _knob_table(knobs: list[Knob]) -> str:
    rows = ["| key | accepts | default | meaning |", "|---|---|---|---|"]
    for knob in knobs:
        default = f"`{toml_value(list(knob.default) if isinstance(knob.default, tuple) else knob.default)}`"
        mark = f"`{knob.name}`{' **~**' if knob.live else ''}"
        rows.append(_row(mark, field_types.in_words(knob.annotation), default, knob.doc))
    return "\n".join(rows) + "\n"


def _parts_of_interventions() -> list[type[BaseModel]]:
    """Return the tables that an intervention can contain, each once, in the order of their modules."""
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

These names stand in `metrics.jsonl`, the reports and the dashboard. Your own trainer records further
numbers as `own/NAME` ([how](own.md#a-trainer-with-your-own-hyperparameter)); the table has no others. Returns and shares are fractions,
never percent. A row is a line of `metrics.jsonl`: 4,096 env steps of a rollout (all of a shorter one), or an evaluation.

*Healthy* is the range of healthy runs; a dash means that no range is right for every task. [The diagnosis](diagnosis.md) explains values
outside it. They do not decide the grade of an agent: its criteria are those of [`[criteria]`](spec.md#criteria).

`effective/PATH` is the current value of any key that changes during a run: `effective/ppo.learning_rate`, `effective/reward.weights.cost`.

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

The result goes to stdout, progress and messages go to stderr. Exit codes: 0 success, 1 the work failed, 2 the input is wrong, 3 a probe or
criterion was not met, or the bars are too few or too old for a decision, 4 the inputs are beyond the novelty threshold
(`predict --strict`), 130 interrupted. `--json` prints the result as [documented JSON](json.md). `p3kit completion` completes the names of
commands, specs, runs, agents and trainers.

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
    command = copy.copy(command)
    command._help_option = None  # click keeps the names of the first call, and tests call commands without -h
    context = click.Context(command, info_name=name, parent=parent, **settings)  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())


def _row(*cells: str) -> str:
    """Return a Markdown row with escaped cells."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


DATA_HEAD = f"""# Files of bars

p3kit reads the files that vendors and programs write. `p3kit data FILE` prints the shape of a file, its columns, its bars, and the `[data]`
table that reads it:

```sh
p3kit data data/AAPL.csv            # one file, without a spec
p3kit init mine.toml --bars data    # a spec for the files of a folder, or for one file with several symbols
p3kit data mine.toml                # the bars of the spec: range, gaps, bars a year, splits
```

p3kit never fills, sorts or drops bars. If a file is ambiguous, an error names the file, the row, and the line to add to the spec.

## Shapes

A file can have several of these shapes at once.

{WRITTEN}

"""

DATA_TAIL = """
## Columns

Case and punctuation of names do not matter: `Adj. Close` is `adjclose`. `[data]` maps other names, and columns without a name:

```toml
[data]
source = "csv"
path = "data/{symbol}.csv"                          # relative to this file; ~ is your home folder, {{ and }} are braces
columns = { timestamp = "When", close = "Settle" }  # or numbers from 1: { timestamp = 1, close = 5 }
adjust = "adj_close"                                # all four prices × adjusted close / close
bars_per_year = 252                                 # a number of your own
```

`columns = { open = "off" }` ignores the opens of a file. `{ symbol = "off" }` ignores its column of symbols.

| missing | orders fill | stops and targets see |
|---|---|---|
| nothing | at the next open | the open, then high and low |
| `open` | at the close of the next bar | the last close, raised to the low, then lowered to the high; then high and low |
| `high` | as before | the larger of open and close as the high; the close where `open` is missing, too |
| `low` | as before | the smaller of open and close as the low; the close where `open` is missing, too |
| all three | at the close of the next bar | the close alone |

Features use `high` and `low` only if both exist. The docstring of [`p3kit.env`](../p3kit/env/__init__.py) has the exact definition.
`tests/env/test_missing_columns.py` compares every set of columns with a ledger.

## Adjusted closes

`adjust = "off"`, the default, reads prices unchanged, and a note gives the size and the time of the difference. `"adj_close"` multiplies
all four prices by adjusted close / close, as yfinance does. `"auto"` does this if the adjusted close is complete, positive and different.
`p3kit init` writes `"auto"` if the first file has such a column.

## Days and time zones

Timestamps with an offset are converted to UTC. The days of `data.split` are in UTC, too. If every bar is at local midnight, p3kit keeps
the local day, so a day in Tokyo does not become the day before.

## Bars per year

Returns and volatilities are annualised by bars per year. Metrics use the number of their split. Features use the number of the training
split, which `run.json` records with the agent.

- A split of a year or more is counted: bars ÷ years. Interruptions of more than 30 days are left out.
- A shorter split does not contain all holidays. It uses 252 sessions (365 if the weekend trades) × bars per session, and prints a note.
- Splits that differ by more than 5 % get a note.
- `data.bars_per_year` sets one number for all splits.

Sessions are derived from the bars only. A session has the date of its middle, so the Sunday evening of futures belongs to Monday.
Hourly foreign exchange has 252 × 24 = 6,048 bars a year, US stocks by the minute 252 × 390 = 98,280.

## Gaps

Nights, weekends, lunch breaks, shortened sessions and regular holidays are no gaps. Missing bars within a session and a missing day are
gaps. A note reports a bar that comes much earlier than usual: an unfinished day, or two exports in one file.
"""


def data_reference() -> str:
    """One line per shape, and the meaning of the keys of [data]."""
    from p3kit.market.shapes import SHAPES

    rows = [_row("shape", "found in", "recognised by", "read"), "|---|---|---|---|"]
    rows += [_row(shape.name, shape.found_in, shape.how, shape.reading) for shape in SHAPES]
    return DATA_HEAD + "\n".join(rows) + "\n" + DATA_TAIL


LIMITS_HEAD = f"""# What p3kit does not do

p3kit refuses a spec with one of these words. The error gives the reason and the nearest alternative.

{WRITTEN}

"""


def limits_page() -> str:
    """Wishes that are not offered, with the reason and the nearest alternative."""
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
