"""The site's pages that live elsewhere in the repository, and links between all of them.

A page is written once, beside its subject: a trainer's page is beside the trainers. The README is not a page; links to
it lead to the home page. This module makes such files pages of the site. Relative links lead to pages, and a link to
code becomes plain text. `mkdocs.yml` names this module under `hooks`; mkdocs calls the functions by their names.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "trainers/README.md": "trainers.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "p3kit/market/sample/PROVENANCE.md": "sample.md",
}
"""Path in the repository → page of the site."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(```.*?```)", re.DOTALL)


def on_config(config: Any) -> Any:
    """Put a page that is missing in the navigation at its end, under its own heading."""
    listed = str(config["nav"])
    rest = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in listed)
    if rest:
        config["nav"].append({"More": rest})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that live elsewhere."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads every relative link to a page of the site."""
    here = {page_name: source for source, page_name in PAGES.items()}.get(page.file.src_uri)
    source = here or f"docs/{page.file.src_uri}"
    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: _led(link, source, page.file.src_uri, files), text) for text in parts[::2]]
    return "".join(parts)


def _led(link: re.Match[str], source: str, page: str, files: Files) -> str:
    """One link of the file `source`, shown as `page`: to a page or picture of the site, else its words alone."""
    picture, words, target = link.groups()
    words = _LINK.sub(lambda inner: _led(inner, source, page, files), words)
    if re.match(r"[a-z]+:|#", target):
        return f"{picture}[{words}]({target})"
    path, _, anchor = target.partition("#")
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    wanted = "docs/index.md" if wanted == "README.md" else wanted
    found = PAGES.get(wanted, wanted.removeprefix("docs/"))
    if not (wanted in PAGES or (wanted.startswith("docs/") and files.get_file_from_path(found))):
        is_elsewhere = (ROOT / wanted).exists() or "/runs/" in wanted  # code, or somebody's run directory
        return words if is_elsewhere else link[0]  # which a strict build refuses
    relative = posixpath.relpath(found, posixpath.dirname(page) or ".")
    return f"{picture}[{words}]({relative}{'#' + anchor if anchor else ''})"
