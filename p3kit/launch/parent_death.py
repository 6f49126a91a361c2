"""Run COMMAND with a parent-death signal: `parent_death.py PARENT COMMAND…`. COMMAND gets SIGTERM when PARENT dies.

A trainer on a Ray cluster must not outlive the worker that started it, for Ray gives the worker's share of the machine
to the next task. The trainer takes SIGTERM as it takes it from anyone: it writes a checkpoint and ends. Linux only
(prctl(2), PR_SET_PDEATHSIG; it holds across execve).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM)) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):  # the parent died before the signal was set
        sys.exit("the worker that started this trainer is gone")
    os.execv(command[0], command)  # noqa: S606  the command is our own
