"""A gate in front of Aim's web application, which answers any page and has no password.

It checks the Host and the Origin of every request and requires a token. `p3kit ui` prints links with the token; the
first request exchanges it for a cookie. uvicorn serves `app` of this module, which is Aim behind the gate. The gate
itself answers `/results` with the page of results, a link to the bare address leads there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_VARIABLE, HOSTS_VARIABLE, PAGE_VARIABLE = "P3KIT_UI_TOKEN", "P3KIT_UI_HOSTS", "P3KIT_UI_PAGE"
RESULTS = "/results"

_FOREIGN = ("cross-site", "same-site")
_HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""No page of others may frame Aim or read from it, and Aim's page loads nothing from elsewhere."""


class Gate:
    """ASGI middleware. `hosts` are the values of Host that name this server, such as `127.0.0.1:43800`. `page`: HTML
    file with the results."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str], page: Path) -> None:
        self.app, self.token, self.hosts, self.page = app, token, frozenset(hosts), page
        port = min(self.hosts).rpartition(":")[2]
        self.cookie = f"p3kit-ui-{port}"  # because cookies ignore the port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # Aim has no websockets
        elif (answer := self._answer(Request(scope))) is not None:
            await answer(scope, receive, _with_headers(send))
        else:
            await self.app(scope, receive, _with_headers(send))

    def _answer(self, request: Request) -> Response | None:
        """The answer to a request that does not reach Aim, None for one that does."""
        if reason := self._foreign(request):
            return _refused(reason)
        given = request.query_params.get("token")
        if given is not None:
            return self._exchanged(request) if self._is_token(given) else _refused("the token is wrong")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        known = request.cookies.get(self.cookie) or (bearer if scheme.lower() == "bearer" else "")
        if not self._is_token(known):
            return _refused("the token is missing")
        is_results = request.method == "GET" and request.url.path == RESULTS and self.page.is_file()
        return FileResponse(self.page, headers={"cache-control": "no-store"}) if is_results else None

    def _foreign(self, request: Request) -> str:
        """Reason why a request does not come from a page of this server, "" where it does."""
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return "the Host is not this server"
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return "the Origin is another page"
        opened = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
        framed = request.headers.get("sec-fetch-dest", "document") != "document"
        if request.headers.get("sec-fetch-site") in _FOREIGN and (not opened or framed):
            return "the request comes from another page"
        return ""

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())

    def _exchanged(self, request: Request) -> Response:
        """Send the reader to the same address without the token, which the cookie then holds."""
        if request.method != "GET":
            return _refused("a token in the address goes with GET only")
        rest = [part for part in request.url.query.split("&") if not part.startswith("token=")]
        path = "/" + request.url.path.lstrip("/")  # two slashes would name another server
        if path == "/" and self.page.is_file():
            path = RESULTS
        answer = RedirectResponse(path + (f"?{'&'.join(rest)}" if rest else ""), status_code=303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer


def _refused(reason: str) -> Response:
    return PlainTextResponse(f"Refused: {reason}. Open a link that p3kit ui has printed.\n", status_code=403)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            headers.update(_HEADERS)
        await send(message)

    return send_with_headers


def __getattr__(name: str) -> Any:
    """`app`, for uvicorn. Aim is imported only there."""
    if name != "app":
        raise AttributeError(name)
    from aim.web.run import app

    page = Path(os.environ[PAGE_VARIABLE])
    return Gate(app, os.environ[TOKEN_VARIABLE], os.environ[HOSTS_VARIABLE].split(","), page)
