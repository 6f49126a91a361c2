"""The diagnosis suite: real short training runs with one fault each, and healthy ones that must stay silent.

    python -m tests.suite --quick                      every fault once and a few controls, about four CPU minutes
    python -m tests.suite --full                       all strengths and seeds, controls by the dozen, about an hour
    python -m tests.suite --rejudge DIR [--rules FILE] judge stored runs anew; nothing is trained
    python -m tests.suite --repair --seeds 3           faults healthy, sick and repaired; controls under the rules
    python -m tests.suite --admission F11 F12          does a fault hurt? ten seeds with it against ten without

- `base.toml` is the healthy run; `faults/F01.toml` and `controls/C01.toml` are overlays on it (`cases.py`)
- faults of code are hooks into the trainer's process (`hooks.py`); `inject` is read by the suite only
- runs are trained by p3kit's own trainers in forked processes (`runs.py`), and judged as they would have been live:
  after every tick, on what was recorded by then (`scoring.py`)

A fault hurts (*harmful*) or breaks a contract although the score survives (*contract*). Detection is scored against
sets of acceptable symptoms and causes, since several answers can be right (Humbatova et al. 2025); that a fault has to
hurt to count is the statistical killing of mutation testing for reinforcement learning (Tambon et al. 2023).
"""
