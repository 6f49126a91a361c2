"""Versions and commit behind a result, as `run.json` stores them."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from typing import Any

PACKAGES = ("p3kit", "torch", "numpy", "pandas", "pydantic", "gymnasium", "envpool", "aim")
"""Packages that a result depends on."""


def provenance() -> dict[str, Any]:
    """Return the versions of `PACKAGES` and the commit of the current folder."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed has no version
    return {"versions": versions, "git_commit": _git_commit()}


def _git_commit() -> str | None:
    """Return `<hash>` or `<hash>+changes`; None outside a git checkout or without git."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
