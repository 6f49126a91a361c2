"""Import a trainer's file to use its functions, without importing what trains.

A trainer imports names of `p3kit.runtime` at its top. Here placeholders replace them until they are used: loading a
policy imports no training code, and a trainer of an earlier version loads although some of its names are gone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from p3kit.errors import InputError

_PACKAGE = "p3kit.runtime"
_DEFERRED = "_p3kit_deferred"


class Deferred:
    """A name of a module that is imported when it is first used."""

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def _value(self) -> Any:
        module, name = self._place
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ImportError(f"{module}.{name} is not in this p3kit ({error})") from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._value()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value(), name)

    def __getitem__(self, _: Any) -> Deferred:
        """The generic type with a parameter, as `AgentRun[Args]` in an annotation."""
        return self

    def __or__(self, other: Any) -> Any:
        """A union in an annotation."""
        return Any

    __ror__ = __or__

    def __mro_entries__(self, _: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._value(),)


class _Loader(SourceFileLoader):
    """Compiles a trainer with deferred names; reads and writes no bytecode files."""

    def get_code(self, fullname: str) -> Any:
        tree = ast.parse(self.get_data(self.path), self.path)
        tree.body = [new for node in tree.body for new in _deferred(node)]
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


def _deferred(node: ast.stmt) -> list[ast.stmt]:
    """`from p3kit.runtime import A, B` as assignments of deferred names; other statements as they are."""
    if not isinstance(node, ast.ImportFrom) or node.level or not f"{node.module}.".startswith(f"{_PACKAGE}."):
        return [node]
    if any(alias.name == "*" for alias in node.names):
        return [node]
    return [
        ast.copy_location(assign, node)
        for alias in node.names
        for assign in ast.parse(f"{alias.asname or alias.name} = {_DEFERRED}({node.module!r}, {alias.name!r})").body
    ]


def import_trainer(path: Path, *, whole: bool = False) -> ModuleType:
    """Import a trainer's file. This runs its code. Raises InputError where that fails.

    Each file has a module of its own; a file that was imported before is not run again. `whole` imports what trains,
    too, for functions that use its constants.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "a trainer is a .py file") from error
    digest = hashlib.sha256(str(path.resolve()).encode() + b"\0" + content).hexdigest()
    name = f"p3kit_trainer_{path.stem}_{digest[:16]}" + ("_whole" if whole else "")
    if name in sys.modules:
        return sys.modules[name]
    loader = None if whole else _Loader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None or spec.loader is None:
        raise InputError(str(path), "cannot be imported", "a trainer is a .py file")
    module = importlib.util.module_from_spec(spec)
    setattr(module, _DEFERRED, Deferred)
    sys.modules[name] = module  # a dataclass with postponed annotations looks itself up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        fault = f"cannot be imported: {type(error).__name__}: {error}"
        raise InputError(str(path), fault, f"python {path} --help") from error
    return module


def missing_names(path: Path) -> list[str]:
    """Names that a trainer's file imports from p3kit and that this p3kit does not have. Imports what trains."""
    imports = [node for node in ast.walk(ast.parse(path.read_bytes(), str(path))) if isinstance(node, ast.ImportFrom)]
    own = [(node.module, alias.name) for node in imports for alias in node.names
           if node.module and not node.level and f"{node.module}.".startswith("p3kit.")]  # fmt: skip
    return [f"{module}.{name}" for module, name in own if not _exists(module, name)]


def _exists(module: str, name: str) -> bool:
    try:
        exec(f"from {module} import {name}", {})  # noqa: S102  two identifiers from a parsed import statement
    except ImportError:
        return False
    return True
