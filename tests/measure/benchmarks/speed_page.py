"""docs/benchmarks.md and its picture from the figures that trainer_speed.py measured; nothing is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Measured = dict[str, Any]
PICTURE = "images/trainer-speed.png"
# Colours that stay apart for colour-blind readers (Okabe and Ito 2008), on an opaque white ground: the picture reads
# the same on light and dark pages.
OURS, THEIRS, INK = "#0072B2", "#E69F00", "#333333"


def rates_of(results: Measured, name: str, key: str = "rate") -> dict[int, float]:
    """Env steps per second by round."""
    return {one["round"]: one[key] for one in results["rounds"] if one["contestant"] == name and key in one}


def ratio_by_round(results: Measured, name: str, against: str, key: str = "rate") -> list[float]:
    """`against`'s `key` over `name`'s rate, in every round that has both."""
    own, other = rates_of(results, against, key), rates_of(results, name)
    return [own[number] / other[number] for number in sorted(own.keys() & other.keys())]


def gradient_steps_per_rollout(results: Measured) -> int:
    """Gradient steps for every 16,384 env steps; raises where contestants took unequal numbers of them."""
    counted = {(16_384 * one["gradient_steps"] / one["steps"], one["contestant"]) for one in results["rounds"]}
    if len({number for number, _ in counted}) != 1:
        raise ValueError(f"unequal numbers of gradient steps: {sorted(counted)}")
    return round(min(counted)[0])


def write_page(results: Measured, contestants: Sequence[Any], growth: Sequence[Any], docs: Path) -> None:
    """The page and the picture, from all measurements so far."""
    measured = [c for c in contestants if rates_of(results, c.name)]
    if not measured:
        raise SystemExit("nothing has been measured yet")
    (docs / "images").mkdir(parents=True, exist_ok=True)
    draw(results, measured, growth, docs / PICTURE)
    missing = [c for c in contestants if c not in measured]
    text = "\n".join(page(results, measured, missing, growth)) + "\n"
    (docs / "benchmarks.md").write_text(text, encoding="utf-8")


def page(results: Measured, measured: Sequence[Any], missing: Sequence[Any], growth: Sequence[Any]) -> Iterator[str]:
    made_by = results["made_by"]
    counts = sorted({len(rates_of(results, c.name)) for c in measured})
    rounds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    loads = [one["load_before"] for one in results["rounds"]]
    versions = ", ".join(f"{name} {version}" for name, version in made_by["packages"].items())
    yield "# Speed of the trainers\n"
    yield (
        "`python tests/measure/benchmarks/trainer_speed.py` writes this page. The figures are in "
        "[benchmarks/trainers.json](benchmarks/trainers.json).\n"
    )
    yield (
        f"Commit {made_by['commit']}, {made_by['cores']} cores ({made_by['processor']}), Python {made_by['python']}, "
        f"{versions}. Rounds: {rounds}, each with every program once. Figures are medians, with the "
        "smallest and the largest in brackets. Load of the machine before a measurement (one-minute average, with the "
        f"program before): {statistics.median(loads):.1f} in the median, {max(loads):.1f} at most.\n"
    )
    yield f"![Env steps per second of each program, and growth with agents, envs and window]({PICTURE})\n"
    yield "## The reference workload\n"
    yield (
        "Ten symbols, 8 envs, n_steps 2048, batches of 64, 10 epochs, a window of 24 bars (about 500 observation "
        "values), 7 actions, Adam, policy and value nets of 2 × 64; `target_kl` and early stop off. Every program "
        f"took {gradient_steps_per_rollout(results):,} gradient steps per 16,384 env steps, by count. The table "
        "compares rates, so no training runs to its end.\n"
    )
    yield "| | env steps per second | speed-up, whole run | speed-up after the start | time in updates | size |"
    yield "|---|---|---|---|---|---|"
    yield from (table_row(results, c, measured) for c in measured)
    yield from (f"| {c.title} | not measured | | | | |" for c in missing)
    yield ""
    yield from explanations(results, measured)
    yield from phase_table(results, measured)
    yield from targets(results)
    yield from growth_tables(results, growth)
    yield TRIED


TRIED = """\
## Not measured, and missed

- `python tests/measure/benchmarks/whole_run.py --twice specs/phase3.toml` (targets 3 min 30 s, the first time 5 min):
  6 min 47 s from command to prompt, and 8 min 17 s with an empty cache of kernels, at commit b00bd9d on this machine,
  one measurement each. Both targets are missed. Updates take 322 s of it, rollouts 34 s, evaluations 22 s. A gradient
  step takes 15 to 18 ms on two threads that have the machine for themselves, 27 ms on one.
- With `precision = "bf16"` the same update takes 61 s, a rollout 7 s (commit 64219ca, one measurement). This processor
  has instructions for bf16 (AMX), but the products are small, and each is surrounded by conversions. fp32 stays the
  default on a CPU. ppo_stacked in bf16 trains at three quarters of its rate in fp32 (one round).
- Start and end miss their targets (4 s and 3 s) for ten agents; ppo.py meets both where it is not compiled. Of the
  start, 2 s are the import of torch in the trainer. The end draws fifty pictures.
- The two rounds differ by a quarter, for both sides, although nothing else ran: the machine is a shared one. In the
  first round ppo_stacked met two of its three targets, in the second none. Hours before, at commit 5f7a0f7, the ratios
  were 4.1, 5.2 and 3.3 for ppo_stacked, and 2.7 and 2.0 for ppo_shared.
- `python tests/measure/benchmarks/whole_run.py specs/phase4.toml` (target 10 min): 26 min 1 s at commit 0b501bc, one
  measurement; missed. Of the time of its two trainers updates take 1,059 s, evaluations 1,013 s, rollouts 376 s; the
  command takes 78 s to the first rollout. An evaluation plays 9,000 validation bars as one account by two action rules,
  bar after bar, and 42,000 training bars in windows. An earlier commit that evaluated in windows alone took 15 min 37 s
  on another machine.
- Before, at commit f19f56f, evaluations took 53 % of a trainer's time (a sampling profile of four minutes). The first
  18 of the agents took 291 s then and 211 s at commit ffcec8b (542 and 401 s of processor time, one measurement each),
  with the same metrics bit for bit: the account at equal exposure is computed in plain floats, the random numbers of
  `sampled` once per run, and no weights are copied. First guesses for all bars at once saved half of the passes and
  cost as much; fewer guesses where the last ones failed save account steps, and cost as many passes; not built.
  Validation in windows, which `gen.gap` needs, has taken 8 % more of an evaluation since 099bc5c (9 agents). An agent
  that acts by `sharpened` plays two accounts since then, four before.
- Fitting the distributions of 24 symbols in two threads takes 5.0 s in place of 7.7 s, which would be 16 s of phase4.
  Not built: BLAS may add in another order beside a second caller.
- The growth tables and wide nets were not measured at this commit.
- The plan predicted 9 min 30 s for the second of these runs, from the first (target: within 25 %): it counted the
  first iteration of earlier runs twice. Counted once, it predicts 8 min 2 s from a run that took 7 min 28 s.

## What helped, and what did not

`python tests/measure/benchmarks/step_speed.py ppo_stacked ppo_shared` compares a compiled gradient step with its floor,
the matrix products alone: at commit 8081c23 6.9 ms against 2.6 ms for ppo_stacked, 34.9 ms against 12.8 ms for
ppo_shared, 2.7 times the floor each. These are processor times of one thread, on a busy Intel Xeon (2.8 GHz, AVX-512,
no bf16), as are those below, which were taken at calmer moments.

| change | step of ppo_stacked | step of ppo_shared |
|---|---|---|
| before | 8.3 ms | 50 ms |
| glibc keeps freed memory (2,900 page faults a step before, 15 after) | | 39 ms |
| gradients on weights by MKL: ten oneDNN products took 2.0 ms, a batch of MKL's 0.5 ms | | 36 ms |
| modules and compiled functions outside garbage collection | 7.2 ms | 30 to 33 ms |
| factors of AdamW in one table: the compiler computed a power for every 16 weights | 4.8 ms | not measured alone |

- Compiling by what is in the cache was not built. The second run of a spec would end with other bits than the first.
- gcc needs 3 s for a kernel, most of it for PyTorch's headers. Without debug lines, and with `-O1`, it needs as long.
- With two threads the shared step took 46 ms of processor time, against 30 ms with one: at the end of each kernel one
  thread waits for the other.
- With two processes for one shared encoder, both threads would compute their own half of a minibatch. Not built: two
  threads already do 1.8 times the work of one, as long as no other process uses the machine.
- A busy process beside two threads slows the shared step from 17 ms to 62 ms, for each kernel waits for both threads.
  At nice 15 it slows the step to 21 ms, so that p3kit draws pictures at nice 15. With `OMP_WAIT_POLICY=passive` the
  step takes 31 ms beside a busy process, but 20 ms alone.
- `baddbmm` copied the bias before each product. As a sum after the product it is part of the next kernel: 3 to 9 % of
  the shared step, 1 to 12 % of the stacked one (commit b00bd9d, two or three measurements).
- The compiler's wrapper in C++ (`cpp_wrapper`) made no difference to the shared step.
- Torch's AdamW imports `torch._dynamo` to take itself out of what is compiled. Runs of ppo.py that are not compiled do
  without: a run of 1,500 steps took 6.2 s in place of 9.4 s.
- The launcher imported torch before it started the trainers, which took 2.7 s of each command. It does so now only
  where agents start from trained ones.
- Runs that are not compiled import no `torch._dynamo` (a second): their gradients come from torch.autograd.
"""
PHASES = {
    "start_s": "command to first rollout",
    "loading_s": "loading compiled kernels (first iteration, beyond the others)",
    "end_s": "last update to prompt",
}


def phase_table(results: Measured, measured: Sequence[Any]) -> Iterator[str]:
    """Seconds of p3kit's runs outside rollouts and updates."""
    timed = [c for c in measured if rates_of(results, c.name, "start_s")]
    if not timed:
        return
    yield "## Start and end\n"
    yield "Seconds of a whole `p3kit run` that are neither rollout nor update:\n"
    yield f"| | {' | '.join(PHASES.values())} |"
    yield "|---|---|---|---|"
    for one in timed:
        seconds = (spread(list(rates_of(results, one.name, key).values()), ".1f") for key in PHASES)
        yield f"| {one.title} | {' | '.join(seconds)} |"
    yield ""


TARGETS = (
    ("ppo_stacked, whole command", "stacked", "sb3_best", "rate", 5.0),
    ("ppo_stacked, after the start", "stacked", "sb3_best", "steady_rate", 6.5),
    ("ppo_stacked, short run, whole command", "stacked_short", "sb3_best", "rate", 4.0),
    ("ppo_shared, after the start", "shared", "sb3_shared", "steady_rate", 3.0),
    ("ppo_shared, whole command", "shared", "sb3_shared", "rate", 2.5),
    ("ppo, after the start", "ppo", "sb3_best", "steady_rate", 2.0),
    ("ppo, compiled, after the start", "ppo_compiled", "sb3_best", "steady_rate", 2.0),
)
"""Rows of p3kit with the peer to compare, and the ratio that was planned."""


def targets(results: Measured) -> Iterator[str]:
    """The planned ratios beside the measured ones."""
    rows = [(title, least, ratio_by_round(results, peer, own, key)) for title, own, peer, key, least in TARGETS]
    rows = [row for row in rows if row[2]]
    if not rows:
        return
    yield "## Targets\n"
    yield "| | target | measured |"
    yield "|---|---|---|"
    for title, least, ratios in rows:
        mark = "" if statistics.median(ratios) >= least else ", missed"
        yield f"| {title} | ≥ {least:g} × | {spread(ratios, '.1f')} ×{mark} |"
    yield ""


def table_row(results: Measured, contestant: Any, measured: Sequence[Any]) -> str:
    rates = list(rates_of(results, contestant.name).values())
    ratios = [ratio_by_round(results, contestant.name, contestant.against, key) for key in ("rate", "steady_rate")]
    told = ["" if contestant.kind == "ours" or not own else f"{spread(own, '.1f')} ×" for own in ratios]
    shares = [one["update_share"] for one in results["rounds"] if one["contestant"] == contestant.name]
    agents = "1 agent" if contestant.agents == 1 else f"{contestant.agents} agents"
    return (
        f"| {contestant.title} | {spread(rates, ',.0f')} | {' | '.join(told)} | {statistics.median(shares):.0%} | "
        f"{agents} × {contestant.steps:,} steps |"
    )


def spread(values: Sequence[float], form: str) -> str:
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"**{middle}** ({min(values):{form}} to {max(values):{form}})"


def explanations(results: Measured, measured: Sequence[Any]) -> Iterator[str]:
    yield "The rows:\n"
    yield (
        "- **p3kit** is a whole `p3kit run --jobs 2`, from the command to the prompt: start of Python, reading of "
        "bars, training, evaluation at every update (the guide's 5,000 steps, rounded up), checkpoints, the evidence "
        "for the diagnosis, verdicts, plots. The cache of torch.compile is full. *Whole run* includes p3kit's start "
        "and excludes the start of the others. *After the start* excludes both: p3kit after its first iteration."
    )
    for contestant in measured:
        steady = list(rates_of(results, contestant.name, "steady_rate").values())
        if steady:
            yield f"  {contestant.title.removeprefix('p3kit, ')} after the start: {spread(steady, ',.0f')} steps/s."
    if rates_of(results, "stacked_bf16"):
        best = ratio_by_round(results, "sb3_best", "stacked_bf16", "steady_rate")
        against_fp32 = ratio_by_round(results, "stacked", "stacked_bf16")
        yield (
            '- **bf16** is `[compute] precision = "bf16"`: matrix products of half the width, which this processor '
            f"multiplies faster. It is {spread(against_fp32, '.2f')} × p3kit's fp32 over whole runs"
            + (
                f", and after the start {spread(best, '.1f')} × SB3's best case, which has no such setting."
                if best
                else "."
            )
        )
    yield (
        "- **SB3 PPO, SubprocVecEnv × 8** follows the training guide: a process per env around p3kit's scalar "
        "gymnasium env, one symbol after another, PyTorch's default number of threads. Only `learn` is timed."
    )
    yield (
        "- **SB3 PPO, 2 processes of 1 thread** is the strict peer, its best case that we found: a symbol per process, "
        "with p3kit's batched environment in place of DummyVecEnv, which steps 8 accounts at once. All peers have the "
        "memory settings of p3kit's trainers. Only `learn` is timed. MaskablePPO runs in the same way, with masks."
    )
    yield (
        "- **its DummyVecEnv × 8** is the best case with Stable-Baselines3's own parts: ordinary gymnasium envs in one "
        "process, one symbol per process, one thread each. Most of the time is spent in the envs: each is p3kit's "
        "scalar account in Python, which is simple and slow."
    )
    yield (
        "- **2 × 256** takes half the steps of p3kit's reference row, compiled if p3kit expects to save time. "
        "Everything else is as in the reference row."
    )
    yield (
        "- **TorchTrade** has no trainer; its example is a loop over TorchRL's GAE, ClipPPOLoss and replay buffer. "
        "That loop is timed over generated rollouts with the same networks, without environment, collector or "
        "logging. Its training cannot be faster than this. Install torchtrade in a separate environment."
    )
    yield (
        "- **The same transformer** is the encoder of trainers/ppo_shared.py as a features extractor, with heads of "
        "the same width. Its attention is one of the two fastest of three forms that were timed: sums of products, "
        "matrix products, and PyTorch's scaled_dot_product_attention. p3kit trains ten agents through one encoder and "
        "also measures their interference.\n"
    )
    free = [
        (c.title, list(rates_of(results, c.name, "update_rate").values()))
        for c in measured
        if c.kind in ("subproc", "dummy", "scalar", "masked", "shared")
    ]
    if free:
        yield "Rates without the time of the environments, from the time in `train` alone:\n"
        yield "| | env steps per second, update alone |"
        yield "|---|---|"
        yield from (f"| {title} | {spread(rates, ',.0f')} |" for title, rates in free)
        yield ""


def families(results: Measured, growth: Sequence[Any]) -> dict[str, list[tuple[str, Measured]]]:
    """Growth measurements, by the size that grows: (value, figures) each."""
    found = {one["contestant"]: one for one in results["growth"]}
    done = [(c.name.rsplit("_", 1)[0], c.title, found[c.name]) for c in growth if c.name in found]
    return {family: [(title, one) for _, title, one in rows] for family, rows in groupby(done, lambda row: row[0])}


def growth_tables(results: Measured, growth: Sequence[Any]) -> Iterator[str]:
    grown = families(results, growth)
    if not grown:
        return
    workloads = results["made_by"]["workloads"]
    yield "## Growth\n"
    earlier = results.get("growth_made_by")
    if earlier:
        yield f"Measured earlier, at commit {earlier['commit']} on 2 cores ({earlier['processor']}).\n"
    yield (
        "ppo_stacked, one measurement each, two short iterations. *Steady* is the second iteration. *Whole* is "
        "everything from the command to the prompt; here the start is a large part of it. All are compiled. Memory is "
        "the peak of the two largest trainers together. Growth with agents uses synthetic symbols, in p3kit's stacks: "
        "beyond about ten agents, stacks run one after another.\n"
    )
    for family, rows in grown.items():
        if family == "cold":
            continue
        name = f"{family}_{rows[0][0]}"
        short = workloads[name]["knobs"].get("n_steps", 2048)
        yield f"| {family} (n_steps {short}) | steady steps/s | whole steps/s | wall | memory |"
        yield "|---|---|---|---|---|"
        for title, one in rows:
            yield (
                f"| {title} | {one['steady_rate']:,.0f} | {one['rate']:,.0f} | {one['wall_s']:.0f} s | "
                f"{one['memory_mb']:,.0f} MB |"
            )
        yield ""
    warm = rates_of(results, "stacked")
    if "cold" in grown and warm and not earlier:
        cold = grown["cold"][0][1]
        yield (
            f"Without a cache, the first row of the reference workload takes {cold['wall_s']:.0f} s: "
            f"{cold['rate']:,.0f} steps/s, against {statistics.median(warm.values()):,.0f} with it.\n"
        )


def draw(results: Measured, measured: Sequence[Any], growth: Sequence[Any], path: Path) -> None:
    """Bars of the programs, and a line for each growing size."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "text.color": INK}
    grown = {family: rows for family, rows in families(results, growth).items() if family != "cold"}
    heights = [0.4 * len(measured) + 0.8, 2.2 if grown else 0.0]
    with rc_context(style):
        figure = Figure(figsize=(8.6, sum(heights)), facecolor="white", dpi=120, layout="constrained")
        parts = figure.subfigures(2, 1, height_ratios=heights) if grown else [figure]
        draw_bars(parts[0].subplots(), results, measured)
        panels = parts[1].subplots(1, len(grown), squeeze=False)[0] if grown else []
        if grown:
            parts[1].suptitle("ppo_stacked, env steps per second after the start, by number of", fontsize=9)
        for axes, (family, rows) in zip(panels, grown.items(), strict=True):
            axes.plot(range(len(rows)), [one["steady_rate"] for _, one in rows], "o-", color=OURS)
            axes.set_xticks(range(len(rows)), [title for title, _ in rows])
            axes.set_ylim(0, 1.15 * max(one["steady_rate"] for _, one in rows))
            axes.set_title(family, loc="left", fontsize=8.5)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.grid(axis="y", color="#e6e6e6")
        figure.savefig(path, metadata={"Software": None})


def draw_bars(axes: Any, results: Measured, measured: Sequence[Any]) -> None:
    rows = list(reversed(measured))
    for place, contestant in enumerate(rows):
        rates = list(rates_of(results, contestant.name).values())
        middle = statistics.median(rates)
        if steady := list(rates_of(results, contestant.name, "steady_rate").values()):
            axes.barh(place, statistics.median(steady), color=OURS, alpha=0.25, height=0.66)
        axes.barh(place, middle, color=OURS if contestant.kind == "ours" else THEIRS, height=0.66)
        axes.plot([min(rates), max(rates)], [place, place], color=INK, linewidth=1.2)
        axes.annotate(
            f"{middle:,.0f}", (max(rates), place), xytext=(5, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_yticks(range(len(rows)), [c.title for c in rows])
    axes.set_title(
        "Env steps per second of training (blue: p3kit, with its start; pale: after the start; line: all rounds)",
        loc="right",
        fontsize=9,
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.margins(x=0.1)
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
