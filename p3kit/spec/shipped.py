"""Paths of the shipped trainers and specs: beside p3kit/ in a checkout, in p3kit/_shipped/ in a wheel."""

from __future__ import annotations

import errno
from pathlib import Path

from p3kit.errors import Fault, InputError, SpecError
from p3kit.home import home
from p3kit.spec.nearest import did_you_mean
from p3kit.spec.not_offered import not_offered

OTHER_ALGORITHMS = {
    "sac": "SAC is made for continuous actions; these are discrete",
    "td3": "TD3 is made for continuous actions; these are discrete",
    "dqn": "DQN has no policy gradient and takes no entropy bonus",
    "a2c": "A2C is PPO without clipping, and less stable",
}
"""What the guide (1.1) weighed and left, and why."""


def shipped_trainers() -> dict[str, Path]:
    """Trainers by name. Files that begin with _ are none."""
    return {path.stem: path for path in _shipped("trainers", "*.py") if not path.name.startswith("_")}


def shipped_specs() -> list[Path]:
    """The specs that come with p3kit, sorted by name."""
    return _shipped("specs", "*.toml")


def find_spec(path: Path) -> Path:
    """`path` if it is there, else the shipped spec of that name (`specs/phase3.toml` works outside a checkout too).

    Raises InputError when there is neither, with the nearest name.
    """
    if path.exists():
        return path
    if (found := shipped_spec(path)) is not None:
        return found
    shipped = [f"specs/{spec.name}" for spec in shipped_specs()]
    beside = [other.as_posix() for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    names, others = [*beside, *shipped], f"shipped are {', '.join(shipped)}"
    if path.suffix.lower() not in ("", ".toml"):  # bars, or a spec whose ending has a typo
        bars = [other.as_posix() for other in path.parent.glob(f"*{path.suffix}")]
        names, others = (
            [*bars, *(name for name in names if Path(name).stem == path.stem)],
            "give a spec or a file of bars",
        )
    hint = did_you_mean(path.as_posix(), names, f"; {others}")
    raise InputError(path.as_posix(), "no such file", hint.removeprefix("; "))


def shipped_spec(name: str | Path) -> Path | None:
    """The shipped spec with the name `specs/NAME.toml` or `NAME.toml`."""
    plain = Path(name).as_posix().removeprefix("specs/")
    return next((spec for spec in shipped_specs() if spec.name == plain), None)


def is_file(path: Path) -> bool:
    """`path.is_file()`, and no for a name so long that no file can have it, where that raises."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def looks_like_a_file(trainer: str) -> bool:
    """Return True if `trainer` names a file of the user's own, not a shipped trainer."""
    return trainer.endswith(".py") or "/" in trainer or "\\" in trainer


def find_trainer(name_or_path: str, spec_dir: str | Path = ".") -> Path:
    """The file of a trainer: shipped, by name, or the user's own, by path relative to `spec_dir`. Raises SpecError."""
    if looks_like_a_file(name_or_path):
        own = Path(spec_dir) / home(name_or_path)
        if not is_file(own):
            beside = [path.name for path in own.parent.glob("*.py")] if own.parent.is_dir() else []
            otherwise = "; p3kit eject ppo writes one to begin with, trainer = is relative to the spec"
            raise SpecError([Fault("trainer", f"{own}: no such file{did_you_mean(own.name, beside, otherwise)}")])
        return own
    trainers = shipped_trainers()
    if name_or_path in trainers:
        return trainers[name_or_path]
    if name_or_path.lower() in OTHER_ALGORITHMS:
        reason = OTHER_ALGORITHMS[name_or_path.lower()]
        raise SpecError([Fault("trainer", f'"{name_or_path}" is not offered', f'{reason}; use "ppo"')])
    if wish := not_offered(name_or_path):
        raise SpecError([Fault("trainer", f'"{name_or_path}"', wish)])
    known = f"; shipped are {', '.join(sorted(trainers)) or 'none'}, or give the path of your own .py file"
    raise SpecError([Fault("trainer", f'no trainer "{name_or_path}"{did_you_mean(name_or_path, trainers, known)}')])


def _shipped(kind: str, pattern: str) -> list[Path]:
    package = Path(__file__).parents[1]
    for folder in (package / "_shipped" / kind, package.parent / kind):
        if folder.is_dir():
            return sorted(folder.glob(pattern))
    return []
