"""trainers/ppo.py stays a file that a reader of CleanRL reads from top to bottom: its size, counted from the source.

A *name of the framework* is a name imported from p3kit, or an attribute of an object that p3kit made: of such an
import, of what calling it returns, and of what its attributes return in turn. Not counted are `env.reset` and
`env.step` with the transition that they return, whose fields `Buffer` lists, and the sizes of the spaces.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
import torch

from .conftest import TRAINERS

SPACES = {"observation_size", "num_actions", "observation_space", "action_space"}
TRANSITIONS = {"reset", "step"}
TORCH = {name for kind in (torch.Tensor, torch.Generator, torch.amp.GradScaler, slice) for name in dir(kind)}
HANDED_ON = {"iter", "next", "zip", "enumerate", "partial", "list", "tuple"}
"""Calls that return what they are given."""


class FrameworkNames(ast.NodeVisitor):
    """Follows objects of p3kit through a module: assignments, loops, `with`, tuples, closures and parameters.

    An object of the framework stays one whatever it is called, so its attributes count under every alias. Attributes
    that torch's own objects have do not count on what a call returns, since that is mostly a tensor. The trainer's own
    fields (those of Args) do not count either.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.names: set[str] = set()
        self.direct: set[tuple[str, str]] = set()  # (function, variable) that holds a run: imports, and made by them
        self.returned: set[tuple[str, str]] = set()  # the same, of what a run's calls and attributes return
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        fields = [node.target for kind in classes for node in kind.body if isinstance(node, ast.AnnAssign)]
        self.own_fields = {field.id for field in fields if isinstance(field, ast.Name)}
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self.scopes: list[str] = [""]
        before = -1
        while before != self._found():  # until nothing new is found, so that the order in the file does not matter
            before = self._found()
            self.visit(tree)

    def _found(self) -> int:
        return len(self.direct) + len(self.returned) + len(self.names)

    # ── what is of the framework: 2 a run, 1 what it returns, 0 nothing ──────────────────────────────────────────────

    def rank(self, node: ast.AST | None) -> int:
        if isinstance(node, ast.Name):
            known = [(scope, node.id) for scope in self.scopes]
            return 2 * any(name in self.direct for name in known) or int(any(name in self.returned for name in known))
        if isinstance(node, ast.Attribute):
            return min(self.rank(node.value), 1) if self._counts(node) else 0
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in HANDED_ON:
                return max(map(self.rank, node.args), default=0)
            return self.rank(node.func)
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return max(map(self.rank, node.elts), default=0)
        if isinstance(node, ast.IfExp):
            return max(self.rank(node.body), self.rank(node.orelse))
        if isinstance(node, ast.BoolOp):
            return max(map(self.rank, node.values))
        if isinstance(node, ast.NamedExpr | ast.Starred | ast.Subscript):
            return self.rank(node.value)
        return 0

    def _counts(self, node: ast.Attribute) -> bool:
        if node.attr in TRANSITIONS | SPACES | self.own_fields:
            return False
        rank = self.rank(node.value)
        return rank == 2 or (rank == 1 and node.attr not in TORCH)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._counts(node):
            self.names.add(node.attr)
        self.generic_visit(node)

    # ── where objects come from, and where they go ───────────────────────────────────────────────────────────────────

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._import(node.module or "", [(name.name, name.asname or name.name) for name in node.names])

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._import(name.name, [(name.name, name.asname or name.name.split(".")[0])])

    def _import(self, module: str, names: list[tuple[str, str]]) -> None:
        if module.split(".")[0] == "p3kit":
            self.names |= {name for name, _ in names}
            self.direct |= {(self.scopes[-1], bound) for _, bound in names}

    def _bind(self, target: ast.AST, value: ast.AST | None) -> None:
        if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            for one, its_value in zip(target.elts, value.elts, strict=False):
                self._bind(one, its_value)
            return
        rank = self.rank(value)
        names = {(self.scopes[-1], name.id) for name in ast.walk(target) if isinstance(name, ast.Name)}
        if rank:
            (self.direct if rank == 2 else self.returned).update(names)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bind(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._bind(node.target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._bind(node.target, node.value)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            if item.optional_vars is not None:
                self._bind(item.optional_vars, item.context_expr)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.scopes.append(node.name)
        for parameter in [*node.args.args, *node.args.kwonlyargs]:
            if any(self.rank(part) == 2 for part in ast.walk(parameter.annotation or ast.Pass())):
                self.direct.add((node.name, parameter.arg))
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("getattr", "setattr", "hasattr", "vars"):
            assert not any(map(self.rank, node.args)), f"line {node.lineno}: {name} hides names"
        if name in self.functions:  # into the parameters of a function of the file
            arguments = self.functions[name].args
            named = [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg]
            handed = [(parameter.arg, value) for parameter, value in zip(arguments.args, node.args, strict=False)]
            for parameter, value in handed + named:
                if rank := self.rank(value):
                    (self.direct if rank == 2 else self.returned).add((name, parameter))
        self.generic_visit(node)


def framework_names(source: str) -> set[str]:
    return FrameworkNames(ast.parse(source)).names


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def depth(function: ast.FunctionDef) -> int:
    """Levels of indentation of the deepest statement; 1 in the function's own body."""
    statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    return max(node.col_offset - function.col_offset for node in statements) // 4


SOURCE = (TRAINERS / "ppo.py").read_text(encoding="utf-8")


def test_the_file_has_at_most_435_lines() -> None:
    assert len(SOURCE.splitlines()) <= 435


def test_no_function_is_longer_than_180_lines_or_deeper_than_six_levels() -> None:
    for function in functions(ast.parse(SOURCE)):
        assert (function.end_lineno or 0) - function.lineno + 1 <= 180, function.name
        assert depth(function) <= 6, function.name


def test_it_uses_at_most_15_names_of_the_framework() -> None:
    names = framework_names(SOURCE)
    assert len(names) <= 15, sorted(names)


def test_what_a_reader_of_ppo_looks_for_is_in_the_file() -> None:
    names = {node.id for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Name)}
    assert {"compute_gae", "ppo_loss", "masked_log_softmax", "normalise", "epoch", "batch"} <= names
    for formula in ("clip_grad_norm_(parameters, args.max_grad_norm)", "args.target_kl", "ratio.clamp("):
        assert formula in SOURCE
    tree = ast.parse(SOURCE)
    for name in ("compute_gae", "ppo_loss"):
        (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
        assert "Schulman et al." in (ast.get_docstring(function) or "")


MADE = """
import p3kit.runtime as k
from p3kit.runtime import open_run as start

def helper(thing, *, other=None):
    return thing.one(), other.two

def main():
    with start() as run:
        a = run.agent
        b, c = a, 3
        d = e = b.three
        for step, args in a.four():
            if (f := d.five) and e.six: pass
        helper(a, other=b)
        env = run.make_env()
        s = env.step(1)
        s.components, env.reset(), env.observation_size
        [g.seven for g in run.eight]
        (run if c else None).nine
        k.ten
"""
ALL = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}


def test_no_alias_hides_a_name() -> None:
    assert framework_names(MADE) == ALL | {"p3kit.runtime", "open_run", "agent", "make_env"}


@pytest.mark.parametrize("hiding", ["getattr(run, 'x')", "getattr(run.agent, name)"])
def test_names_hidden_in_strings_are_refused(hiding: str) -> None:
    with pytest.raises(AssertionError, match="getattr hides names"):
        framework_names(f"from p3kit.runtime import run\nvalue = {hiding}\n")


def test_depth_counts_every_kind_of_block() -> None:
    text = """
def f():
    try:
        if x:
            pass
        elif y:
            with z:
                pass
    except E:
        g()
"""
    (function,) = functions(ast.parse(text))
    assert depth(function) == 4
