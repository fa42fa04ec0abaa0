"""Who is served: requests to this machine's own address, with the token, from no other site.

Other programs of this machine, other users of it, and pages of other sites in the same browser reach the port, too.
The token is the first part of every path, so that the page's own links have it without a script. A page of another
site cannot read it; should it guess the port and use a name of its own for 127.0.0.1, the Host header tells. A browser
is not started with the token, since other users may list its command line, but with an invitation that works once.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unseg.web.refusals import Refusal, told

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
OWN_FETCHES = ("same-origin", "none")  # of Sec-Fetch-Site: by the page itself, or by the person at the address bar
FOLLOWED = {
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
}  # a link, as in a terminal that is a page itself
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # it would carry the token
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def new_token() -> str:
    """Returns a token that nobody guesses."""
    return secrets.token_urlsafe(24)


class Guard:
    """Lets through what may be served, with the token taken off its path; the rest gets one line.

    token: the first part of every path. port: on which the server listens.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.invitation: str | None = new_token()
        self.hosts = tuple(f"{name}:{port}" for name in NAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        answer = self._refusal(scope)
        if answer is not None:
            await answer(scope, receive, sent)
            return
        path = scope["path"].removeprefix(f"/{self.token}")
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, sent)

    def _refusal(self, scope: Scope) -> Response | None:
        """Returns the answer to a request that is not let through."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return told(Refusal(403, f"this server answers to {self.hosts[0]} alone, not to {host[:80]!r}"))
        if origin is not None and origin not in [f"http://{own}" for own in self.hosts]:
            return told(Refusal(403, f"pages of {origin[:80]!r} may not use this server; open its own page"))
        first, slash, rest = scope["path"][1:].partition("/")
        leads_to_page = not rest and all(headers.get(name) == value for name, value in FOLLOWED.items())
        if headers.get("sec-fetch-site", "none") not in OWN_FETCHES and not leads_to_page:
            return told(Refusal(403, "pages of other sites may not use this server; open its own page"))
        if self.invitation is not None and secrets.compare_digest(first.encode(), self.invitation.encode()):
            self.invitation = None
            return RedirectResponse(f"/{self.token}/")
        if not secrets.compare_digest(first.encode(), self.token.encode()):
            return told(Refusal(403, "the address has not this server's token; open the one that `unseg web` printed"))
        return None if slash else RedirectResponse(f"/{self.token}/")
