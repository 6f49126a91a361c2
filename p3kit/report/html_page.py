"""One self-contained HTML file from a markdown page: pictures inside, tables that sort, light and dark, printable.

The file loads nothing: a content security policy forbids it, and allows the one script by its hash. Text of the page
stays text, since raw HTML is off; pictures are read from the folder of the page only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from p3kit.rundir.rows import write_bytes

_KEEP_MARKER = re.compile(r"^<!-- /?keep\b.*-->\s*$", re.MULTILINE)

_FILES = Path(__file__).parent / "html"
_LINKS = ("https://", "http://", "#")
"""Links that work on any machine. Others point into the folder of the page and become text."""


def write_html(page: Path, html: Path) -> Path:
    """Write the markdown file `page` as one HTML file. Returns `html`. Raises OSError where it cannot be written."""
    html.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(html, html_page(page.read_text(encoding="utf-8"), page.parent).encode("utf-8"))
    return html


def html_page(markdown: str, folder: Path, *, own_links: bool = False) -> str:
    """Return a whole HTML document. `folder` is where the pictures of the page lie. `own_links`: links to paths of the
    server of the page (`/runs`) work."""
    from markdown_it import MarkdownIt
    from markdown_it.common.utils import escapeHtml
    from markdown_it.renderer import RendererHTML

    def works(url: str) -> bool:
        return url.startswith(_LINKS) or (own_links and url.startswith("/") and not url.startswith("//"))

    class Renderer(RendererHTML):
        def image(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
            return _image(tokens[idx], folder)

        def table_open(self, *_: Any) -> str:
            return '<div class="table"><table>\n'

        def table_close(self, *_: Any) -> str:
            return "</table></div>\n"

        def link_open(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
            url = str(tokens[idx].attrGet("href") or "")
            return f'<a href="{escapeHtml(url)}" rel="noreferrer">' if works(url) else "<span>"

        def link_close(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
            opened = next(token for token in reversed(tokens[:idx]) if token.type == "link_open")
            return "</a>" if works(str(opened.attrGet("href") or "")) else "</span>"

    reader = MarkdownIt("commonmark", {"html": False}, renderer_cls=Renderer).enable(["table", "strikethrough"])
    text = _KEEP_MARKER.sub("", markdown)
    body = reader.render(text).replace("&lt;br&gt;", "<br>")  # the only tag of our pages, in cells of tables
    found = re.search(r"<h1>(.*?)</h1>", body)
    title = found[1] if found else "p3kit"
    style, script = ((_FILES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="p3kit">
<title>{re.sub("<[^>]*>", "", title)}</title>
<style>{style}</style>
</head>
<body>
{body}<script>{script}</script>
</body>
</html>
"""


def _image(token: Any, folder: Path) -> str:
    """A picture of the folder as data, or its description where there is none."""
    from markdown_it.common.utils import escapeHtml

    text = escapeHtml(token.content)
    source = str(token.attrGet("src") or "")
    path = (folder / unquote(source)).resolve()
    inside = path.is_relative_to(folder.resolve()) and path.suffix == ".png" and path.is_file()
    if not inside:
        return f"[{text}]"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'
