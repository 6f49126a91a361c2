"""The words a user may write: one model per table of a spec, one sentence per field.

Read top to bottom, this file is the reference of the language. Every default is the training guide's where the guide
has one. Checks that need more than one table stand in `crosschecks.py`; `[ppo]` is not here: its fields are those of
the trainer's own `Args` (`knobs.py`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from p3kit.spec.base_model import (
    LIVE,
    MOST,
    MOST_COUNT,
    Auto,
    Count,
    CountOrNone,
    Items,
    NotNegative,
    Number,
    Off,
    OpenShare,
    Pair,
    Positive,
    PositiveShare,
    Share,
    Table,
    Whole,
    Words,
)
from p3kit.spec.feature_names import BUILT_IN, PRICE_COLUMNS, Feature
from p3kit.spec.interventions import Intervention
from p3kit.spec.nearest import did_you_mean
from p3kit.spec.schedules import Schedule

SAMPLE_SYMBOLS = ("AAPL", "AMD", "BAC", "HD", "JNJ", "JPM", "MSFT", "PG", "WMT", "XOM")
"""The stocks of the shipped sample."""

PER_AGENT = (
    "observation", "env", "reward", "ppo", "schedules", "evaluation", "checkpoints", "early_stop", "criteria"
)  # fmt: skip
"""Tables that may differ from agent to agent: what `[agents.X]` and `[matrix]` may touch."""


# --- names ------------------------------------------------------------------------------------------------------------


_NUMBERS = ("nan", "inf", "-inf")


def _symbol(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._^=-]{1,32}", text) or not re.search(r"[A-Za-z0-9]", text):
        raise ValueError("expected a symbol of at most 32 letters, digits and . - _ ^ = (it becomes a file name)")
    return _no_number(text)


LONGEST_NAME = 64
"""Characters of an experiment's name."""


def _experiment_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]*", text) or len(text) > LONGEST_NAME:
        raise ValueError(
            f"expected at most {LONGEST_NAME} letters, digits, spaces and . - _, with a letter or digit first"
        )
    return _no_number(text)


def derived_name(text: str, suffix: str = "") -> str:
    """An experiment's name made of another name or a file name; it obeys the rules of names."""
    plain = re.sub(r"[^A-Za-z0-9 ._-]+", "-", text).lstrip(" ._-")
    name = f"{plain[: LONGEST_NAME - len(suffix)]}{suffix}".lstrip("-") or "experiment"
    return f"{name}-1" if name in _NUMBERS else name


def _no_number(text: str) -> str:
    if text in _NUMBERS:
        raise ValueError("expected another name: the files of a run write numbers that are not finite so")
    return text


def _distinct(items: tuple[Any, ...]) -> tuple[Any, ...]:
    with contextlib.suppress(TypeError):  # a list in a list has no hash, and there are never many of those
        if len(set(items)) == len(items):
            return items
    twice = [item for index, item in enumerate(items) if item in items[:index]]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice; expected each one once".replace("'", '"'))
    return items


def _iso_date(value: Any) -> Any:
    """The plain (JSON) form of a spec holds dates as text."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        return date.fromisoformat(value)
    return value


Symbol = Annotated[str, AfterValidator(_symbol), Words('a symbol such as "AAPL"')]
Name = Annotated[str, AfterValidator(_experiment_name), Words('a name in quotes, such as "my-experiment"')]


def _read_by(parse: Callable[[str], object], expected: str) -> AfterValidator:
    """A text stays as it is written, once `parse` can read it."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError:
            raise ValueError(f"expected {expected}") from None
        return text

    return AfterValidator(check)


Reference = Annotated[str, MinLen(1), Words('a run in quotes, such as "run-42"')]


# --- market data ------------------------------------------------------------------------------------------------------


class ReversedRange(ValueError):
    """A range of days that ends before it starts."""


def parse_range(text: str) -> tuple[date, date]:
    """`"2010-01-01..2018-12-31"` as (first day, last day), both included. Raises ValueError."""
    first, dots, last = text.partition("..")
    if not dots:
        raise ValueError(f"{text!r} is no range of days")
    days = date.fromisoformat(first.strip()), date.fromisoformat(last.strip())
    if days[0] > days[1]:
        raise ReversedRange(f'ends before it starts; write "{days[1]}..{days[0]}"')
    return days


_A_RANGE = _read_by(parse_range, 'a share like 0.70, or days like "2010-01-01..2018-12-31"')
Days = Annotated[str, _A_RANGE, Words('days such as "2010-01-01..2018-12-31"')]
SplitPart = OpenShare | Days


class Split(Table):
    """Split of the bars into training, validation and test: fractions that sum to 1, or three ranges of days in
    order."""

    train: SplitPart
    """Bars for training: a fraction of the bars, or days as "2010-01-01..2018-12-31" (both included)."""
    validation: SplitPart
    """Bars on which weights are chosen and grades are given."""
    test: SplitPart
    """Bars that only `p3kit evaluate RUN --final` uses; every use is journalled."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Split:
        parts = (self.train, self.validation, self.test)
        shares = [part for part in parts if isinstance(part, float)]
        ranges = [parse_range(part) for part in parts if isinstance(part, str)]
        if shares and ranges:
            raise ValueError("mixes shares with days; expected three of one kind")
        if shares and abs(sum(shares) - 1.0) > 1e-9:
            raise ValueError(f"train + validation + test is {sum(shares):.6g}; expected 1")
        for (_, earlier_last), (later_first, _) in pairwise(ranges):
            if later_first <= earlier_last:
                raise ValueError("expected train before validation before test, without a common day")
        return self


def parse_span(text: str) -> tuple[int, str]:
    """`"5y"`, `"6m"` or `"90d"` as (number, unit). Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d{0,4})([ymd])", text)
    if match is None:
        raise ValueError(f"{text!r} is no span of time")
    return int(match[1]), match[2]


_SPANS = 'years, months or days, such as "5y", "6m" or "90d"'
Span = Annotated[str, _read_by(parse_span, _SPANS), Words(_SPANS)]


class WalkForward(Table):
    """Train and judge one agent per window of time, all windows before the test split."""

    train: Span
    """Length of a window's training part; a longer one uses more data, and gives fewer windows."""
    validation: Span
    """Length of the part right after it, on which the window's weights are chosen and graded."""
    step: Span
    """Time from the start of a window to the next start; if shorter than validation, bars are judged twice."""


class Synthetic(Table):
    """The synthetic regime market: hourly bars whose past predicts the next return to a known degree."""

    bars: Annotated[int, Ge(2_000), Le(450_000)] = 60_000
    """Bars per symbol; more bars make validation less noisy."""
    edge: Annotated[float, Ge(0), Le(10)] = 0.18
    """Next return = edge × volatility × signal + noise; 0 makes HOLD optimal, 0.18 is a clear edge."""
    volatility: Annotated[float, Gt(0), Lt(0.2)] = 0.0055
    """Standard deviation of a bar's return, as a fraction."""
    span: Annotated[int, Ge(2), Le(500)] = 12
    """Bars of the exponentially weighted mean of past returns that is the signal; longer means slower trades."""
    regimes: bool = True
    """Switch drift and volatility between bull, bear and sideways; false gives one calm market."""


Column = Annotated[str, MinLen(1)] | Count


class Columns(Table):
    """Columns of your files under other names: the name in the header line, its number from 1, or "off"."""

    timestamp: Column | None = None
    """The time of a bar, or its day if `time` names another column."""
    time: Column | None = None
    """The time of day, in a column of its own."""
    symbol: Column | None = None
    """The symbol, in a file with the rows of several symbols; "off" if the column has no symbols."""
    open: Column | None = None
    """First price of a bar; "off" reads the file without it, as for the columns below."""
    high: Column | None = None
    """Highest price of a bar."""
    low: Column | None = None
    """Lowest price of a bar."""
    close: Column | None = None
    """Last price of a bar."""
    volume: Column | None = None
    """Volume traded in a bar."""
    adj_close: Column | None = None
    """The close adjusted for splits and dividends, for `data.adjust`."""
    own: dict[str, Column] = Field(default_factory=dict)
    """Columns of `observation.columns` that have other names in your files: { sentiment = "News Score" }."""


class Data(Table):
    """Bars, and their split into training, validation and test."""

    source: Literal["sample", "csv", "parquet", "synthetic"] = "sample"
    """Ten real US stocks shipped with p3kit (daily, 2010 to 2022), your own files, or a simulated market."""
    path: str | None = None
    """The file of a symbol, for csv and parquet: "data/{symbol}.csv", relative to the spec file; {{ is a brace."""
    columns: Columns = Columns()
    """Columns that have other names in your files: { close = "Adj Close" }."""
    adjust: Literal["off", "adj_close", "auto"] = "off"
    """Multiplies all four prices by adjusted close / close; auto: if that column is complete and differs."""
    split: Split = Split(train=0.70, validation=0.15, test=0.15)
    """Fractions or days of training, validation and test, in this order in time."""
    walk_forward: WalkForward | None = None
    """One agent per window of time instead of one: { train = "5y", validation = "1y", step = "1y" }."""
    embargo: CountOrNone | Auto = "auto"
    """Bars left out at the end of a split so that no feature reaches across; auto: window + longest look-back."""
    bars_per_year: Positive | Auto = "auto"
    """Bars by which returns are annualised; auto: counted per split, or 252 sessions × bars if a split is short."""
    synthetic: Synthetic = Synthetic()
    """Settings of `source = "synthetic"`."""


def _own_column(name: str) -> str:
    if not re.fullmatch(r"[\w%#](?:[\w .:%#&/()+-]{0,62}[\w.%#)+-])?", name):
        hint = "give it a plain name, and map it by [data.columns] own"
        raise ValueError(f"expected at most 64 letters, digits, spaces and _ . : % # & / ( ) + -; {hint}")
    if name.lower() in BUILT_IN:
        raise ValueError("is the name of a built-in feature; write another one, and map it by [data.columns] own")
    if name.lower() in PRICE_COLUMNS:
        raise ValueError("is a column that p3kit reads itself; its features are built in")
    return _no_number(name)


def _built_in(value: Any) -> Any:
    """A list of features without unknown names. Raises ValueError with the nearest right one."""
    if isinstance(value, list | tuple):
        for name in value:
            if isinstance(name, str) and name not in BUILT_IN:
                near = did_you_mean(name, BUILT_IN, f"; expected {', '.join(BUILT_IN)}")
                raise ValueError(f'"{name}" is no built-in feature{near} (columns of your files go into columns)')
        return _distinct(tuple(value))
    return value


_BuiltIn = Annotated[Feature, Words('a built-in feature such as "return_1"')]
OwnColumn = Annotated[str, AfterValidator(_own_column), Words('the name of a column such as "sentiment"')]


class Observation(Table):
    """Features of a bar, and the normalisation of observations before the network."""

    features: Annotated[Literal["all"] | Items[_BuiltIn], BeforeValidator(_built_in)] = "all"
    """Built-in features by name; all: every feature that the columns of your files allow."""
    columns: Annotated[Items[OwnColumn], AfterValidator(_distinct)] = ()
    """Columns of your files as further features; the value of a bar must exist at its close."""
    normalize: Literal["train", "running", "none"] = "train"
    """Normalise by fixed statistics of the training split, by running statistics, or not at all."""
    clip: Positive = 10.0
    """Normalised values are clipped to ± this; a lower value removes more outliers."""

    @model_validator(mode="after")
    def _something_is_seen(self) -> Observation:
        if not self.features and not self.columns:
            raise ValueError("features = [] without columns shows nothing of the market; expected at least one feature")
        return self


# --- environment and reward -------------------------------------------------------------------------------------------


class Env(Table):
    """The trading account: its actions, costs and episode length."""

    backend: Literal["batched", "scalar"] = "batched"
    """All accounts as tensors, or one plain Python account at a time (slow; for debugging)."""
    num_envs: Annotated[int, Ge(1), Le(65_536)] = 8
    """Accounts that trade side by side; more gives a larger rollout and faster env steps."""
    window: Annotated[int, Ge(1), Le(10_000)] = 24
    """Past bars in an observation."""
    initial_capital: Positive = 100_000.0
    """Money at the start of an episode; results are relative to it."""
    sizes: Annotated[tuple[PositiveShare, PositiveShare, PositiveShare], Strict(False)] = (0.25, 0.50, 1.00)
    """Fractions of equity that BUY_SMALL, BUY_MEDIUM and BUY_LARGE spend, with costs."""
    max_position: PositiveShare = 1.0
    """Largest fraction of equity that a position may reach by buying."""
    max_adds: CountOrNone = 2
    """Largest number of additions to a position; 0 disables ADD."""
    fill: Literal["next", "close"] = "next"
    """Fill at the next bar's open (its close if there is no open), or, optimistically, at the current close."""
    commission_bps: Annotated[float, Ge(0), Lt(10_000)] = 10.0
    """Commission in basis points of the traded value, on both sides."""
    slippage_bps: Annotated[float, Ge(0), Lt(10_000)] = 5.0
    """Slippage in basis points, charged once, as part of the price."""
    stop: OpenShare | Off = "off"
    """Forced exit when the price falls this fraction below the entry price."""
    target: Positive | Off = "off"
    """Forced exit when the price rises this fraction above the entry price."""
    max_hold: Count | Off = "off"
    """Forced exit after this many bars in a position."""
    episode_bars: Annotated[int, Ge(2), Le(MOST_COUNT)] = 252
    """Bars of an episode; its end is a truncation, so the update bootstraps with the value function."""
    ruin: Annotated[float, Ge(0), Lt(1)] = 0.5
    """The episode terminates when equity falls below this fraction of the initial capital."""

    @model_validator(mode="after")
    def _sizes_can_be_bought(self) -> Env:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("sizes do not rise; expected small < medium < large")
        if self.sizes[-1] > self.max_position:
            raise ValueError(
                f"sizes reach {self.sizes[-1]:g}, above max_position = {self.max_position:g}, so it could never be "
                "bought; raise max_position, or lower the size"
            )
        return self


MOST_WEIGHT = 1_000_000
"""Limit of a weight of the reward: squares of the value's error and of its gradient stay finite in float32."""
Weight = Annotated[float, Ge(0), Le(MOST_WEIGHT), LIVE]


class Weights(Table):
    """Weights of the seven reward components. Only their ratios matter under running scaling."""

    pnl: Weight = 0.40
    """Change of equity: the objective."""
    cost: Weight = 0.15
    """Penalty for commission and slippage; higher means fewer trades."""
    time: Weight = 0.15
    """Reward for quick winners, penalty for slow losers; higher means earlier exits."""
    sharpe: Weight = 0.05
    """Risk-adjusted return; higher means steadier equity."""
    drawdown: Weight = 0.10
    """Penalty for new drawdowns; higher means more caution."""
    sizing: Weight = 0.05
    """Penalty for the distance of a position's size from the size that its volatility suggests."""
    hold: Weight = 0.00
    """Penalty for holding an old position; 0 disables it."""

    @model_validator(mode="after")
    def _something_is_rewarded(self) -> Weights:
        if not any(value > 0 for value in dict(self).values()):
            raise ValueError("all weights are 0, so there is nothing to learn; expected at least one above 0")
        return self


class Reward(Table):
    """Reward of the agent."""

    formulas: Literal["sound", "guide"] = "sound"
    """Corrected formulas with the guide's intent, or the guide's exact formulas (`p3kit validate` names their
    defects)."""
    scaling: Literal["running", "tanh", "none"] = "running"
    """Divide by the running standard deviation of the discounted return, apply tanh, or leave unchanged."""
    clip: Annotated[float, Gt(0), Le(MOST), LIVE] | Off = 10.0
    """The scaled reward is clipped to ± this; clipped steps are counted."""
    target_volatility: Annotated[float, Gt(0), Le(10)] = 0.25
    """Target volatility per year of the sizing component, as a fraction."""
    target_sharpe: Number = 1.0
    """Annual Sharpe ratio that the guide's Sharpe component subtracts (`formulas = "guide"` only)."""
    action_bonus: Weight = 0.0
    """Bonus for every action except HOLD; above 0 it rewards churn, so use it only for a limited time."""
    weights: Weights = Weights()
    """Weights of the seven components."""


# --- computing --------------------------------------------------------------------------------------------------------


DEVICES = '"auto", "cpu", "cuda" or "cuda:1"'


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise ValueError(f"expected {DEVICES}")
    return text


class Compute(Table):
    """Device, number format, compiling, threads and grouping. The last bits of results depend on them, learning does
    not.

    Sums over one thread and over two differ in the last bits, and so do stacks of other sizes. So "auto" of `threads`
    and `group` follows from the spec and the cores of the machine, never from `--jobs`, the engine or other runs.
    `p3kit plan` prints the threads, `run.json` records them, and a resume uses the recorded number. Trials of a sweep
    have one thread each. Threads wait for each other: on a machine that is busy with other work, 1 is faster."""

    device: Annotated[str, AfterValidator(_device), Words(DEVICES)] = "auto"
    """auto uses CUDA if available; or cpu, cuda, cuda:1."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 on CUDA devices that support it, fp16 on other CUDA devices, fp32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto compiles if it saves time."""
    threads: Annotated[int, Ge(1), Le(1_024)] | Auto = "auto"
    """Torch threads per trainer process; auto is 1, and up to 4 idle cores for a shared encoder."""
    group: Annotated[int, Ge(1), Le(10_000)] | Auto = "auto"
    """Agents per process in a stacked trainer."""


# --- evaluation, checkpoints, stopping, grades ------------------------------------------------------------------------


class Evaluation(Table):
    """Evaluation on the whole validation split while training, and how the trained agent acts."""

    every: Count = 5_000
    """Env steps of an agent between evaluations, rounded up to the next update."""
    action: Literal["greedy", "sharpened", "sampled"] = "greedy"
    """greedy: the most probable valid action; sampled: drawn from the probabilities, by seed and time of the bar;
    sharpened: hold, buy or sell drawn at a temperature of 0.2, then one of its actions by probability."""


class Checkpoints(Table):
    """Checkpoints that are kept on disk while training."""

    every: Count = 10_000
    """Env steps of an agent between checkpoints, rounded up to the next update; a kill loses at most these."""
    keep_best: Annotated[int, Ge(1), Le(1_000)] = 3
    """Number of best weights to keep, by validation Sharpe ratio."""
    best_from: Share = 0.0
    """Weights from before this fraction of the training are chosen only if there are no later ones: an early policy
    that hardly trades is often lucky."""
    compress: bool = False
    """Compress checkpoints with zlib: about 7 % smaller, slower, and other readers of safetensors cannot open them."""


class EarlyStop(Table):
    """End of training before `ppo.total_timesteps`: on a plateau, or when the stretch goal is reached."""

    min_progress: Share = 0.5
    """No stop before this fraction of the training is done."""
    patience: Count | Off = 5
    """Number of evaluations without a better validation Sharpe ratio that is a plateau; off never stops on a
    plateau."""
    min_delta: NotNegative = 0.01
    """Smallest increase of the Sharpe ratio that counts as better."""
    plateau_steps: CountOrNone = 10_000
    """A plateau also lasts at least this many env steps."""
    stretch_sharpe: Number | Off = 0.8
    """Stop and save when validation beats this Sharpe ratio and buy-and-hold's."""


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise ValueError("expected two numbers, low < high")
    return pair


class MinimumCriteria(Table):
    """Criteria for PASS, judged on the validation split (guide 3.3, minimum success)."""

    validation_sharpe: Number | Off = 0.3
    """Sharpe ratio must be above this."""
    explained_variance: Annotated[float, Ge(-MOST), Le(1)] | Literal["reference"] | Off = "reference"
    """Explained variance of the value function; reference: ≥ 0.5, or ≥ a ridge regression on the same batch."""
    entropy: Annotated[Pair, AfterValidator(_rising)] | Off = (0.5, 1.5)
    """Policy entropy in nats must be between these two."""


class StrongCriteria(Table):
    """Criteria for STRONG, judged on the validation split (guide 3.3, strong success)."""

    validation_sharpe: Number | Off = 0.5
    """Sharpe ratio must be above this."""
    beats_supervised: Number | Off = 0.20
    """Total return must be at least the supervised baseline's plus this (0.20 is 20 points)."""
    max_drawdown: PositiveShare | Off = 0.20
    """Deepest fall from a peak must be below this fraction."""
    actions_used: Annotated[int, Ge(1), Le(7)] | Off = 4
    """At least this many of the seven actions must have 1 % of the steps each."""


class Grades(Table):
    """The criteria of the grades; each can be "off"."""

    minimum: MinimumCriteria = MinimumCriteria()
    """All of these are required for PASS."""
    strong: StrongCriteria = StrongCriteria()
    """All of these are required, too, for STRONG."""


class Baselines(Table):
    """Earlier results for comparison."""

    supervised: dict[str, Number | Off] = Field(default_factory=dict)
    """Total return of your earlier models: by symbol, and `default` for the rest (-0.88: a loss of 88 %), or "off"."""

    def supervised_return(self, symbol: str) -> float | None:
        """Total return of the user's earlier model for `symbol`, a fraction; None when none was given."""
        given = self.supervised.get(symbol, self.supervised.get("default", "off"))
        return None if given == "off" else given


# --- diagnosis, sweeps ------------------------------------------------------------------------------------------------


class Init(Table):
    """Weights of an earlier training to start from. Without this table weights are drawn at random."""

    source: Annotated[
        Reference | Annotated[Items[Reference], MinLen(1)], Words('a run such as "run-42", or a list of runs')
    ] = Field(alias="from")
    """A run, an agent of it, or the path of a run, a checkpoint or an exported policy. A list names several."""
    checkpoint: Annotated[str, MinLen(1), Words('"best", "last", or a file such as "best-000049152"')] = "best"
    """Weights to use: "best" (those that validation chose), "last", or the name of a file in checkpoints/."""
    optimizer: bool = False
    """Use the optimiser's state too, which checkpoint = "last" has; false starts with a new optimiser."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The runs and agents that are named."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source)

    @model_validator(mode="after")
    def _optimizer_is_in_the_checkpoint(self) -> Init:
        if self.optimizer and self.checkpoint.startswith("best"):
            raise ValueError('optimizer = true: best checkpoints hold no optimiser state; expected checkpoint = "last"')
        return self


class Budget(Table):
    """Limit of automatic repair per agent. Beyond it the agent is only watched."""

    actions: CountOrNone = 6
    """Interventions that may fire."""
    rollbacks: CountOrNone = 2
    """Returns to an earlier checkpoint."""
    lost_steps_pct: Annotated[float, Ge(0), Le(100)] = 20.0
    """Percent of the steps that rollbacks may discard."""


class RowOverride(Table):
    """Changes to one row of the symptom catalogue; what is absent stays as the catalogue has it."""

    warn: Number | None = None
    """Value from which the row warns."""
    critical: Number | None = None
    """Value from which the row is critical."""
    patience: Count | None = None
    """Checks in a row before it is raised."""


class Diagnose(Table):
    """Diagnosis of a run while it trains."""

    mode: Literal["off", "watch", "act"] = "watch"
    """watch: journal symptoms and planned actions; act: let interventions act. Unset: act if there are any."""
    catalogue: Literal["p3kit@1"] = "p3kit@1"
    """The rule pack and its version."""
    strict: bool = True
    """Stop a run whose contract is broken (ratio not 1, masked action, a step that a replay does not repeat)."""
    budget: Budget = Budget()
    """Limit of automatic repair per agent."""
    rows: dict[str, RowOverride] = Field(default_factory=dict)
    """Thresholds of single rows, by symptom: `[diagnose.rows."policy.hold"]`."""


class SearchRange(Table):
    """A range to search in. Two whole numbers make a search over whole numbers."""

    low: Whole | Number
    """Lowest value tried."""
    high: Whole | Number
    """Highest value tried."""
    log: bool = False
    """Search orders of magnitude evenly."""

    @model_validator(mode="after")
    def _is_a_range(self) -> SearchRange:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a log range starts above 0")
        return self


Scalar = bool | Whole | Number | str
Setting = Scalar | Items[Scalar]


Range = Annotated[SearchRange, Words("a range { low = 0.9, high = 0.99 }")]
Choices = Annotated[Items[Setting], MinLen(1), Words("a list of choices")]


Values = Annotated[Items[Setting], MinLen(1), AfterValidator(_distinct), Words("a list of values")]


class Tune(Table):
    """Search space and method of `p3kit tune`. A trial is one setting, trained for every symbol and seed."""

    trials: Annotated[int, Ge(1), Le(100_000)] = 24
    """Settings to try, the spec's own values first."""
    space: Annotated[dict[str, Range | Choices], MinLen(1)]
    """By spec path: a range { low, high, log } or a list of choices."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Learn from the trials so far (tree-structured Parzen estimator), or draw every setting at random."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of the sampler; another seed gives another sweep."""
    startup: Count = 8
    """Trials before the sampler learns and before any trial is pruned; more make it less greedy."""
    prune: Literal["median", "off"] = "median"
    """End a trial whose mean Sharpe ratio falls below the median of the completed ones at equal steps."""
    prune_after: Share = 0.3
    """Fraction of the training before which no trial is pruned; a later one prunes fewer good trials."""


# --- the whole --------------------------------------------------------------------------------------------------------


class Knobs(Table):
    """`[ppo]`: the trainer's own knobs. The real fields come from the class `Args` of the trainer's file."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Spec(Table):
    """An experiment: which agents to train, on what, how, and what counts as success. Required: name, symbols."""

    name: Name
    """The experiment's name in reports; runs of one name are reported together."""
    trainer: Annotated[str, MinLen(1)] = "ppo"
    """A trainer shipped in trainers/, or the path of your own file, relative to the spec file."""
    symbols: Annotated[Items[Symbol], MinLen(1), AfterValidator(_distinct)]
    """Symbols to trade: one agent per symbol, seed and matrix point."""
    seeds: Annotated[Items[Annotated[int, Ge(0), Lt(2**32)]], MinLen(1), AfterValidator(_distinct)] = (1,)
    """Random seeds; several seeds show the spread of results."""
    start_date: Annotated[date, BeforeValidator(_iso_date)] | None = None
    """The day on which week 1 of the reports begins; unset: the day of the first run."""
    data: Data = Data()
    """Which bars, and how they are cut into training, validation and test."""
    observation: Observation = Observation()
    """Features, and how observations are normalised."""
    env: Env = Env()
    """The trading account."""
    reward: Reward = Reward()
    """What the agent is paid for."""
    ppo: Knobs = Knobs()
    """The trainer's own knobs."""
    init: Init | None = None
    """Weights of an earlier training to start from."""
    schedules: dict[str, Schedule] = Field(default_factory=dict)
    """Numbers that change while training, by spec path; a bare name means ppo.NAME."""
    compute: Compute = Compute()
    """Where and how precisely to compute."""
    evaluation: Evaluation = Evaluation()
    """How often the validation split is walked."""
    checkpoints: Checkpoints = Checkpoints()
    """What is kept on disk."""
    early_stop: EarlyStop = EarlyStop()
    """When to stop before the steps are used up."""
    criteria: Grades = Grades()
    """What makes an agent PASS or STRONG."""
    baselines: Baselines = Baselines()
    """Results from before."""
    agents: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Per-symbol overrides: `[agents.AMD]` may contain any table that may differ between agents."""
    diagnose: Diagnose = Diagnose()
    """Watching for symptoms."""
    intervention: Items[Intervention] = ()
    """Actions on a symptom."""
    matrix: dict[str, Values] = Field(default_factory=dict)
    """Values to try, by spec path: one agent per combination."""
    tune: Tune | None = None
    """What `p3kit tune` searches."""

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the matrix, first key slowest; `[{}]` without a matrix."""
        combinations: list[dict[str, Any]] = [{}]
        for path, values in self.matrix.items():
            combinations = [{**point, path: value} for point in combinations for value in values]
        return combinations
