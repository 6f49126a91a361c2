"""Early stop and grades: the guide's criteria (3.3), judged on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from p3kit.edge import label
from p3kit.metrics import METRICS
from p3kit.rundir import Series
from p3kit.runtime.recording import TICK_STEPS
from p3kit.spec import Spec

Metrics = Mapping[str, float]
_CARRIED = ("metrics", "baselines", "equal_exposure", "fixed_rule", "sharpe_interval", "excess_interval")
"""From the chosen evaluation into the verdict."""


@dataclass
class EarlyStop:
    """Plateau and stretch goal (guide 3.3 and 4.5). State is plain numbers, stored in checkpoints."""

    best: float = float("-inf")
    best_step: int = 0
    waited: int = 0

    def update(self, spec: Spec, metrics: Metrics, global_step: int, progress: float) -> str | None:
        """Take in one evaluation with new weights; the reason to stop, or None.

        A plateau needs both `patience` evaluations and `plateau_steps` env steps without a gain of `min_delta`. The
        stretch goal counts only where buy-and-hold did worse in the same evaluation. Nothing stops before
        `min_progress`.
        """
        rule = spec.early_stop
        sharpe = metrics.get("eval/sharpe_ratio")
        if sharpe is not None and sharpe > self.best + rule.min_delta:
            self.best, self.best_step, self.waited = sharpe, global_step, 0
        else:
            self.waited += 1
        if progress < rule.min_progress:
            return None
        if reaches_stretch(spec, metrics):
            return f"validation Sharpe {sharpe:.2f} is above buy-and-hold's and the goal {rule.stretch_sharpe:g}"
        still = global_step - self.best_step
        if rule.patience != "off" and self.waited >= rule.patience and still >= rule.plateau_steps:
            return f"no gain of {rule.min_delta:g} in validation Sharpe for {self.waited} evaluations, {still:,} steps"
        return None

    def begin_again(self, global_step: int) -> None:
        """Count the patience from here on, as an extension does. The best Sharpe ratio stays the one to beat."""
        self.best_step, self.waited = global_step, 0

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: Metrics) -> None:
        self.best, self.best_step = float(state["best"]), int(state["best_step"])
        self.waited = int(state["waited"])


def reaches_stretch(spec: Spec, metrics: Metrics) -> bool:
    """Return True if an evaluation is above `early_stop.stretch_sharpe` and above buy-and-hold's Sharpe ratio."""
    goal = spec.early_stop.stretch_sharpe
    if goal == "off" or "eval/sharpe_ratio" not in metrics:
        return False
    return metrics["eval/sharpe_ratio"] > goal and metrics.get("eval/sharpe_excess", 0.0) > 0


def verdict(
    spec: Spec,
    symbol: str,
    metrics: Metrics,
    nonfinite: float,
    evaluation: Mapping[str, Any],
    judged: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Grade one agent from the evaluation chosen by validation Sharpe.

    `metrics` are the training and `eval/` metrics recorded with it. `nonfinite` is the number of discarded gradient
    steps of the whole run. `evaluation` is the event (baselines, intervals, a flag for constant rules). `judged` is the
    comparison with the yardsticks (`p3kit.edge.judge`); None if returns of an evaluation are missing.
    """
    minimum = _minimum(spec, metrics, nonfinite)
    strong = _strong(spec, symbol, metrics)
    grade = "FAIL"
    if all(reason["met"] for reason in minimum):
        grade = "PASS"
        if all(reason["met"] for reason in strong):
            grade = "STRETCH" if reaches_stretch(spec, metrics) else "STRONG"
    return {
        "grade": grade,
        "reasons": minimum + strong,
        "over_buy_and_hold": label(judged),
        "judged": judged,
        "labels": _labels(spec, metrics, evaluation),
        "chosen_step": evaluation["global_step"],
        "supervised_return": spec.baselines.supervised_return(symbol),
        **{key: evaluation.get(key) for key in _CARRIED},
    }


def _minimum(spec: Spec, metrics: Metrics, nonfinite: float) -> list[dict[str, Any]]:
    criteria = spec.criteria.minimum
    reasons = []
    if criteria.validation_sharpe != "off":
        reasons.append(_above("validation_sharpe", metrics.get("eval/sharpe_ratio"), criteria.validation_sharpe))
    if criteria.explained_variance != "off":
        reasons.append(_explained_variance(criteria.explained_variance, metrics))
    if criteria.entropy != "off":
        (low, high), entropy = criteria.entropy, metrics.get("policy/entropy")
        met = entropy is not None and low <= entropy <= high
        reasons.append(_reason("entropy", entropy, f"{low:g} to {high:g} nats", met))
    reasons.append(_reason("no NaN", nonfinite, "0 gradient steps thrown away", nonfinite == 0))
    return [reason | {"set": "minimum"} for reason in reasons]


def _explained_variance(criterion: float | str, metrics: Metrics) -> dict[str, Any]:
    value = metrics.get("value/explained_variance")
    if criterion != "reference":
        return _above("explained_variance", value, float(criterion))
    # what returns of this market can explain at all is measured by a linear forecast of the same batch
    reference = metrics.get("diag/ev_reference")
    bar = 0.5 if reference is None else min(0.5, max(reference, 0.0))
    text = "≥ 0.5" if bar == 0.5 else f"≥ {bar:.2f} (ridge reference of the same batch)"
    return _reason("explained_variance", value, text, value is not None and value >= bar)


def _strong(spec: Spec, symbol: str, metrics: Metrics) -> list[dict[str, Any]]:
    criteria = spec.criteria.strong
    reasons = []
    if criteria.validation_sharpe != "off":
        reasons.append(_above("validation_sharpe", metrics.get("eval/sharpe_ratio"), criteria.validation_sharpe))
    baseline = spec.baselines.supervised_return(symbol)
    if criteria.beats_supervised != "off" and baseline is not None:
        total, bar = metrics.get("eval/total_return"), baseline + criteria.beats_supervised
        met = total is not None and total >= bar
        reasons.append(_reason("beats_supervised", total, f"≥ {bar:.2f} total return", met))
    if criteria.max_drawdown != "off":
        drawdown = metrics.get("eval/max_drawdown")
        met = drawdown is not None and drawdown < criteria.max_drawdown
        reasons.append(_reason("max_drawdown", drawdown, f"< {criteria.max_drawdown:g}", met))
    if criteria.actions_used != "off":
        used = metrics.get("eval/actions_used")
        met = used is not None and used >= criteria.actions_used
        reasons.append(_reason("actions_used", used, f"≥ {criteria.actions_used}", met))
    return [reason | {"set": "strong"} for reason in reasons]


def _labels(spec: Spec, metrics: Metrics, evaluation: Mapping[str, Any]) -> list[str]:
    labels = []
    if evaluation["constant"]:
        labels.append("constant")
    wanted = spec.criteria.minimum.validation_sharpe
    if wanted == "off" or wanted < 0:  # doing nothing earns a Sharpe of 0 in effect
        labels.append("all-HOLD meets the Sharpe criterion too")
    if "eval/sharpe_ratio" not in metrics:
        labels.append("never traded")
    if evaluation.get("ruined", False):  # an older journal does not have it
        labels.append("ended in ruin")
    return labels


_FEWEST_GRADIENT_STEPS = 500
_MOST_ENTROPY = METRICS["policy/entropy_norm"].healthy


def is_hardly_trained(args: Any, global_step: int, entropy_norm: float | None) -> bool:
    """Return True for weights that training has hardly moved: what they earn is luck.

    They have fewer than 4,096 env steps or 500 gradient steps, or the entropy of the policy is above its healthy range,
    0.965 of the maximum. `args`: arguments of the trainer; gradient steps count if it has `batch_size` and `n_epochs`.
    """
    batch_size, n_epochs = getattr(args, "batch_size", None), getattr(args, "n_epochs", None)
    few = False
    if batch_size and n_epochs:
        few = global_step * n_epochs / batch_size < _FEWEST_GRADIENT_STEPS
    undecided = entropy_norm is not None and _MOST_ENTROPY is not None and entropy_norm > (_MOST_ENTROPY[1] or 1.0)
    return global_step < TICK_STEPS or few or undecided


def _above(criterion: str, value: float | None, threshold: float) -> dict[str, Any]:
    return _reason(criterion, value, f"> {threshold:g}", value is not None and value > threshold)


def _reason(criterion: str, value: float | None, threshold: str, met: bool) -> dict[str, Any]:
    return {"criterion": criterion, "value": value, "threshold": threshold, "met": met}


def explained_after(series: Mapping[str, Series], chosen_step: int) -> dict[str, float]:
    """Explained variance of the value function of the chosen weights, and of its reference.

    It is measured on the rollout of those weights, the one after they were chosen. The rollout before it has the values
    of earlier weights. The last weights have no rollout and keep the older number. A user's trainer may record neither.
    """
    found: dict[str, float] = {}
    for name in ("value/explained_variance", "diag/ev_reference"):
        if name not in series:
            continue
        later = series[name].values[series[name].steps > chosen_step]
        if len(later):
            found[name] = float(later[0])
    return found
