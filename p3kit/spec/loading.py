"""From a TOML file (and those it extends, and `--set`) to a checked `Spec`, with the origin of every value."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli

from p3kit.errors import Fault, SpecError
from p3kit.home import home
from p3kit.spec.error_messages import Problem
from p3kit.spec.expansion import expand
from p3kit.spec.keypath import KeyPath, is_written, leaves, merge, written_path
from p3kit.spec.knobs import knobs_model, read_knobs
from p3kit.spec.models import Spec
from p3kit.spec.nearest import nearest
from p3kit.spec.overrides import override_place, read_override
from p3kit.spec.paths import beside, file_of, special_file, straight
from p3kit.spec.positions import Lines, scan
from p3kit.spec.reading import read_toml
from p3kit.spec.shipped import is_file, looks_like_a_file, shipped_spec
from p3kit.spec.validation import check, model_of, spec_model

VALIDATED = "validated"
"""A table that `p3kit export` writes: how the values of its file did. It is for readers; nothing is done with it."""

MOST_FAULTS = 60
"""Largest number printed for one spec; more are often one repeated mistake."""

MAX_BYTES = 1_000_000
"""A spec is written by hand; anything larger is another file by mistake."""


@dataclass(frozen=True)
class LoadedSpec:
    """A spec and where it came from."""

    spec: Spec
    origins: dict[str, str]
    """Dotted path of every value → `specs/phase3.toml:14:1`, `--set ppo.ent_coef=0.05`, or `default`."""
    source_text: str
    """The file as the user wrote it."""
    path: Path
    overrides: tuple[str, ...] = ()
    """`key=value` of each `--set`, in order."""

    def written(self, dotted: str) -> bool:
        """Return True if the user wrote something at `dotted` or below it."""
        return any(
            origin != "default" and (path == dotted or path.startswith((f"{dotted}.", f"{dotted}[")))
            for path, origin in self.origins.items()
        )


@dataclass(frozen=True)
class Written:
    """Tables as the user wrote them, and the place of each key."""

    tables: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)

    def under(self, over: Written) -> Written:
        """`over` on top of this: what it replaces loses its places."""
        merged = merge(self.tables, over.tables)
        kept = {path: place for path, place in self.places.items() if is_written(merged, path)}
        return Written(merged, {**kept, **over.places})

    def place(self, path: KeyPath, otherwise: str) -> str:
        """Place in the file of `path`, or of the nearest table around it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.places:
                return self.places[path[:depth]]
        return otherwise


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> LoadedSpec:
    """Read and check a spec. Raises SpecError with all faults at once, each with file, line and column.

    `overrides` are `ppo.ent_coef=0.05`, as given to `--set`; later ones win.
    """
    written = _read_with_bases(Path(path), ())
    written = _with_overrides(written, overrides)
    spec, written = _build(written, f"{path}:1:1", trainer_file=None)
    loaded = LoadedSpec(spec, _origins(spec, written), _read_text(Path(path)), Path(path), tuple(overrides))
    _refuse_special_files(loaded)
    return loaded


def load_rules(path: str | Path) -> dict[str, dict[str, Any]]:
    """Thresholds of single rows from a file that contains only `[diagnose.rows."ID"]` tables, by symptom.

    For a new diagnosis of recorded runs. Raises SpecError with all faults at once, each with file, line and column.
    """
    written = _read_file(Path(path))
    rows = written.tables.get("diagnose", {})
    strange = [key for key in written.tables if key != "diagnose"] or [
        f"diagnose.{key}" for key in (rows if isinstance(rows, Mapping) else {}) if key != "rows"
    ]
    if strange:
        place = written.place(tuple(strange[0].split(".")), f"{path}:1:1")
        what = f'{strange[0]}: a file of rules holds only thresholds, as [diagnose.rows."policy.hold"]'
        raise SpecError([Fault(place, what, "give a whole spec to p3kit run")])
    smallest = Written({"name": "rules", "symbols": ["AAPL"]}).under(written)
    spec, _ = _build(smallest, f"{path}:1:1", trainer_file=None)
    found = {name: row.model_dump(exclude_none=True) for name, row in spec.diagnose.rows.items()}
    if not found:
        hint = 'for example [diagnose.rows."policy.hold"] with warn = 0.9 below it'
        raise SpecError([Fault(f"{path}:1:1", "no rule in it", hint)])
    return found


def is_spec(path: Path) -> bool:
    """False for a file that is there, has another ending than .toml, and is no TOML."""
    if path.suffix == ".toml" or path.is_dir() or not path.exists():
        return True
    if not is_file(path) or path.stat().st_size > MAX_BYTES:
        return False
    try:
        tables = read_toml(path.read_text(encoding="utf-8-sig"))
    except (tomli.TOMLDecodeError, UnicodeError, OSError, RecursionError):
        return False
    return bool({"name", "symbols", "extends"} & set(tables))


def _data_files(spec: Spec) -> list[Path]:
    """The files that `data.path` names, each once."""
    if spec.data.path is None or spec.data.source not in ("csv", "parquet"):
        return []
    template = spec.data.path
    return list(dict.fromkeys(file_of(template, symbol) for symbol in spec.symbols))


def _refuse_special_files(loaded: LoadedSpec) -> None:
    """Raise SpecError where `data.path` names a pipe, a device or a socket: reading one may never end."""
    for file in _data_files(loaded.spec):
        if kind := special_file(file):
            hint = "write the bars to a regular file, and name that"
            raise SpecError([Fault(loaded.origins["data.path"], f"data.path: {file}: is {kind}", hint)])


def check_files(loaded: LoadedSpec) -> None:
    """Check that the files of `data.path` exist. Raises SpecError if not.

    Apart from `load_spec`, since a spec is right or wrong on machines that do not hold the data, too.
    """
    data = loaded.spec.data
    if data.path is None or data.source not in ("csv", "parquet"):
        return
    missing = [str(file) for file in _data_files(loaded.spec) if not is_file(file)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        origin = loaded.origins["data.path"]
        hint = "data.path is relative to the spec file"
        if origin.startswith("--set"):
            hint = "given by --set, data.path is relative to the current folder"
        raise SpecError([Fault(origin, f"data.path: {missing[0]}{more}: no such file", hint)])


def resolve_spec(tables: Mapping[str, Any], where: str, trainer_file: str | Path | None = None) -> Spec:
    """Check plain tables (of a run.json, or made by a program) the same way. Raises SpecError, naming `where`.

    `trainer_file`: read the knobs from this file (a run's own trainer.py) in place of the one `trainer` names.
    """
    return _build(Written(dict(tables)), where, trainer_file)[0]


def spec_from_flags(
    tables: Mapping[str, Any],
    places: Mapping[KeyPath, str],
    overrides: Sequence[str] = (),
    where: str = "command line",
) -> Spec:
    """Check tables that a command made of its flags. Raises SpecError; `places` has the flag of each key as the user
    wrote it, and every fault names it, or `where` for a key without a flag. `overrides` are those of `--set`."""
    written = _with_overrides(Written(dict(tables), dict(places)), overrides)
    return _build(written, where, trainer_file=None)[0]


_BARE = {"name": "bare", "symbols": ["AAPL"], "init": {"from": "run-1"}, "tune": {"space": {"ppo.gamma": [0.9]}}}
"""A spec with every table that has defaults of its own."""


def stored_origins(
    tables: Mapping[str, Any],
    trainer_file: str | Path,
    source_text: str,
    overrides: Sequence[str],
    symbol: str | None = None,
) -> dict[str, str]:
    """Origins of resolved tables long after they were loaded, from the content of a run directory: the spec file and
    the arguments of `--set`.

    Dotted path → `spec.toml:14:1`, `--set ppo.ent_coef=0.05`, `[agents.AMD]`, `matrix`, `default`, or `an extended
    file`, whose text is not kept. `trainer_file` is the run's own, with the defaults of its knobs. `symbol` is the
    agent of these tables. The tables are not checked: a run of an older version has origins too.
    """
    written = _with_overrides(_read_source(source_text), overrides, trainer_file)
    expansion = expand(written.tables)
    written = Written(expansion.tables, _follow(written.places, expansion.came_from))
    model = spec_model(knobs_model(read_knobs(trainer_file)))
    bare = model.model_validate(_BARE)  # a foreign run may have a name that is refused
    defaults = dict(leaves(bare.model_dump(mode="json")))
    own = written.tables.get("agents", {}).get(symbol, {}) if symbol is not None else {}
    origins = {}
    for path, value in leaves(tables):
        as_written = _as_written(written.tables, path)
        if written_path(path) in written.tables.get("matrix", {}):
            origin = "matrix"
        elif is_written(own, path):
            origin = f"[agents.{symbol}]"
        elif as_written:
            origin = written.place(as_written, "spec.toml")
        else:
            is_default = path in defaults and defaults[path] == value
            origin = "default" if is_default else "an extended file"
        origins[written_path(path)] = origin
    return origins


def _read_source(text: str) -> Written:
    tables = _parse(text, "spec.toml")
    for key in ("extends", VALIDATED):
        tables.pop(key, None)
    lines = Lines(text)
    return Written(tables, {key: f"spec.toml:{lines.at(offset)}" for key, offset in scan(text).offsets.items()})


def overrides_of(command: Sequence[str]) -> list[str]:
    """Overrides that a command line gave to `--set`."""
    found = [value for flag, value in pairwise(command) if flag == "--set"]
    return found + [word.removeprefix("--set=") for word in command if word.startswith("--set=")]


def _build(written: Written, where: str, trainer_file: str | Path | None) -> tuple[Spec, Written]:
    expansion = expand(written.tables)
    tables, problems = expansion.tables, expansion.problems
    written = Written(tables, _follow(written.places, expansion.came_from))
    spec, found = check(tables, trainer_file)
    problems += found
    if problems or spec is None:
        ordered = _in_file_order(problems, written)
        faults = list(dict.fromkeys(Fault(written.place(p.path, where), p.what, p.hint) for p in ordered))
        if len(faults) > MOST_FAULTS:
            faults[MOST_FAULTS:] = [Fault(where, f"{len(faults) - MOST_FAULTS:,} more faults", "correct these first")]
        raise SpecError(faults)
    return spec, written


def _in_file_order(problems: list[Problem], written: Written) -> list[Problem]:
    """Faults of a file from its top to its bottom; files in the order of their names."""

    def position(problem: Problem) -> tuple[bool, str, int, int]:
        place = written.place(problem.path, "")
        match = re.fullmatch(r"(.*):(\d+):(\d+)", place, re.DOTALL)
        about_the_whole = not problem.path
        return (about_the_whole, match[1], int(match[2]), int(match[3])) if match else (about_the_whole, place, 0, 0)

    return sorted(problems, key=position)


def _follow(places: Mapping[KeyPath, str], came_from: Mapping[KeyPath, KeyPath]) -> dict[KeyPath, str]:
    """Places under the paths that expansion gave their keys."""
    moves: dict[KeyPath, list[KeyPath]] = {}
    for new, old in came_from.items():
        moves.setdefault(old, []).append(new)
    followed: dict[KeyPath, str] = {}
    for path, place in places.items():
        old = next((path[:depth] for depth in range(len(path), 0, -1) if path[:depth] in moves), ())
        for new in moves.get(old, [()]):
            followed[(*new, *path[len(old) :])] = place
    return followed


# --- origins ----------------------------------------------------------------------------------------------------------


def _origins(spec: Spec, written: Written) -> dict[str, str]:
    """Origin of each value of the resolved spec."""
    origins = {}
    for path, _ in leaves(spec.model_dump(mode="json")):
        as_written = _as_written(written.tables, path)
        origins[written_path(path)] = written.place(as_written, "default") if as_written else "default"
    return origins


def _as_written(tables: Any, path: KeyPath) -> KeyPath:
    """The path under which the user wrote what the resolved spec has at `path`; () when it is a default.

    One thing where a list is meant (`on = "policy.hold"`) has no index yet.
    """
    taken: list[str | int] = []
    for part in path:
        if isinstance(part, int) and not isinstance(tables, list | tuple):
            continue
        if not is_written(tables, (part,)):
            return ()
        taken.append(part)
        tables = tables[part]
    return tuple(taken)


# --- files ------------------------------------------------------------------------------------------------------------


def _read_with_bases(path: Path, below: tuple[Path, ...]) -> Written:
    """A file on top of the files it extends. `below` are the files that led here."""
    written = _read_file(path)
    bases = written.tables.pop("extends", [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(written.tables.pop(VALIDATED, {}), Mapping):
        what = f"{VALIDATED}: expected a table: what p3kit export writes about the values of a file"
        raise SpecError([Fault(written.place((VALIDATED,), str(path)), what)])
    place = written.place(("extends",), str(path))
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise SpecError([Fault(place, "extends: expected a file, or a list of files")])
    whole = Written()
    for name in bases:
        base, chain = straight(path.parent / home(name)), (*below, path)
        if not is_file(base):
            base = shipped_spec(name) or base
        if not is_file(base):  # first: not every text can be a path
            raise SpecError([Fault(place, f'extends = "{name}": no such file', _similar_file(base, chain))])
        if any(_is_same(base, one) for one in chain):
            way = " → ".join(str(one) for one in (*chain, base))
            what = f'extends = "{name}": a circle: {way}'
            raise SpecError([Fault(place, what, "take one of these extends out")])
        whole = whole.under(_read_with_bases(base, chain))
    return whole.under(written)


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _similar_file(path: Path, besides: tuple[Path, ...] = ()) -> str:
    """The nearest TOML file in the same folder, none of `besides`."""
    folder = path.parent if path.parent.is_dir() else Path()
    others = (file for file in folder.glob("*.toml") if not any(_is_same(file, one) for one in besides))
    near = nearest(path.name, sorted(file.name for file in others))
    return f'did you mean "{folder / near}"?' if near else ""


def _read_file(path: Path) -> Written:
    """One file: its tables, where each key stands, and its paths made relative to here."""
    text = _read_text(path)
    tables = _parse(text, str(path))
    lines = Lines(text)
    places = {key: f"{path}:{lines.at(offset)}" for key, offset in scan(text).offsets.items()}
    return Written(_relative_to_here(tables, path.parent), places)


def _read_text(path: Path) -> str:
    where = str(path)
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        what = "is no TOML; p3kit writes YAML and JSON for other programs, and does not read them"
        raise SpecError([Fault(where, what, "export a spec as TOML: p3kit export RUN --output NAME.toml")])
    if path.is_dir():
        specs = sorted(file.name for file in path.glob("*.toml"))
        bars = f"for bars: p3kit init mine.toml --bars {shlex.quote(str(path))}"
        inside = f"in it: {', '.join(specs)}" if specs else bars
        raise SpecError([Fault(where, "is a directory; expected a spec file", inside)])
    if not path.exists():
        raise SpecError([Fault(where, "no such file", _similar_file(path))])
    if not path.is_file():
        raise SpecError([Fault(where, "is not a regular file")])
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Fault(where, f"cannot be read: {error.strerror}")]) from None
    if len(content) > MAX_BYTES:
        what = f"is {path.stat().st_size / 1e6:.1f} MB; a spec is at most {MAX_BYTES / 1e6:g} MB"
        raise SpecError([Fault(where, what, "is it the right file?")])
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        byte = f"0x{content[error.start]:02x}"
        fault = Fault(f"{where}:{line}:{column}", f"byte {byte} is not UTF-8", "save the file as UTF-8")
        raise SpecError([fault]) from None


def _relative_to_here(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a spec are relative to its file; from here on they are relative to the current directory."""
    moved = dict(tables)
    trainer, data = moved.get("trainer"), moved.get("data")
    if isinstance(trainer, str) and looks_like_a_file(trainer):
        moved["trainer"] = beside(folder, trainer)
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        moved["data"] = {**data, "path": beside(folder, data["path"])}
    init = moved.get("init")
    if isinstance(init, dict) and "from" in init:
        moved["init"] = {**init, "from": _references(init["from"], folder)}
    return moved


def _references(named: Any, folder: Path) -> Any:
    """Runs as they are named. What is no name of a run, such as `run-42/AAPL`, is a path relative to the file."""
    if isinstance(named, list):
        return [_references(one, folder) for one in named]
    if not isinstance(named, str) or not named or re.match(r"(run-\d+|\d+|latest)(/|$)", named):
        return named
    return beside(folder, named)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return read_toml(text)
    except tomli.TOMLDecodeError as error:
        raise SpecError([_syntax_fault(error, text, where)]) from None
    except RecursionError as error:
        raise SpecError([Fault(where, str(error))]) from None


# --- syntax errors ----------------------------------------------------------------------------------------------------


def _syntax_fault(error: tomli.TOMLDecodeError, text: str, where: str) -> Fault:
    if error.msg.startswith("Cannot "):
        lines = Lines(text)
        for path, first, later in scan(text, stop=error.pos + 1).twice:
            line = lines.at(first).split(":")[0]
            is_table = text[text.rfind("\n", 0, later) + 1 :].lstrip().startswith("[")
            hint = "put the keys of both under one heading" if is_table else "keep one of them"
            return Fault(
                f"{where}:{lines.at(later)}", f"{written_path(path)}: written twice, first in line {line}", hint
            )
    message = error.msg[0].lower() + error.msg[1:]
    return Fault(
        f"{where}:{error.lineno}:{error.colno}", f"not TOML: {message}", _syntax_hint(error.msg, text, error.pos)
    )


_SYNTAX_REMEDIES = {
    "Unclosed array": "close it with ]",
    "Unclosed inline table": "close it with }",
    "Unterminated string": "close it with three quotes, as it was opened",
    "Illegal character '\\n'": 'a text ends on its own line: close it with "',
    'Expected "\'"': "a text ends on its own line: close it with '",
    "Unescaped '\\' in a string": "write \\\\ for \\, or single quotes around the text, or / in a path",
    "Expected newline or end of document after a statement": "one key = value a line; a number has no leading zero",
    "Expected '=' after a key in a key/value pair": "write key = value; text over several lines has triple quotes",
    "Expected ']' at the end of a table declaration": "write [table]",
}
"""tomli's message → the remedy."""


def _syntax_hint(message: str, text: str, position: int) -> str:
    """Guess the intended text of a value without quotes or of an unclosed one."""
    if remedy := _SYNTAX_REMEDIES.get(message):
        return remedy
    match = re.compile(r"[A-Za-z_][^\s,\]}#=]*").match(text, position)
    if match is None:
        return ""
    word = match[0]
    if word.lower() in ("null", "none", "nil"):
        return 'there is no null; leave the key out, or write "off" where that is a choice'
    if word.lower() in ("true", "false"):
        return f"write {word.lower()}"
    return f'text stands in quotes: "{word}"' if len(word) <= 60 else "text stands in quotes"


# --- overrides --------------------------------------------------------------------------------------------------------


def _with_overrides(written: Written, overrides: Sequence[str], trainer_file: str | Path | None = None) -> Written:
    """`--set KEY=VALUE` on top of what was written, in order."""
    for override in overrides:
        tables = read_override(override, model_of(written.tables, trainer_file)[0])
        place = override_place(override)
        places = {path[:depth]: place for path, _ in leaves(tables) for depth in range(1, len(path) + 1)}
        written = written.under(Written(tables, places))
    return written
