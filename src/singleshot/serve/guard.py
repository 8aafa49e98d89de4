"""Around every route: which hosts and keys are let in, headers of answers, a line in the log and the figures."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from singleshot.errors import printable
from singleshot.serve.metrics import Metrics
from singleshot.serve.options import ServeOptions
from singleshot.serve.schema import error_values

log = logging.getLogger(__name__)

_HEADER_BYTES = 32 * 1024
_CLOSED = ("/v1/", "/metrics")  # addresses that need the key
_SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
    " object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Guard:
    """ASGI middleware; see the module. own_pages_only: requests of other pages than this service's own are refused,
    whether they could read the answer or not."""

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics, own_pages_only: bool = False) -> None:
        self._app, self._metrics, self._own_pages_only = app, metrics, own_pages_only
        self._hosts = options.hosts
        self._key = None if options.api_key is None else options.api_key.encode()
        self._safety = dict(_SAFETY)
        if options.allow_origins:
            del self._safety["Cross-Origin-Resource-Policy"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, method = time.perf_counter(), 500, scope["method"]
        # The server leaves the body out of what it answers HEAD with; routes know GET alone. Balancers ask so.
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "state": scope.get("state", {})}

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._safety.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refusal = self._refusal(scope)
            await (self._app if refusal is None else refusal)(scope, receive, send_on)
        finally:
            self._note(scope, method, status, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEADER_BYTES:
            return _error(431, "too_many_headers", f"more than {_HEADER_BYTES} bytes of headers")
        if "content-length" in headers and "transfer-encoding" in headers:
            return _error(400, "bad_request", "both Content-Length and Transfer-Encoding")
        host = _host_of(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            return _error(421, "wrong_host", f"host {printable(host, 60)!r} is not served here; see --allow-host")
        if self._own_pages_only and not _is_own(headers):
            return _error(403, "other_page", "a request of another page than this service's own")
        if self._key is not None and scope["path"].startswith(_CLOSED) and not self._has_key(scope["headers"]):
            return _error(401, "no_key", "the API key is missing or wrong", {"WWW-Authenticate": "Bearer"})
        return None

    def _has_key(self, headers: list[tuple[bytes, bytes]]) -> bool:
        assert self._key is not None
        given = dict(headers)
        scheme, _, token = given.get(b"authorization", b"").partition(b" ")
        token = token.strip() if scheme.lower() == b"bearer" else given.get(b"x-api-key", b"")
        return hmac.compare_digest(token, self._key)

    def _note(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "none"
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        fields: dict[str, Any] = {
            "method": printable(method, 20),
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "client": (scope.get("client") or ("",))[0],
        }
        images = scope["state"].get("images")
        if images is not None:
            fields["images"] = images
        log.info("request", extra={"fields": fields})


def _is_own(headers: Headers) -> bool:
    """Whether a request is that of a page of its own host, or of no page."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    return origin in (None, f"http://{headers.get('host', '')}") and site in (None, "same-origin", "none")


def _host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    headers = {"Connection": "close", **(headers or {})}
    return JSONResponse(error_values(code, message), status, headers)
