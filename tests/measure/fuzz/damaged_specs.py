"""Specs that went wrong: shipped, wrong and made-up right ones, changed by their grammar or by their bytes."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis
import tomli

from p3kit.spec.shipped import shipped_specs
from p3kit.spec.writing import to_toml
from tests.measure.fuzz.commands import Finding, call
from tests.spec.test_bounds import numbers
from tests.spec.test_wrong_specs import WRONG
from tests.strategies import MODEL, spec_tables

STRANGE: tuple[Any, ...] = (
    10**20, [0], [64, 0], [10**20], [-1],
    0, -1, 1, 2, 64, 10**6, 10**12, 2**63 - 1, -(2**63), 10**30, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), True, False, "", " ", "off", "auto", "on", "../../etc", "/", ".", "~",
    "/dev/zero", "a" * 5_000, "\u202e", "\x00", "\n", "é", "🙂", "{symbol}", "{symbol.__class__}", "%s", "{", "*",
    "2010-01-01..2009-01-01", "2010-01-01..", "..", "ppo.gamma", "ppo.learning_rate", "reward.weights.cost", "name",
    "AAPL", "CON", "-rf", "linear", "guide", "policy.hold", "num.nan:observation", "trainer", "phase3.toml",
    [], [[]], {}, [{}], {"kind": "linear"}, {"kind": "linear", "start": 1, "end": 0}, {"low": 1, "high": 0},
    [1, "a"], ["AAPL"] * 3, [1, 2, 3], list(range(300)), [[0.0, 1.0], [0.0, 2.0]], {"a": {"b": {"c": {"d": 1}}}},
    date(2027, 1, 4), datetime(2027, 1, 4, 9, 30), time(9, 30),
)  # fmt: skip
Tables = dict[str, Any]


# --- by the grammar ---------------------------------------------------------------------------------------------------


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in tables and lists."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(inside):
        yield node, key
        yield from places(value)


def put_something_strange(tables: Tables, rng: random.Random) -> None:
    node, key = rng.choice(list(places(tables)))
    node[key] = copy.deepcopy(rng.choice(STRANGE))


def drop(tables: Tables, rng: random.Random) -> None:
    node, key = rng.choice(list(places(tables)))
    del node[key]


def rename(tables: Tables, rng: random.Random) -> None:
    named = [(node, key) for node, key in places(tables) if isinstance(node, dict)]
    node, key = rng.choice(named)
    other = rng.choice([key[:-1], key + "s", key.upper(), "", "x.y", rng.choice(named)[1], "é", "__class__"])
    node[other] = node.pop(key)


def exchange(tables: Tables, rng: random.Random) -> None:
    (one, a), (other, b) = rng.choice(list(places(tables))), rng.choice(list(places(tables)))
    one[a], other[b] = copy.deepcopy(other[b]), copy.deepcopy(one[a])


def repeat(tables: Tables, rng: random.Random) -> None:
    lists = [node[key] for node, key in places(tables) if isinstance(node[key], list) and node[key]]
    if lists:
        chosen = rng.choice(lists)
        chosen.extend(copy.deepcopy(chosen) * rng.choice([1, 2, 50]))


def add_a_table(tables: Tables, rng: random.Random) -> None:
    name = rng.choice(["schedules", "matrix", "agents", "intervention", "tune", "criteria", "data", "diagnose"])
    key = rng.choice(["ppo.gamma", "gamma", "AAPL", "reward.weights.cost", "space", "rows", "walk_forward", "minimum"])
    value = copy.deepcopy(rng.choice(STRANGE))
    tables[name] = [value] if name == "intervention" else {key: value}


def nudge(tables: Tables, rng: random.Random) -> None:
    numbers = [(n, k) for n, k in places(tables) if isinstance(n[k], int | float) and not isinstance(n[k], bool)]
    if numbers:
        node, key = rng.choice(numbers)
        node[key] = node[key] * rng.choice([-1, 0, 2, 10, 1_000, 0.1]) + rng.choice([0, 0, 1, -1])


def go_to_a_bound(tables: Tables, rng: random.Random) -> None:
    """A number of the language at one of its bounds, or just beyond it."""
    path, core, limits = rng.choice(NUMBERS)
    step = 1 if core is int else 1e-6
    value = core(rng.choice(limits)) + rng.choice([0, 0, -step, step])
    *above, key = path.removesuffix("[]").split(".")
    node = tables
    for part in above:
        node = node[part] if isinstance(node.get(part), dict) else node.setdefault(part, {})
        if not isinstance(node, dict):
            return
    node[key] = rng.choice([[value], [64, value], [value] * 3]) if path.endswith("[]") else value


NUMBERS = [(path, kind, list(limits.values())) for path, kind, limits in numbers(MODEL, "") if path.count("[]") < 2]
"""Path, type and bounds of every number of a spec."""


GRAMMAR: list[Callable[[Tables, random.Random], None]] = [
    put_something_strange, put_something_strange, drop, rename, exchange, repeat, add_a_table, nudge, nudge,
    go_to_a_bound, go_to_a_bound,
]  # fmt: skip


# --- by the bytes -----------------------------------------------------------------------------------------------------


def flip(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def tear(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    words = [b"[", b"]", b"[[", b"{", b'"', b"'''", b"#", b"=", b".", b"\r", b"\x00", b"\xff", b"1_", b"nan", b"\\u"]
    return content[:at] + rng.choice([*words, rng.randbytes(rng.randint(1, 30))]) + content[at:]


def cut_out(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.randint(1, 40) :]


def shuffle_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    for _ in range(rng.randint(1, 4)):
        what, at = rng.randrange(3), rng.randrange(len(lines))
        if what == 0:
            lines.insert(rng.randrange(len(lines)), lines[at])
        elif what == 1 and len(lines) > 1:
            lines.pop(at)
        else:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


def lengthen(content: bytes, rng: random.Random) -> bytes:
    """A number of 21 digits, or of more than Python converts."""
    digits = list(re.finditer(rb"\d+", content))
    if not digits:
        return content
    found = rng.choice(digits)
    return content[: found.start()] + b"9" * rng.choice([21, 400, 4_300, 4_301, 9_000]) + content[found.end() :]


def recode(content: bytes, rng: random.Random) -> bytes:
    return content.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-8-sig", "utf-32", "utf-16-le"]))


BYTES: list[Callable[[bytes, random.Random], bytes]] = [flip, tear, insert, cut_out, shuffle_lines, recode, lengthen]


# --- one after another ------------------------------------------------------------------------------------------------


def corpus() -> dict[str, bytes]:
    """Shipped specs, and specs with one mistake each."""
    files = [*shipped_specs(), *sorted(WRONG.glob("*.toml"))]
    return {path.name: path.read_bytes() for path in files}


def made_up(number: int, seed: int) -> list[Tables]:
    """Generated valid specs, from the bounds of every field."""
    drawn: list[Tables] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=number, database=None, deadline=None, phases=[hypothesis.Phase.generate],
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(spec_tables())
    def draw(tables: Tables) -> None:
        drawn.append(tables)

    draw()
    return drawn


def changed(tables: Tables, rng: random.Random) -> bytes:
    """A spec's tables after none to three changes, as a file."""
    tables = copy.deepcopy(tables)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        if tables:
            rng.choice(GRAMMAR)(tables, rng)
    try:
        return to_toml(tables).encode("utf-8", "surrogatepass")
    except TypeError:  # a table where only a value can stand
        return json.dumps(tables, default=str).encode()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A spec's bytes after one to three changes."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        if content:
            content = rng.choice(BYTES)(content, rng)
    return content


def mutants(seed: int) -> Iterator[tuple[str, bytes]]:
    """("grammar" | "bytes", changed spec) without end: of specs that were right as often as of the whole corpus."""
    rng = random.Random(seed)
    parsed: list[Tables] = []
    for content in corpus().values():
        try:
            parsed.append(tomli.loads(content.decode("utf-8")))
        except (tomli.TOMLDecodeError, UnicodeDecodeError):
            continue
    parsed = [tables for tables in parsed if tables]
    right = [*made_up(150, seed), *(tomli.loads(path.read_text(encoding="utf-8")) for path in shipped_specs())]
    texts = [*corpus().values(), *(path.read_bytes() for path in shipped_specs() for _ in range(10))]
    while True:
        yield "grammar", changed(rng.choice(rng.choice([right, parsed])), rng)
        yield "grammar", changed(rng.choice(right), rng)
        yield "bytes", damaged(rng.choice(texts), rng)


def prepare(folder: Path) -> Path:
    """A folder with all that specs of the corpus extend or name, and the place of the changed spec in it."""
    shutil.copytree(WRONG, folder, dirs_exist_ok=True)
    for path in shipped_specs():
        shutil.copy(path, folder / path.name)
    return folder / "fuzz.toml"


def try_spec(content: bytes, path: Path) -> str:
    """Result of a spec: "valid" or "refused". Raises Finding where it was neither in the promised way.

    A valid spec is shown and read again, since what `show` prints is a spec itself; a refused one names its file, and
    nothing is written in either case.
    """
    path.write_bytes(content)
    before = {file.name for file in path.parent.iterdir()}
    answer = call("validate", str(path), codes=(0, 2))
    if answer.code == 0:
        shown = call("show", str(path), codes=(0,)).stdout
        whole = path.with_name("whole.toml")
        whole.write_text(shown, encoding="utf-8")
        call("validate", str(whole), codes=(0, 2))
        if call("show", str(whole), codes=(0,)).stdout.count("\n") != shown.count("\n"):
            raise Finding("what show prints is read as another spec")
        whole.unlink()
    elif answer.stdout:
        raise Finding(f"refused, and yet: {answer.stdout[:200]}")
    elif not all(str(path.parent) in line or line.startswith("  ") for line in answer.stderr.splitlines()):
        raise Finding(f"a message without a place: {answer.stderr[:500]}")
    if path.read_bytes() != content or {file.name for file in path.parent.iterdir()} != before:
        raise Finding("something was written")
    return "valid" if answer.code == 0 else "refused"


def trials(folder: Path, seed: int, numbers: range) -> Iterator[tuple[int, str, bytes, str, str]]:
    """(number, "grammar" | "bytes", spec, what became of it, what should not have been) of changed specs."""
    path = prepare(folder)
    for number, (kind, content) in enumerate(islice(mutants(seed), numbers.stop)):
        if number in numbers:
            answer = finding = ""
            try:
                answer = try_spec(content, path)
            except Finding as error:
                finding = str(error)
            yield number, kind, content, answer, finding
