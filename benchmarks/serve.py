"""How fast and how steady `singleshot serve` is, next to what `singleshot detect` does in bulk.

python benchmarks/serve.py MODEL.onnx [--quick] [--workers 1] [--options="--max-wait 30"] [--minutes 10] [--json]

The service is a process of its own, as a user starts it; the load comes from this one over loopback, with requests made
beforehand and a loop over sockets, which takes little of the cores. The image: a JPEG of 640 x 480 and about 60 KB.

- start: from the command to the first answer of /readyz that says it is ready
- latency: one client, one request after the other
- throughput: 32 clients; in turns with `Detector.stream` over the same image as files in a process of its own, as
  `detect --no-draw` uses it. Wanted: 80 % of it. On a machine that is slower than 53 images a second requests are
  refused meanwhile, which costs time too: --options="--max-wait 30".
- overload: requests at twice that throughput for --minutes. Wanted: no 500, p99 of what is accepted under 1 s, of what
  is refused under 50 ms, memory that does not grow.
- kill, reload: a worker is killed, then the model file written anew, under load. Wanted: every request answered.

Times and rates depend on the machine and on what else it does: the ratio is what counts.
"""

from __future__ import annotations

import argparse
import collections
import os
import selectors
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from common import serve as candidate_loop
from common import tell

import singleshot
from singleshot.runtime.sources import Frame

CLIENTS = 32
BULK_IMAGES = 200


def jpeg() -> bytes:
    """640 x 480, about 60 KB."""
    small = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    image = cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1).normal(0, 6, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    sizes = {quality: cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in range(50, 96)}
    return min(sizes.values(), key=lambda data: abs(len(data) - 60_000)).tobytes()


class Load:
    """Clients that post one image again and again, in one thread.

    seconds: of every answer, by its status; lost: requests whose connection ended before their answer.
    """

    def __init__(self, port: int, image: bytes, clients: int) -> None:
        fields = "Host: 127.0.0.1", "Content-Type: image/jpeg", f"Content-Length: {len(image)}"
        head = "\r\n".join(("POST /v1/detect HTTP/1.1", *fields, "", ""))
        self._address, self._request = ("127.0.0.1", port), head.encode() + image
        self._selector = selectors.DefaultSelector()
        self._idle: collections.deque[socket.socket] = collections.deque()
        self._since: dict[socket.socket, float] = {}
        self._unsent: dict[socket.socket, memoryview] = {}
        self._received: dict[socket.socket, bytearray] = {}
        self.seconds: dict[int, list[float]] = collections.defaultdict(list)
        self.lost = self.late = 0
        for _ in range(clients):
            self._connect()

    def _connect(self) -> None:
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self._idle.append(connection)

    def run(self, seconds: float, rate: float | None = None, each: Callable[[float], None] = lambda now: None) -> float:
        """Ask for so long, `rate` times a second or as often as answers come; returns the answers with 200 a second.

        each: called now and then with the seconds that have passed.
        """
        begin = now = time.perf_counter()
        due, done, next_call = begin, len(self.seconds[200]), begin
        while now < begin + seconds or self._since:
            if now >= next_call:
                each(now - begin)
                next_call = now + 0.25
            if now < begin + seconds:
                if rate is None:
                    while self._idle:
                        self._send(self._idle.pop())
                while rate is not None and due <= now:
                    due += 1 / rate
                    if self._idle:
                        self._send(self._idle.pop())
                    else:
                        self.late += 1
            elif now > begin + seconds + 60:
                self.lost += len(self._since)
                break
            wait = 0.05 if rate is None else max(min(due - now, 0.05), 0)
            for key, events in self._selector.select(wait):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if events & selectors.EVENT_WRITE:
                    self._push(connection)
                if events & selectors.EVENT_READ:
                    self._receive(connection)
            now = time.perf_counter()
        return (len(self.seconds[200]) - done) / (now - begin)

    def _send(self, connection: socket.socket) -> None:
        try:
            connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        else:  # it was idle for long, and has been closed
            self._close(connection)
            connection = self._idle.pop()
        self._since[connection] = time.perf_counter()
        self._received[connection] = bytearray()
        self._unsent[connection] = memoryview(self._request)
        self._push(connection)

    def _push(self, connection: socket.socket) -> None:
        rest = self._unsent.get(connection)
        if rest is None:
            return
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            pass
        except OSError:
            rest = memoryview(b"")  # an answer may have come all the same
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0)
        if rest:
            self._unsent[connection] = rest
        else:
            del self._unsent[connection]
        if self._selector.get_key(connection).events != events:
            self._selector.modify(connection, events)

    def _close(self, connection: socket.socket) -> None:
        """Another connection in its place."""
        self._unsent.pop(connection, None)
        self._selector.unregister(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close()
        self._connect()

    def _receive(self, connection: socket.socket) -> None:
        try:
            part = connection.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self.lost += self._since.pop(connection, None) is not None
            self._close(connection)
            return
        received = self._received.setdefault(connection, bytearray())
        received += part
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = received[:end].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(received) < end + 4 + length:
            return
        self.seconds[int(head[9:12])].append(time.perf_counter() - self._since.pop(connection))
        received.clear()
        if connection not in self._unsent:
            self._idle.append(connection)


class Service:
    """`singleshot serve` in a process of its own. started: seconds until it was ready."""

    def __init__(self, model: Path, words: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "singleshot", "serve", str(model), "--port", str(self.port), "--quiet", *words]
        begin = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not self._is_ready():
            assert self.process.poll() is None, "the service ended"
            time.sleep(0.01)
        self.started = time.perf_counter() - begin

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def memory(self) -> float:
        """MB of the service and its workers, shared pages counted by share."""
        total = 0
        for pid in (self.process.pid, *self.workers):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # it has just ended
                continue
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


class Bulk:
    """The same detector over files in bulk, in a process of its own."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, sys.argv[0], model, "--bulk"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def rate(self) -> float:
        """Images per second, now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        return BULK_IMAGES / float(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def bulk_loop(model: str) -> None:
    detector = singleshot.load(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        path.write_bytes(jpeg())

        def frames() -> Iterator[Frame]:
            for _ in range(BULK_IMAGES):
                yield Frame(str(path), None, source=str(path), path=str(path))

        def run() -> None:
            assert sum(found.detections is not None for found in detector.stream(frames(), keep_images=False))

        candidate_loop(run, warmup=2)


def percentile(seconds: list[float], share: float) -> float | None:
    """In ms; None where there are none."""
    return 1000 * float(np.quantile(seconds, share)) if seconds else None


def measure_speed(
    service: Service, model: str, image: bytes, args: argparse.Namespace
) -> tuple[dict[str, object], float]:
    """The figures, and the images per second of many clients."""
    one = Load(service.port, image, 1)
    one.run(args.seconds / 2)  # OpenVINO compiles for batches meanwhile
    one.seconds.clear()
    one.run(args.seconds)
    rates, bulk = [], Bulk(model)
    many = Load(service.port, image, CLIENTS)
    many.run(args.seconds / 2)
    for _ in range(args.rounds):
        rates.append((many.run(args.seconds), bulk.rate()))
    bulk.stop()
    throughput = statistics.median(rate for rate, _ in rates)
    return {
        "one client, p50 ms": percentile(one.seconds[200], 0.5),
        "one client, p99 ms": percentile(one.seconds[200], 0.99),
        f"{CLIENTS} clients, images per second": throughput,
        "detect in bulk, images per second": statistics.median(rate for _, rate in rates),
        f"{CLIENTS} clients / detect in bulk (want 0.8)": statistics.median(a / b for a, b in rates),
        "answers other than 200": sum(len(v) for load in (one, many) for k, v in load.seconds.items() if k != 200),
    }, throughput


def measure_overload(service: Service, image: bytes, throughput: float, seconds: float) -> dict[str, object]:
    memory: list[float] = []
    load = Load(service.port, image, 256)
    load.run(seconds, 2 * throughput, lambda _: memory.append(service.memory()))
    refused = load.seconds[503]
    fifth = max(len(memory) // 5, 1)
    return {
        "overload: offered, images per second": 2 * throughput,
        "overload: accepted": len(load.seconds[200]),
        "overload: refused": len(refused),
        "overload: other answers (want 0)": sum(len(v) for k, v in load.seconds.items() if k not in (200, 503)),
        "overload: lost (want 0)": load.lost,
        "overload: not sent, since no connection was free": load.late,
        "overload: accepted, p99 ms (want 1000)": percentile(load.seconds[200], 0.99),
        "overload: refused, p99 ms (want 50)": percentile(refused, 0.99),
        "overload: MB, last fifth / second fifth": statistics.median(memory[-fifth:])
        / statistics.median(memory[fifth : 2 * fifth] or memory),
        "overload: MB at most": max(memory),
    }


def measure_faults(service: Service, model: Path, image: bytes, seconds: float) -> dict[str, object]:
    """A worker killed, the model written anew, while 8 clients ask."""
    load = Load(service.port, image, 8)
    todo = [(0.2 * seconds, "kill"), (0.6 * seconds, "reload")]
    before = service.workers

    def each(passed: float) -> None:
        if todo and passed >= todo[0][0]:
            if todo.pop(0)[1] == "kill":
                os.kill(service.workers[0], signal.SIGKILL)
            else:
                shutil.copy(model, model.with_name("new"))
                model.with_name("new").replace(model)

    load.run(seconds, each=each)
    return {
        "kill and reload: answered": len(load.seconds[200]),
        "kill and reload: other answers": sum(len(v) for k, v in load.seconds.items() if k != 200),
        "kill and reload: lost (want 0)": load.lost,
        "kill and reload: workers are new": not set(before) & set(service.workers),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--options", default="", help="more options of serve, as one word")
    parser.add_argument("--bulk", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.bulk:
        bulk_loop(args.model)
        return
    if args.quick:
        args.minutes, args.rounds, args.seconds = 0.1, 3, 3.0
    image = jpeg()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / Path(args.model).name
        shutil.copy(args.model, model)
        service = Service(model, ["--workers", str(args.workers), *shlex.split(args.options)])
        try:
            result: dict[str, object] = {"image, bytes": len(image), "ready after start, s (want 1.5)": service.started}
            speed, throughput = measure_speed(service, args.model, image, args)
            result |= speed | {"MB (want 300)": service.memory()}
            result |= measure_faults(service, model, image, max(2 * args.seconds, 10))
            result |= measure_overload(service, image, throughput, 60 * args.minutes)
        finally:
            service.stop()
    tell("HTTP service", result)


if __name__ == "__main__":
    main()
