"""The files for a start: a new spec, a shipped spec to change, a trainer to change.

All checks pass before a file is written, and an existing file is overwritten only on request.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Literal

from p3kit.errors import Fault, InputError, SpecError
from p3kit.spec.loading import resolve_spec
from p3kit.spec.models import derived_name
from p3kit.spec.nearest import did_you_mean
from p3kit.spec.reading import read_toml
from p3kit.spec.schema import schema_text
from p3kit.spec.shipped import find_trainer, looks_like_a_file, shipped_specs, shipped_trainers
from p3kit.spec.writing import toml_value

DEFAULT_NAME = "experiment"
SCHEMA_NAME = "p3kit.schema.json"
_TEMPLATE = Path(__file__).with_name("starter.toml")


@dataclass(frozen=True)
class Started:
    """Files that were written; `kept` are other schemas that existed before and were not changed."""

    spec: Path
    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    has_own_bars: bool = False
    """True if the spec reads the user's own files, which should be checked before training."""


@dataclass(frozen=True)
class OwnBars:
    """The [data] table for a user's files."""

    kind: Literal["csv", "parquet"]
    path: str
    """`data.path`, seen from the folder of the spec."""
    symbols: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    """Further keys of [data]."""


def spec_file(place: Path) -> Path:
    """The file that `p3kit init PLACE` writes."""
    return place if place.suffix == ".toml" else place / f"{DEFAULT_NAME}.toml"


def start_spec(place: Path, *, bars: OwnBars | None, trainer: str | None, overwrite: bool) -> Started:
    """Write a commented spec to `place` (a .toml file, or a folder for `experiment.toml`), and its schema beside it.

    `bars` are the user's files; without it the spec trades the shipped sample. `trainer` is a name, or the
    path of the user's own file, whose knobs the schema then has. Raises InputError.
    """
    file = spec_file(place)
    trainer = trainer or ("ppo" if bars is None or len(bars.symbols) == 1 else "ppo_stacked")
    own = looks_like_a_file(trainer)
    schema = file.with_name(f"{Path(trainer).stem}.schema.json" if own else SCHEMA_NAME)
    text = _starter(file, schema.name, bars, trainer)
    knobs = schema_text(trainer) if own else schema_text()
    _check(text, file, trainer)
    return replace(_write({file: text}, {schema: knobs}, overwrite), has_own_bars=bars is not None)


def copy_shipped(place: Path, name: str, *, overwrite: bool) -> Started:
    """Copy the shipped spec `name` and those that it extends into the folder `place`, the schema with them."""
    shipped = {spec.stem: spec for spec in shipped_specs()}
    stem = Path(name).stem
    if stem not in shipped:
        known = f"; shipped are {', '.join(shipped)}"
        raise InputError(f"--from {name}", f"no shipped spec{did_you_mean(stem, shipped, known)}")
    if place.suffix == ".toml":
        raise InputError(str(place), "is a file; --from keeps the names of the specs", "name a folder")
    chain = _with_bases(shipped[stem])
    texts = {place / spec.name: spec.read_text(encoding="utf-8") for spec in chain}
    return _write(texts, {place / SCHEMA_NAME: schema_text()}, overwrite)


def eject(trainer: str, place: Path | None, *, overwrite: bool) -> Path:
    """Copy a shipped trainer, byte for byte, to `place` (a file, a folder, or here) as `my_NAME.py`."""
    if looks_like_a_file(trainer):
        raise InputError(trainer, "is a file already", f"eject takes a name: {', '.join(sorted(shipped_trainers()))}")
    source = find_trainer(trainer)
    target = place or Path()
    if target.is_dir() or not target.suffix:
        target = target / f"my_{trainer}.py"
    if target.suffix != ".py":
        raise InputError(str(target), "a trainer is a Python file", "end its name in .py")
    _refuse_what_is_there([target], overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def _starter(file: Path, schema: str, bars: OwnBars | None, trainer: str) -> str:
    if bars is None:
        symbols: Sequence[str] = ["AAPL"]
        data = 'source = "sample"                      # ten real stocks that come with p3kit (daily, 2010 to 2022);\n'
        data += "#   for files of yours: p3kit init --bars FOLDER"
    else:
        symbols = bars.symbols
        data = f'source = "{bars.kind}"\n'
        data += f"path = {toml_value(bars.path)}   # relative to this file"
        data += "".join(f"\n{key} = {toml_value(value)}" for key, value in bars.options.items())
        if "adjust" in bars.options:
            data += '                        # all prices × adjusted close / close; "off" leaves them as they are'
    if looks_like_a_file(trainer):
        trainer = Path(os.path.relpath(os.path.realpath(trainer), os.path.realpath(file.parent))).as_posix()
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        schema=schema,
        file=file.name,
        name=derived_name(file.stem),
        trainer=trainer,
        symbols=toml_value(list(symbols)),
        data=data,
    )


def _check(text: str, file: Path, trainer: str) -> None:
    """A symbol or a name that the language does not allow is found before anything is written."""
    tables = {**read_toml(text), "trainer": trainer}
    del tables["extends"]  # a shipped spec, which is right
    try:
        resolve_spec(tables, str(file))
    except SpecError as error:
        raise SpecError(Fault(str(file), fault.what, fault.hint) for fault in error.faults) from None


def _with_bases(spec: Path) -> list[Path]:
    """A shipped spec and, below it, those it extends."""
    bases = read_toml(spec.read_text(encoding="utf-8")).get("extends", [])
    names = [bases] if isinstance(bases, str) else bases
    return [spec, *(file for name in names for file in _with_bases(spec.parent / name))]


def _write(specs: Mapping[Path, str], schemas: Mapping[Path, str], overwrite: bool) -> Started:
    """All files, or none where one of the specs is there already."""
    _refuse_what_is_there(specs, overwrite)
    kept = tuple(path for path in schemas if path.exists() and not overwrite)
    texts = {**specs, **{path: text for path, text in schemas.items() if path not in kept}}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    others = tuple(path for path in kept if path.read_bytes() != schemas[path].encode())
    return Started(next(iter(specs)), tuple(texts), others)


def _refuse_what_is_there(paths: Mapping[Path, str] | Sequence[Path], overwrite: bool) -> None:
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(", ".join(there), "is there already", "--force writes over it; or give another name")
