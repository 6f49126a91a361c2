"""Rules of one agent, check by check."""

from __future__ import annotations

from typing import Any

import pytest

from p3kit.diagnose.journal import in_short
from p3kit.spec.actions import Dump

from .made_up_run import HOLD, KL, SICK, UP, Training, decided, open_finding

# --- firing and release -----------------------------------------------------------------------------------------------


def test_nothing_raised_nothing_done() -> None:
    run = Training(HOLD)
    assert [run.update() for _ in range(5)] == [[]] * 5
    assert run.value() == 0.01


def test_a_symptom_fires_with_evidence_before_and_after() -> None:
    run = Training(HOLD)
    (fired,) = run.update(SICK, policy__hold_share=0.99)
    assert (fired.decision, fired.row, fired.cause, fired.threshold) == ("fired", "policy.hold", "ent_coef_low", 0.5)
    assert fired.keys == {"ppo.ent_coef": [0.01, 0.05]}
    assert fired.cause_scores == {"ent_coef_low": 1.0}
    assert fired.evidence["policy/hold_share"] == [0.99]
    assert run.value() == 0.05


def test_release_returns_exactly_to_the_schedule() -> None:
    release = {"metric": "policy/entropy_norm", "op": ">", "value": 0.25, "patience": 2}
    line = {"kind": "linear", "start": 0.05, "end": 0.01}
    rule = HOLD | {"do": [UP | {"until": "release", "max": 1.0}], "release": release}
    run = Training(rule, schedules={"ent_coef": line})
    run.update(SICK, policy__entropy_norm=0.1)
    assert run.value() == pytest.approx(5 * float(run.scheduled("ppo.ent_coef")))
    assert run.update(policy__entropy_norm=0.3) == []
    assert run.update(policy__entropy_norm=0.2) == []  # not twice in a row
    assert run.update(policy__entropy_norm=0.3) == []
    (released,) = run.update(policy__entropy_norm=0.3)
    assert released.decision == "released"
    assert run.value() == run.scheduled("ppo.ent_coef")
    assert run.value() != 0.05  # the schedule went on beneath


def test_a_set_masks_and_gives_back() -> None:
    line = {"kind": "linear", "start": 0.05, "end": 0.01}
    rule = HOLD | {"do": [{"set": "ent_coef", "to": 0.2, "until": {"env_steps": 3_000}}]}
    run = Training(rule, schedules={"ent_coef": line})
    run.update(SICK)
    values = []
    for _ in range(4):
        values.append(run.value() == run.scheduled("ppo.ent_coef"))
        run.update()
    assert values == [False, False, False, True]


def test_a_span_ends_by_itself_and_is_journalled() -> None:
    run = Training(HOLD | {"do": [UP | {"until": {"updates": 2}}]})
    run.update(SICK)
    assert run.update() == []
    (over,) = run.update()
    assert (over.decision, over.reason) == ("released", "its 2 updates are over")
    assert over.keys == {"ppo.ent_coef": [0.05, 0.01]}


def test_a_share_of_training_is_a_span_too() -> None:
    rule = HOLD | {"do": [UP | {"until": {"progress": 0.02}}], "min_data": {"progress": 0.1}}
    run = Training(rule)
    (waiting,) = run.update(SICK)
    assert waiting.reason == "not enough data: needs 10% of training"
    fired = [run.update(SICK) for _ in range(9)][-1]
    assert decided(fired) == [("hold", "fired")]
    assert run.update() == []
    (released,) = run.update()
    assert (released.decision, released.reason) == ("released", "its 2% of training are over")


def test_a_word_can_be_replaced_but_not_moved() -> None:
    off = {"ppo": {"target_kl": "off"}}
    scaled = Training(HOLD | {"do": [{"scale": "target_kl", "by": 0.5, "min": 0.001}]}, **off)
    (blocked,) = scaled.update(SICK)
    assert (blocked.decision, blocked.reason) == ("blocked", "ppo.target_kl is 'off', which is no number to move")
    given = Training(HOLD | {"do": [{"set": "target_kl", "to": 0.02}]}, **off)
    (fired,) = given.update(SICK)
    assert fired.keys == {"ppo.target_kl": ["off", 0.02]}
    assert given.value("ppo.target_kl") == 0.02


# --- triggers ---------------------------------------------------------------------------------------------------------


def test_only_the_named_cause_triggers() -> None:
    run = Training(HOLD | {"cause": ["penalty_dominates"]})
    assert run.update(SICK) == []
    assert decided(run.update(open_finding("policy.hold", "penalty_dominates"))) == [("hold", "fired")]


def test_a_cause_that_nothing_repairs_triggers_no_repair_but_a_note() -> None:
    tight = open_finding("policy.hold", "mask_tight")
    assert Training(HOLD).update(tight) == []
    assert decided(Training(HOLD | {"do": [{"note": "x"}]}).update(tight)) == [("hold", "fired")]


def test_a_cause_after_a_colon_is_the_likeliest_one() -> None:
    rule = {"id": "nan", "on": "num.nan:explosion", "do": [{"note": "x"}]}
    run = Training(rule)
    assert run.update(open_finding("num.nan", "outlier")) == []
    assert decided(run.update(open_finding("num.nan", "explosion"))) == [("nan", "fired")]


@pytest.mark.parametrize(
    ("agg", "expected"), [("last", 5.0), ("mean", 3.0), ("median", 3.0), ("min", 1.0), ("max", 5.0), ("ewma", 3.857)]
)
def test_values_become_one(agg: str, expected: float) -> None:
    def rule(bar: float) -> dict[str, Any]:
        on = {"metric": KL, "agg": agg, "span": 3, "op": ">", "value": bar}
        return {"id": "kl", "on": on, "do": [{"note": "x"}]}

    for bar, fires in ((expected - 0.01, True), (expected + 0.01, False)):
        run = Training(rule(bar))
        run.take("A", *({"global_step": 1, "iteration": 1, "metrics": {KL: v}} for v in (9.0, 1.0, 3.0)))
        assert bool(run.update(**{KL: 5.0})) is fires


def test_all_any_and_not() -> None:
    late = {"metric": "progress", "op": ">=", "value": 0.02}
    high = {"metric": KL, "op": ">", "value": 0.05}
    on = {"all": [{"any": ["policy.hold", high]}, late, {"not": "mask.tight"}]}
    run = Training({"id": "r", "on": on, "do": [{"note": "x"}]}, diagnose={"mode": "act"})
    assert run.update(SICK) == []  # too early
    assert run.update(SICK, open_finding("mask.tight")) == []
    assert decided(run.update(**{KL: 0.06})) == [("r", "fired")]


def test_what_was_repaired_may_be_treated_otherwise_than_what_never_was() -> None:
    repaired = {"metric": "actions", "op": ">", "value": 0}
    late = {"metric": "progress", "op": ">=", "value": 0.03}
    settle = {"scale": "ppo.learning_rate", "by": 0.1, "min": 1e-5, "ramp": {"progress": 0.04}}
    rules = [HOLD, {"id": "settle", "on": {"all": [repaired, late]}, "do": [settle]}]
    healthy = Training(*rules)
    assert [healthy.update() for _ in range(6)] == [[]] * 6
    run = Training(*rules)
    run.update()
    assert decided(run.update(SICK)) == [("hold", "fired")]
    (fired,) = run.update()
    assert (fired.rule, fired.decision) == ("settle", "fired")
    assert fired.evidence == {"actions": [1.0], "progress": [0.03]}
    assert fired.keys == {"ppo.learning_rate": [3e-4, pytest.approx(3e-5)]}
    assert in_short(fired.to_event()) == "ppo.learning_rate 3e-4 → 3e-5 over 4% of training"
    rates = []
    for _ in range(6):
        rates.append(run.value("ppo.learning_rate"))
        run.update()
    assert rates == pytest.approx([3e-4, 2.325e-4, 1.65e-4, 0.975e-4, 3e-5, 3e-5])


def test_what_was_not_recorded_holds_neither_way() -> None:
    low = {"metric": "eval/sharpe_ratio", "op": "<", "value": 0.0}
    run = Training({"id": "r", "on": {"not": low}, "do": [{"note": "x"}]})
    assert run.update() == []
    run.evaluate(eval__sharpe_ratio=1.0)
    assert decided(run.update()) == [("r", "fired")]


def test_patience_counts_checks_in_a_row() -> None:
    run = Training(HOLD | {"patience": 3})
    shown = [SICK, SICK, None, SICK, SICK, SICK]
    assert [bool(run.update(*([one] if one else []))) for one in shown] == [False] * 5 + [True]


def test_k_of_n_checks() -> None:
    run = Training(HOLD | {"within": "3 of 5"})
    shown = [SICK, None, None, SICK, None, SICK, SICK]
    assert [bool(run.update(*([one] if one else []))) for one in shown] == [False] * 6 + [True]


def test_eval_rules_are_looked_at_after_evaluations() -> None:
    run = Training(HOLD | {"check": "eval"})
    assert run.update(SICK) == []
    assert decided(run.evaluate(SICK)) == [("hold", "fired")]


# --- what holds a rule back -------------------------------------------------------------------------------------------


def test_too_little_data_is_journalled_once() -> None:
    run = Training(HOLD | {"min_data": {"updates": 3, "gradient_steps": 30}})
    (first,) = run.update(SICK)
    assert (first.decision, first.reason) == ("suppressed", "not enough data: needs 3 updates, 30 gradient steps")
    assert first.min_data == {
        "have": {"updates": 1, "gradient_steps": 10},
        "need": {"updates": 3, "gradient_steps": 30},
    }
    assert run.update(SICK) == []
    assert decided(run.update(SICK)) == [("hold", "fired")]


def test_unless() -> None:
    run = Training(HOLD | {"unless": ["policy.correct_inaction"]})
    (held,) = run.update(SICK, open_finding("policy.correct_inaction", severity="information"))
    assert (held.decision, held.reason) == ("suppressed", "unless policy.correct_inaction, which is raised")
    assert run.value() == 0.01
    assert decided(run.update(SICK)) == [("hold", "fired")]


def test_cooldown_and_max_times() -> None:
    rule = HOLD | {"do": [UP | {"by": 2.0}], "cooldown": {"updates": 2}, "max_times": 2}
    run = Training(rule)
    told = [decided(run.update(SICK)) for _ in range(5)]
    assert told == [
        [("hold", "fired")],
        [("hold", "suppressed")],
        [("hold", "fired")],
        [("hold", "blocked")],
        [],
    ]
    assert run.value() == 0.04


def test_where_bounds_are_reached_nothing_fires() -> None:
    run = Training(HOLD | {"max_times": 9})
    assert [decided(run.update(SICK)) for _ in range(4)] == [
        [("hold", "fired")],
        [("hold", "fired")],
        [("hold", "suppressed")],
        [],
    ]
    assert run.value() == 0.10


def test_one_rule_per_key_and_check_the_lowest_number_wins() -> None:
    late = HOLD | {"id": "late", "priority": 50}
    early = {"id": "early", "on": {"metric": KL, "op": ">", "value": 0.0}, "do": [UP | {"by": 2.0}], "priority": 10}
    run = Training(late, early)
    first, second = run.update(SICK, **{KL: 0.01})
    assert decided([first, second]) == [("early", "fired"), ("late", "suppressed")]
    assert "higher priority" in second.reason
    assert decided(run.update(SICK, **{KL: 0.01}))[-1] == ("late", "fired")


def test_the_budget_of_actions() -> None:
    rule = HOLD | {"do": [UP | {"by": 1.1}], "max_times": 9}
    note = {"id": "note", "on": "policy.hold", "do": [{"note": "x"}], "max_times": 9, "priority": 200}
    run = Training(rule, note, diagnose={"mode": "act", "budget": {"actions": 2}})
    told = [decided(run.update(SICK)) for _ in range(4)]
    assert [("hold", "fired") in one for one in told] == [True, True, False, False]
    assert ("hold", "blocked") in told[2]
    assert all(("note", "fired") in one for one in told), "what leaves the training alone costs nothing"


def test_watch_journals_and_changes_nothing() -> None:
    run = Training(HOLD, diagnose={"mode": "watch"})
    (watched,) = run.update(SICK)
    assert (watched.decision, watched.keys) == ("blocked", {"ppo.ent_coef": [0.01, 0.05]})
    assert "watch" in watched.reason
    assert run.value() == 0.01


def test_a_reward_edit_quiets_what_it_looks_like() -> None:
    edit = HOLD | {"do": [{"scale": "reward.weights.cost", "by": 0.5, "min": 0.01}], "cooldown": {"updates": 2}}
    value = {"id": "value", "on": "value.fail", "do": [{"scale": "vf_coef", "by": 2.0, "max": 2.0}]}
    run = Training(edit, value)
    assert run.engine["A"].reward_edits == 0
    run.update(SICK)
    assert run.engine["A"].reward_edits == 1
    failing = open_finding("value.fail")
    (held,) = run.update(failing)
    assert (held.decision, held.reason) == ("suppressed", "the reward was edited: value.fail is judged again later")
    assert decided(run.update(failing)) == [("value", "fired")]


def test_a_key_that_goes_to_and_fro_is_frozen() -> None:
    rule = HOLD | {"do": [UP | {"until": {"updates": 1}}], "max_times": 9}
    run = Training(rule, diagnose={"mode": "act", "budget": {"actions": 99}})
    told = [decision for n in range(8) for decision in run.update(*([SICK] if n % 2 == 0 else []))]
    (frozen,) = [decision for decision in told if decision.row == "intervention.oscillates"]
    assert frozen.decision == "blocked"
    assert sum(decision.decision == "fired" for decision in told) == 2
    assert told[-1].reason == "ppo.ent_coef went up and down twice and is moved no more"
    assert run.value() == 0.01


def test_the_component_that_the_evidence_names() -> None:
    rule = {"id": "hack", "on": "reward.hack", "do": [{"scale": "reward.weights.{component}", "by": 0.2, "min": 0.01}]}
    run = Training(rule, STEER)
    assert decided(run.update(open_finding("reward.hack", "component_drift"))) == [("hack", "suppressed")]
    named = open_finding("reward.hack", "component_drift", component="time")
    (fired,) = run.update(named)
    assert fired.keys == {"reward.weights.time": [0.15, pytest.approx(0.03)]}
    assert fired.component == "time"
    assert run.value("reward.weights.time") == pytest.approx(0.03)
    assert run.value("reward.weights.cost") == 0.15
    assert run.engine["A"].moved_keys() >= {"reward.weights.time", "reward.weights.pnl", "ppo.learning_rate"}
    journal = run.journal
    again = Training(rule, STEER, journal=journal)
    again.update()
    again.update()
    assert again.value("reward.weights.time") == pytest.approx(0.03)
    third = Training(rule, STEER)
    third.resume(again)
    assert third.value("reward.weights.time") == pytest.approx(0.03)


# --- verify, ladder ---------------------------------------------------------------------------------------------------

VERIFY = {"metric": "policy/hold_share", "op": "<", "than": "before", "within": {"updates": 2}}


@pytest.mark.parametrize(("after", "decision"), [(0.5, "verified"), (0.99, "failed")])
def test_whether_it_helped(after: float, decision: str) -> None:
    run = Training(HOLD | {"verify": VERIFY})
    run.update(SICK, policy__hold_share=0.98)
    assert decided(run.update(policy__hold_share=after)) == []
    (told,) = run.update(policy__hold_share=after)
    assert (told.decision, told.threshold) == (decision, 0.98)
    assert told.evidence == {"policy/hold_share": [0.98, after]}
    assert run.value() == 0.05, "on_fail = keep leaves it"


def test_the_next_rung_begins_where_the_first_failed() -> None:
    first = HOLD | {"verify": VERIFY, "on_fail": "next", "priority": 1}
    second = {"id": "cost", "on": "policy.hold", "priority": 2}
    second["do"] = [{"scale": "reward.weights.cost", "by": 0.5, "min": 0.01}]
    run = Training(first, second)
    assert decided(run.update(SICK, policy__hold_share=0.98)) == [("hold", "fired"), ("cost", "suppressed")]
    run.update(SICK, policy__hold_share=0.98)
    told = run.update(SICK, policy__hold_share=0.98)
    assert decided(told) == [("hold", "failed"), ("hold", "released"), ("hold", "blocked"), ("cost", "fired")]
    assert run.value() == 0.01, "what did not help is taken away"


def test_after_the_last_rung_it_is_said() -> None:
    run = Training(HOLD | {"verify": VERIFY, "on_fail": "next"})
    for _ in range(2):
        run.update(SICK, policy__hold_share=0.98)
    failed = run.update(SICK, policy__hold_share=0.98)[0]
    assert "unrepaired" in failed.reason


def test_a_failure_may_stop_the_run() -> None:
    run = Training(HOLD | {"verify": VERIFY, "on_fail": "stop"})
    for _ in range(2):
        run.update(SICK, policy__hold_share=0.98)
    failed = run.update(SICK, policy__hold_share=0.98)[0]
    assert [asked.model_dump() for asked in failed.actions] == [{"stop": "fail"}]


# --- rollback ---------------------------------------------------------------------------------------------------------

BACK = {
    "id": "back",
    "on": "opt.step_too_big",
    "patience": 2,
    "do": [{"rollback": "last_good"}, {"scale": "learning_rate", "by": 0.1, "min": 1e-6}],
    "max_times": 9,
}
BIG = open_finding("opt.step_too_big")
ROOMY = {"mode": "act", "budget": {"actions": 9, "rollbacks": 2, "lost_steps_pct": 100}}


def test_back_to_the_newest_checkpoint_older_than_the_delay() -> None:
    run = Training(BACK, diagnose=ROOMY)
    run.update()
    assert run.checkpoint()
    run.update(open_finding("train.kl", severity="warning"))
    assert not run.checkpoint(), "no checkpoint with an open symptom is a good one"
    run.update()
    assert run.checkpoint()
    run.update(BIG)
    (fired,) = run.update(BIG)
    assert fired.checkpoint == "good-000003000"
    assert run.engine["A"].undone == [(3_000, 5_000)]
    assert run.value("ppo.learning_rate") == pytest.approx(3e-5)
    assert run.engine["A"].clock.env_steps == 5_000, "spent steps stay spent"


def test_to_the_beginning_where_there_is_no_good_one() -> None:
    run = Training(BACK | {"patience": 1}, diagnose=ROOMY)
    (fired,) = run.update(BIG)
    assert fired.checkpoint == "init"
    stop = BACK | {"patience": 1, "do": [{"rollback": "last_good", "else": "stop"}, BACK["do"][1]]}  # type: ignore[index]
    (stopped,) = Training(stop, diagnose=ROOMY).update(BIG)
    assert stopped.checkpoint is None
    assert [asked.model_dump() for asked in stopped.actions] == [{"stop": "fail"}]


def test_the_budget_of_rollbacks_and_of_lost_steps() -> None:
    often = BACK | {"patience": 1, "do": [{"rollback": "init"}, {"scale": "learning_rate", "by": 0.9, "min": 1e-6}]}
    run = Training(often, diagnose=ROOMY)
    told = [run.update(BIG)[0] for _ in range(3)]
    assert [one.decision for one in told] == ["fired", "fired", "blocked"]
    assert "budget.rollbacks" in told[-1].reason
    run = Training(often, diagnose={"mode": "act", "budget": {"lost_steps_pct": 2}})
    told = [run.update(BIG)[0] for _ in range(2)]
    assert [one.decision for one in told] == ["fired", "blocked"]  # 1,000 and then 1,000 + 2,000 of 100,000 steps
    assert "lost_steps_pct" in told[-1].reason


@pytest.mark.parametrize(
    "budget", [{"lost_steps_pct": 0.5}, {"rollbacks": 0, "lost_steps_pct": 100}], ids=["steps", "rollbacks"]
)
@pytest.mark.parametrize("back", ["last_good", "init"])
def test_beyond_the_budget_a_rule_may_act_on_the_weights_of_now(back: str, budget: dict[str, float]) -> None:
    stay = {"rollback": back, "over_budget": "stay"}
    rule = BACK | {"patience": 1, "do": [{"dump": "minibatch"}, stay, BACK["do"][1]]}  # type: ignore[index]
    run = Training(rule, diagnose={"mode": "act", "budget": budget})
    (fired,) = run.update(BIG)
    assert (fired.decision, fired.checkpoint) == ("fired", None)
    assert [type(asked) for asked in fired.actions] == [Dump]
    assert "the weights stay, as" in fired.reason
    assert run.value("ppo.learning_rate") == pytest.approx(3e-5)
    assert run.engine["A"].undone == []
    again = Training(rule, diagnose={"mode": "act", "budget": budget}, journal=run.journal)
    (replayed,) = again.update()
    assert (replayed.checkpoint, replayed.actions) == (None, fired.actions), "a replay stays, too"
    assert again.value("ppo.learning_rate") == run.value("ppo.learning_rate")


def test_what_was_undone_is_not_judged_again() -> None:
    run = Training(BACK | {"patience": 1}, diagnose=ROOMY)
    run.update(BIG, **{KL: 9.0})
    run.update(**{KL: 0.01})
    evidence = run.engine["A"].evidence()
    assert evidence.series[KL].values.tolist() == [0.01]


# --- controllers ------------------------------------------------------------------------------------------------------

LOOP = {"key": "ppo.learning_rate", "metric": KL, "target": 0.01, "band": 2.0, "factor": 1.5, "min": 1e-4, "max": 5e-4}
STEER = {"id": "steer", "controller": LOOP}


def test_a_controller_keeps_a_metric_near_its_target() -> None:
    run = Training(STEER)
    values = []
    for kl in (0.03, 0.03, 0.03, 0.03, 0.01, 0.004, 0.004, 0.004, 0.004, 0.004, 0.004):
        run.update(**{KL: kl})
        values.append(run.value("ppo.learning_rate"))
    low = [2e-4, 2e-4 / 1.5, 1e-4, 1e-4, 1e-4]
    assert values == pytest.approx([*low, 1.5e-4, 2.25e-4, 3.375e-4, 5e-4, 5e-4, 5e-4])


def test_a_controller_turns_round_at_once_at_its_bound() -> None:
    run = Training(STEER)
    for _ in range(20):
        run.update(**{KL: 0.05})
    run.update(**{KL: 0.001})
    assert run.value("ppo.learning_rate") == pytest.approx(1.5e-4)


# --- state and repetition ---------------------------------------------------------------------------------------------

STORY = [
    ([SICK], {"policy__hold_share": 0.98, "policy__entropy_norm": 0.1, KL: 0.03}),
    ([SICK, BIG], {"policy__hold_share": 0.98, "policy__entropy_norm": 0.1, KL: 0.03}),
    ([BIG], {"policy__hold_share": 0.6, "policy__entropy_norm": 0.4, KL: 0.001}),
    ([], {"policy__hold_share": 0.6, "policy__entropy_norm": 0.4, KL: 0.001}),
    ([], {"policy__hold_share": 0.6, "policy__entropy_norm": 0.4, KL: 0.01}),
    ([SICK], {"policy__hold_share": 0.6, "policy__entropy_norm": 0.1, KL: 0.05}),
]
RULES = [
    HOLD
    | {
        "do": [UP | {"until": "release", "ramp": {"updates": 2}}],
        "release": {"metric": "policy/entropy_norm", "op": ">", "value": 0.25, "patience": 2},
        "verify": VERIFY,
        "max_times": 2,
    },
    BACK,
    {"id": "steer", "controller": LOOP | {"key": "ppo.vf_coef", "min": 0.1, "max": 2.0}},
]
KEYS = ("ppo.ent_coef", "ppo.learning_rate", "ppo.vf_coef")


def test_state_goes_through_a_checkpoint() -> None:
    whole = Training(*RULES, diagnose=ROOMY)
    expected = [decided(whole.update(*findings, **metrics)) for findings, metrics in STORY]
    values = [whole.value(key) for key in KEYS]
    for cut in range(1, len(STORY)):
        first = Training(*RULES, diagnose=ROOMY)
        told = [decided(first.update(*findings, **metrics)) for findings, metrics in STORY[:cut]]
        second = Training(*RULES, diagnose=ROOMY)
        second.resume(first)
        told += [decided(second.update(*findings, **metrics)) for findings, metrics in STORY[cut:]]
        assert told == expected
        assert [second.value(key) for key in KEYS] == values
        assert second.state() == whole.state()


def test_the_journal_repeats_what_was_done_without_judging() -> None:
    judged = Training(*RULES, diagnose=ROOMY)
    values = []
    for findings, metrics in STORY:
        judged.update(*findings, **metrics)
        values.append([judged.value(key) for key in KEYS])
    journal = judged.journal
    assert {event["decision"] for event in journal} >= {"fired", "released", "verified"}
    again = Training(*RULES, journal=journal, diagnose=ROOMY)
    repeated = []
    for _, metrics in STORY:
        repeated.append((again.update(**metrics), [again.value(key) for key in KEYS]))
    assert [now for _, now in repeated] == values
    told = [(d.rule, d.decision, dict(d.keys), d.checkpoint) for decisions, _ in repeated for d in decisions]
    done = ("fired", "released", "verified", "failed")
    assert told == [(e["id"], e["decision"], e["keys"], e["checkpoint"]) for e in journal if e["decision"] in done]


# --- the pack that repairs --------------------------------------------------------------------------------------------

AT_CHANCE = {"policy/entropy_norm": 0.96, "value/explained_variance": 0.02}


@pytest.mark.parametrize(
    ("knob", "sick", "healthy", "rule", "repaired"),
    [("ent_coef", 0.5, 0.1, "repair-entropy-bonus", 0.01), ("vf_coef", 0.0, 0.01, "repair-value-weight", 0.5)],
)
def test_a_weight_that_is_itself_the_fault_is_mended_before_its_symptom(
    knob: str, sick: float, healthy: float, rule: str, repaired: float
) -> None:
    def fired_rules(value: float, **metrics: float) -> list[str]:
        run = Training(interventions="repair", ppo={knob: value}, diagnose={"mode": "act"})
        row = AT_CHANCE | {f"effective/ppo.{knob}": value} | metrics
        fired = [one for _ in range(3) for one in run.update(**row) if one.decision == "fired"]
        assert run.value(f"ppo.{knob}") == (repaired if fired else value)
        return [one.rule for one in fired]

    assert fired_rules(sick) == [rule]
    assert fired_rules(healthy) == []  # a weight that one may have
    assert fired_rules(sick, **{"policy/entropy_norm": 0.9, "value/explained_variance": 0.2}) == []  # it learns


def test_a_repaired_run_is_steadied_to_its_end_and_a_healthy_one_is_not() -> None:
    rate = {"effective/ppo.learning_rate": 1e-3}
    healthy = Training(interventions="repair", ppo={"learning_rate": 1e-3}, diagnose={"mode": "act"})
    assert [healthy.update(**rate) for _ in range(6)] == [[]] * 6
    run = Training(interventions="repair", ppo={"learning_rate": 1e-3}, diagnose={"mode": "act"})
    fired = decided(run.update(open_finding("policy.init_scale", "init_gain"), **rate))
    assert fired == [("repair-init-scale", "fired"), ("repair-steady", "fired")]
    assert run.value("ppo.clip_range") == 0.1
    rates = [run.value("ppo.learning_rate")]
    for _ in range(9):
        run.update(steps=10_000, **rate)
        rates.append(run.value("ppo.learning_rate"))
    assert rates == pytest.approx([1e-3 * (1 - 0.97 * n / 9) for n in range(10)])


@pytest.mark.parametrize(
    ("updates", "steps", "steadied"),
    [
        (1, 8_000, False),  # 92,000 are 11.5 of such updates
        (1, 7_600, True),  # 12.2
        (10, 5_100, False),  # 49,000 are 9.6
        (50, 1_000, True),  # 50,000 are 12.2 ticks
        (51, 1_000, False),  # 49,000 are 49 updates, of which four make a tick
    ],
)
def test_a_run_is_steadied_where_a_dozen_whole_updates_are_left(updates: int, steps: int, steadied: bool) -> None:
    rate = {"effective/ppo.learning_rate": 1e-3}
    run = Training(interventions="repair", ppo={"learning_rate": 1e-3}, diagnose={"mode": "act"})
    for _ in range(updates - 1):
        assert run.update(**rate, steps=steps) == []
    found = run.update(open_finding("policy.init_scale", "init_gain"), **rate, steps=steps)
    assert decided(found) == [("repair-init-scale", "fired"), ("repair-steady", "fired")][: 1 + steadied]


def test_steps_that_are_small_already_stay_as_they_are() -> None:
    small = {KL: 0.03, "policy/clip_fraction": 0.4, "effective/ppo.learning_rate": 1e-3}
    run = Training(interventions="repair", ppo={"learning_rate": 1e-3}, diagnose={"mode": "act"})
    assert run.update(**small) == []  # the guide's bounds passed once
    assert decided(run.update(**small)) == [("repair-kl", "fired")]
    assert (run.value("ppo.learning_rate"), run.value("ppo.target_kl")) == (pytest.approx(1e-4), 0.02)
    later = [run.update(**{KL: 0.005, "effective/ppo.learning_rate": 1e-4}) for _ in range(5)]
    assert later == [[]] * 5
    assert run.value("ppo.clip_range") == 0.2
