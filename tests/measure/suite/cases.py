"""Faults and controls from their files, and the spec of each of their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tomli

from p3kit.diagnose import DETECTORS
from p3kit.spec import Spec, resolve_spec
from p3kit.symptoms import SYMPTOMS
from tests.measure.suite.hooks import HOOKS

HERE = Path(__file__).parent
Tables = dict[str, Any]
Sizes = Literal["short", "long", "guide"]
"""short: ten ticks, the quick tier · long: twenty-four ticks of the same · guide: six or seven long updates."""
SIZES: tuple[Sizes, ...] = ("short", "long", "guide")


BASE = "C01"
"""The control that is the base run."""


@dataclass(frozen=True)
class Case:
    """One fault at one strength, one control, or the healthy run that a fault is laid over (a reference). `onset` is
    the share of training at which the fault begins."""

    id: str
    title: str
    strength: str
    spec: Tables
    inject: Tables | None = None
    kind: Literal["fault", "control", "reference"] = "fault"
    harm: Literal["harmful", "contract"] = "harmful"
    repairable: bool = False
    onset: float = 0.0
    symptoms: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    """Rows that may be raised in a control: the market itself is poor."""
    guide_sizes: bool = False
    """True if a control always has the guide's sizes."""

    @property
    def name(self) -> str:
        return f"{self.id}.{self.strength}" if self.strength else self.id

    @property
    def listed(self) -> bool:
        """Return True if the fault is on the published list; X01 and on test how the rules generalise."""
        return self.id.startswith("F")

    most_seeds: int | None = None
    """Where seeds change nothing and a run takes long by the clock."""
    reference: str = BASE
    """The case that a fault is compared with: the market, the net and all else it needs to show, and nothing wrong."""

    def resolved(
        self, seed: int, sizes: Sizes = "short", *, trainer: Path | None = None, overlay: Tables | None = None
    ) -> Spec:
        """The spec of one run of this case. `overlay` comes last: the mode of diagnosis and repair."""
        tables = read(HERE / "base.toml")
        wanted: Sizes = "guide" if self.guide_sizes else sizes
        if wanted != "short":
            tables = merged(tables, read(HERE / f"{wanted}.toml"))
        tables = merged(merged(tables, self.spec), overlay or {}) | {"seeds": [seed]}
        if trainer is not None and tables["trainer"] == "ppo":
            tables["trainer"] = str(trainer)
        return resolve_spec(tables, self.name)


def load_cases() -> dict[str, Case]:
    """Every fault, every control and every reference, by name."""
    return {case.name: case for case in (*load_faults(), *load_references(), *load_controls())}


def read(path: Path) -> Tables:
    return tomli.loads(path.read_text(encoding="utf-8"))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tables:
    """`above` on `below`: tables merge, everything else replaces."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            value = merged(result[key], value)
        result[key] = value
    return result


def load_faults() -> list[Case]:
    """Every fault at every strength, in order."""
    return [case for path in sorted((HERE / "faults").glob("*.toml")) for case in _faults_of(path)]


FORMER = {"value.bootstrap": ("next_value", "truncation"), "env.stale_obs": ("shuffled",)}
"""Rows of the committed results that `env.mismatch` has replaced since, with their causes."""


def _faults_of(path: Path) -> list[Case]:
    table = read(path)
    for symptom in table["symptoms"]:
        if symptom not in DETECTORS and symptom not in FORMER:
            raise ValueError(f"{path}: no detector for {symptom!r}")
    known = {cause.id for symptom in table["symptoms"] if symptom in SYMPTOMS for cause in SYMPTOMS[symptom].causes}
    known |= {cause for symptom in table["symptoms"] for cause in FORMER.get(symptom, ())}
    if strange := set(table["causes"]) - known:
        raise ValueError(f"{path}: {sorted(strange)} are causes of none of {table['symptoms']}")
    cases = []
    for strength in table["strength"]:
        _check_hook(path, strength.get("inject"))
        cases.append(
            Case(
                id=path.stem,
                title=table["title"],
                strength=strength["name"],
                spec=merged(table.get("spec", {}), strength.get("spec", {})),
                inject=strength.get("inject"),
                harm=table["class"],
                repairable=table["repairable"],
                onset=float(strength.get("onset", table["onset"])),
                symptoms=tuple(table["symptoms"]),
                causes=tuple(table["causes"]),
                most_seeds=table.get("most_seeds"),
                reference=_reference(path),
            )
        )
    return cases


def load_references() -> list[Case]:
    """The healthy runs that harmful faults are laid over, where that is not the base run."""
    paths = [HERE / "faults" / f"{name.removesuffix('.healthy')}.toml" for name in _references().values()]
    return [
        Case(path.stem, f"{read(path)['title']}: without it", "healthy", read(path)["spec"], kind="reference")
        for path in paths
    ]


def _reference(path: Path) -> str:
    return _references().get(repr(read(path).get("spec")), BASE)


@cache
def _references() -> dict[str, str]:
    """Map from the settings of a healthy run to its name; faults with equal settings share one."""
    shared: dict[str, str] = {}
    for path in sorted((HERE / "faults").glob("*.toml")):
        table = read(path)
        if "spec" in table and table["class"] == "harmful":
            shared.setdefault(repr(table["spec"]), f"{path.stem}.healthy")
    return shared


def load_controls() -> list[Case]:
    """Every healthy configuration, in order."""
    cases = []
    for path in sorted((HERE / "controls").glob("*.toml")):
        table = read(path)
        _check_hook(path, table.get("inject"))
        cases.append(
            Case(
                id=path.stem,
                title=table["title"],
                strength="",
                spec=table.get("spec", {}),
                inject=table.get("inject"),
                kind="control",
                allowed=tuple(table.get("allowed", ())),
                guide_sizes=table.get("guide_sizes", False),
            )
        )
    return cases


def _check_hook(path: Path, inject: Tables | None) -> None:
    if inject is not None and inject.get("hook") not in HOOKS:
        raise ValueError(f"{path}: no hook {inject.get('hook')!r}; there are {', '.join(HOOKS)}")
