"""The diagnosis suite: real short training runs with one fault each, and healthy ones that must stay silent.

  python -m tests.measure.suite --quick                     short runs: every fault once, a few healthy ones
  python -m tests.measure.suite --full --output FILE        long runs: all strengths, healthy runs by the dozen; an hour
  python -m tests.measure.suite --full --calibrate          the same on the seeds that thresholds may be looked at on
  python -m tests.measure.suite --repair --seeds 3          faults healthy, sick and repaired; controls under the rules
  python -m tests.measure.suite --rejudge DIR [--rules FILE] judge stored runs anew; nothing is trained
  python -m tests.measure.suite --page                      the committed results into docs/diagnosis.md

- `base.toml` is the healthy run, `long.toml` and `guide.toml` are other sizes of it; `faults/F01.toml` and
  `controls/C01.toml` are overlays on it (`cases.py`)
- faults of code are hooks into the trainer's process (`hooks.py`); `inject` is read by the suite only
- runs are trained by p3kit's own trainers in forked processes, and none is made twice (`runs.py`); they are judged as
  they would have been live: after every iteration, on what was recorded by then (`scoring.py`)
- whether a fault counts is asked of its scores (`admission.py`); `tables.py` tells it all

A fault hurts (*harmful*) or breaks a contract although the score survives (*contract*). Detection is scored against
sets of acceptable symptoms and causes, since several answers can be right (Humbatova et al. 2025); that a fault has to
hurt to count is the statistical killing of mutation testing for reinforcement learning (Tambon et al. 2023).
"""
