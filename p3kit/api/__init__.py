"""The functions behind `import p3kit` and behind the commands. `p3kit/__init__.py` imports the public ones.

specs.py      a spec file as a checked spec, and the plan of its runs
training.py   train, resume, stop and repeat runs
saved_run.py  runs on disk as objects, and their metrics as a DataFrame
judging.py    backtest, diagnosis and comparison of runs
background.py pictures and the Aim mirror, beside a training

Importing this package imports none of them.
"""
