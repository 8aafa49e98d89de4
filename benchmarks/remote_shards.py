"""Images per second and memory of the loader from shards behind HTTP, next to the same shards on the disk, in turns.

    python benchmarks/remote_shards.py [--images 1200] [--turns 5] [--latency-ms 20] [--drop 0] [--json]

The server is a process of its own on this machine; it waits --latency-ms before each answer, and every --drop-th answer
ends in the middle. Image files are noise of about 60 kB; both loaders decode and augment them in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import statistics
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from common import resident_mb, tell

from singleshot.datasets import open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.loader import TrainLoader
from singleshot.loading.shard_stream import open_stream

FILES = 60


def serve(folder: Path, latency: float, drop: int, ready: Connection) -> None:
    answers = 0

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            nonlocal answers
            answers += 1
            time.sleep(latency)
            body = (folder / self.path.lstrip("/")).read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            part = memoryview(body)[int(found[1]) if found else 0 :]
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # an epoch may leave a shard in the middle
                self.wfile.write(part[: len(part) // 2] if drop and answers % drop == 0 else part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_port)
    server.serve_forever()


def make_shards(folder: Path, images: int) -> Path:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(FILES):
        noise = cv2.resize(rng.integers(0, 256, (125, 167, 3), dtype=np.uint8), (500, 375))
        files.append(cv2.imencode(".jpg", noise)[1].tobytes())
    plain = folder / "plain"
    (plain / "train").mkdir(parents=True)
    rows = ["image,class,xmin,ymin,xmax,ymax"]
    for i in range(images):
        (plain / "train" / f"{i:06d}.jpg").write_bytes(files[i % FILES])
        rows.append(f"train/{i:06d}.jpg,dog,10,20,200,300")
    (plain / "annotations.csv").write_text("\n".join(rows) + "\n")
    write_shards(read_contents(open_source(plain), ["train"]), folder / "shards", per_shard=-(-images // 12))
    return folder / "shards"


def read_epoch(loader: TrainLoader, epoch: int) -> tuple[float, float]:
    """Images per second of the clock, and milliseconds of processor time of this process for each image."""
    start, busy = time.perf_counter(), time.process_time()
    images = sum(len(batch.indices) for batch in loader.epoch(epoch))
    return images / (time.perf_counter() - start), 1000 * (time.process_time() - busy) / images


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--drop", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), args.images)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(shards, args.latency_ms / 1000, args.drop, there), daemon=True
        )
        process.start()
        address = f"http://127.0.0.1:{here.recv()}/shards.json"
        loaders = {
            name: TrainLoader(open_stream(place), AUGMENTS["light"], InputSpec(size=300), 16, 0, 0)
            for name, place in (("local", shards), ("remote", address))
        }
        ratios, megabytes, speeds, busy = [], [], [], []
        for turn in range(args.turns):
            order = sorted(loaders, reverse=turn % 2 == 1)
            found = {name: read_epoch(loaders[name], turn) for name in order}
            ratios.append(found["remote"][0] / found["local"][0])
            speeds.append(found["remote"][0])
            busy.append(found["remote"][1] / found["local"][1])
            megabytes.append(round(resident_mb(), 1))
        process.terminate()
        size = sum(path.stat().st_size for path in shards.glob("*.tar"))
    tell(
        "remote shards",
        {
            "images, MB of shards, latency in ms": f"{args.images}, {size >> 20}, {args.latency_ms:g}",
            "images per second": statistics.median(speeds),
            "remote / local, median of the turns (want 0.9 and more)": statistics.median(ratios),
            "processor time for an image, remote / local": statistics.median(busy),
            "the turns": str([round(ratio, 3) for ratio in ratios]),
            "MB after each turn": str(megabytes),
            "growth from turn 2 to the last, MB (want 0)": megabytes[-1] - megabytes[min(1, len(megabytes) - 1)],
        },
    )


if __name__ == "__main__":
    main()
