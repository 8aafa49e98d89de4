"""Sockets, signals and connections: uvicorn with limits on what a connection may do before a route sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.serve.app import create_app
from singleshot.serve.models import ModelCopies, named_models, take_all, watch
from singleshot.serve.options import ServeOptions
from singleshot.serve.pool import WorkerDiedError
from singleshot.serve.service import Service

log = logging.getLogger(__name__)

_HEADER_BYTES = 16 * 1024
_MORE_SECONDS = 5.0  # that a request may take past what its body may take
_GRACE = 5  # seconds past the longest request, at the end
_DONE = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


def protocol_for(options: ServeOptions) -> type[H11Protocol]:
    """HTTP for one service: a connection too many is refused, one that sends no whole request in time is closed."""
    seconds = options.body_seconds + _MORE_SECONDS

    class LimitedProtocol(H11Protocol):
        _deadline: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > options.connections:
                self._refuse(503, "connections", "too many connections at once", b"Retry-After: 1\r\n")
                return
            self._deadline = self.loop.call_later(seconds, self._expire)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.conn.their_state in _DONE:
                self._cancel()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self._expire)

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Called while the error is handled, which says more than `msg`."""
            error = sys.exc_info()[1]
            status = getattr(error, "error_status_hint", 400)
            if self.cycle is not None and not self.cycle.response_complete:  # amid a body: the route has it
                self.transport.close()
                return
            self._refuse(status, "bad_request", printable(error or msg, 100))

        def _cancel(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self._deadline = None
            if self.conn.their_state is h11.IDLE:
                self._refuse(408, "header_timeout", f"no whole request within {seconds:g} s")
            else:
                self.transport.close()

        def _refuse(self, status: int, code: str, message: str, more: bytes = b"") -> None:
            body = json.dumps({"error": {"code": code, "message": message}}).encode()
            head = (
                b"HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n"
            )
            self.transport.write(head % (status, len(body)) + more + b"\r\n" + body)
            self.transport.close()

    return LimitedProtocol


class _Server(uvicorn.Server):
    """Signals are ours: the workers are still to be ended after the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self, *_: object) -> None:
        """Finish what was taken and end; called again: end."""
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {printable(host, 60)} port {port} ({error.strerror}); give another --port or --host"
        ) from error


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(options: ServeOptions, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until a signal ends it. ready: called with the address once requests are answered.

    Raises CheckpointError, ConfigError, MissingExtraError.
    """
    paths = named_models(options.models)
    with listen(options.host, options.port) as listener:
        copies = ModelCopies(paths)
        try:
            asyncio.run(_serve(options, listener, copies, ready))
        finally:
            copies.close()


async def _serve(
    options: ServeOptions, listener: socket.socket, copies: ModelCopies, ready: Callable[[str], None]
) -> None:
    service = Service(options, take_all(copies.paths, copies))
    starting = asyncio.create_task(service.pool.start())
    await asyncio.sleep(0)  # the workers' processes start while the application is made
    server = _Server(_config(options, create_app(service)))
    _on_signals(server.stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching: asyncio.Task[Any] | None = None
    try:
        await asyncio.wait((starting, serving), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            watching = asyncio.create_task(watch(copies, service.pool, service.metrics))
            ready(address_of(listener))
        await serving
    except WorkerDiedError as error:
        raise CheckpointError(f"{error}: see what it printed") from error
    finally:
        server.stop()
        await asyncio.gather(serving, return_exceptions=True)
        for task in (starting, watching):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await service.pool.stop()
        log.info("stopped")


def _config(options: ServeOptions, app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_for(options),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=int(options.request_seconds) + _GRACE,
    )


def _on_signals(stop: Callable[..., None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, stop)
