"""A service from its start to its end: the socket, the models, the workers, signals.

Workers are started before the packages of the service are imported here, so that both happen at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.serve.models import ModelCopies, named_models, take_all, watch
from singleshot.serve.options import ServeOptions
from singleshot.serve.worker_process import Worker, WorkerDiedError

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        # A name that is not found has a number of its own; Python adds the address to the others' words.
        number = None if isinstance(error, socket.gaierror) else error.errno
        reason = error.strerror if number is None else os.strerror(number)
        raise ConfigError(
            f"cannot listen on {printable(host, 60)} port {port} ({reason}); give another --port or --host"
        ) from error


def address_of(listener: socket.socket) -> str:
    """The URL that a listening socket answers at."""
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
    files = take_all(copies.paths, copies)
    starting = [asyncio.create_task(Worker.start(options, files)) for _ in range(options.workers)]
    await asyncio.sleep(0)  # the processes are there

    from singleshot.serve.app import create_app
    from singleshot.serve.connections import server_for
    from singleshot.serve.service import Service

    service = Service(options, files)
    server = server_for(options, create_app(service))
    on_signals(server.stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    workers = asyncio.ensure_future(asyncio.gather(*starting))
    tasks: list[asyncio.Future[object]] = [*starting, serving]  # type: ignore[list-item]
    try:
        await asyncio.wait((workers, serving), return_when=asyncio.FIRST_COMPLETED)
        if workers.done():
            service.pool.fill(workers.result())
            tasks.append(asyncio.create_task(watch(copies, service.pool, service.metrics)))
            ready(address_of(listener))
        await serving
    except WorkerDiedError as error:
        raise CheckpointError(f"{error}: see what it printed") from error
    finally:
        server.stop()
        await asyncio.gather(serving, return_exceptions=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(workers, *tasks, return_exceptions=True)
        await service.pool.stop()
        log.info("stopped")


def on_signals(stop: Callable[..., None]) -> None:
    """Call it for Ctrl-C and SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, stop)
