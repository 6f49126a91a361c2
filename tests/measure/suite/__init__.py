"""The diagnosis suite: real short training runs with one fault each, and healthy ones without an alarm.

  python -m tests.measure.suite --quick                     short runs: every fault once, a few healthy ones
  python -m tests.measure.suite --full --output FILE        long runs: all strengths, healthy runs by the dozen; an hour
  python -m tests.measure.suite --full --calibrate          the same on the seeds for the choice of thresholds
  python -m tests.measure.suite --repair --seeds 3          healthy, degraded and repaired runs of faults; controls
  python -m tests.measure.suite --rejudge DIR [--rules FILE] judge stored runs again; nothing is trained
  python -m tests.measure.suite --page                      the committed results into docs/diagnosis.md

- `base.toml` is the healthy run, `long.toml` and `guide.toml` are other sizes of it; `faults/F01.toml` and
  `controls/C01.toml` are overlays on it (`cases.py`)
- faults of code are hooks into the trainer's process (`hooks.py`); `inject` is read by the suite only
- runs are trained by p3kit's own trainers in forked processes, and none is made twice (`runs.py`); they are judged as
  they would have been live: after every iteration, on what was recorded by then (`scoring.py`)
- its scores decide if a fault counts (`admission.py`); `tables.py` prints all results

A fault lowers the score (*harmful*), or breaks a contract with an intact score (*contract*). Detection is scored
against sets of acceptable symptoms and causes, because several answers can be right (Humbatova et al. 2025). A fault
counts only if it lowers the score: the statistical killing of mutation testing for reinforcement learning (Tambon et
al. 2023).
"""
