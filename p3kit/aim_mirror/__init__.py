"""Run directories mirrored into Aim. The files stay the truth: a lost or broken mirror is rebuilt from them.

    store.py      the only importer of aim: a repository, and one run of it opened for writing
    mirror.py     what is new in the run directories, and how it looks in Aim
    server.py     `aim up` on this machine only, started and stopped whole
    gate.py       the check of Host, Origin and token in front of Aim's pages
    links.py      addresses that open Aim's explorers on a comparison
    bookmarks.py  the guide's dashboard, as bookmarks

Importing this package imports no aim.
"""

from p3kit.aim_mirror.bookmarks import best_run, dashboard, write_bookmarks
from p3kit.aim_mirror.dashboard_links import links_of
from p3kit.aim_mirror.links import deep_links, distributions_link
from p3kit.aim_mirror.mirror import Mirror, SyncResult, default_repo, is_mirrored, run_hash
from p3kit.aim_mirror.server import AimServer

__all__ = [
    "AimServer",
    "Mirror",
    "SyncResult",
    "best_run",
    "dashboard",
    "deep_links",
    "default_repo",
    "distributions_link",
    "is_mirrored",
    "links_of",
    "run_hash",
    "write_bookmarks",
]
