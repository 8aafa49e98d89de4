"""The queue and the pool: what waits, what runs together, and what becomes of the images of a worker that dies."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from singleshot.errors import CheckpointError
from singleshot.serve import pool as pool_module
from singleshot.serve.batching import JobQueue, Question, QueueFullError
from singleshot.serve.bodies import HeldBytes, RequestError
from singleshot.serve.metrics import Metrics
from singleshot.serve.options import ServeOptions
from singleshot.serve.pool import MOST_ATTEMPTS, Pool
from singleshot.serve.wire import ImageRefusedError, read_message
from singleshot.serve.worker_process import Worker, WorkerDiedError, config_of

ONE = Question("m", "a")


def options(**values: Any) -> ServeOptions:
    return ServeOptions(("m.onnx",), **values)


def test_a_batch_is_what_waits_up_to_the_largest() -> None:
    async def run() -> None:
        queue = JobQueue(options(batch=4))
        queue.put([ONE] * 6, [b"%d" % i for i in range(6)])
        assert [job.data for job in await queue.take()] == [b"0", b"1", b"2", b"3"]
        assert [job.data for job in await queue.take()] == [b"4", b"5"]

    asyncio.run(run())


def test_a_batch_waits_for_what_is_arriving_and_no_longer() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        queue = JobQueue(options(batch=4, batch_wait=1000))
        queue.put([ONE], [b"0"])
        queue.arriving = 1

        def arrive() -> None:
            queue.put([ONE], [b"1"])
            queue.arriving = 0

        loop.call_later(0.01, arrive)
        started = loop.time()
        assert len(await queue.take()) == 2
        assert loop.time() - started < 0.9

        quick = JobQueue(options(batch=4, batch_wait=20))
        quick.put([ONE], [b"0"])
        quick.arriving = 1
        assert len(await asyncio.wait_for(quick.take(), 5)) == 1

    asyncio.run(run())


def test_what_nobody_waits_for_is_left_out() -> None:
    async def run() -> None:
        queue = JobQueue(options())
        jobs = queue.put([ONE] * 3, [b"0", b"1", b"2"])
        jobs[0].answer.cancel()
        jobs[2].answer.cancel()
        assert await queue.take() == [jobs[1]]

    asyncio.run(run())


def test_more_than_the_queue_holds_is_refused_whole() -> None:
    async def run() -> None:
        queue = JobQueue(options(queue=4))
        queue.put([ONE] * 3, [b""] * 3)
        with pytest.raises(QueueFullError):
            queue.put([ONE] * 2, [b""] * 2)
        assert len(queue) == 3
        queue.put([ONE], [b""])
        with pytest.raises(QueueFullError) as caught:
            queue.check()
        assert caught.value.seconds >= 1

    asyncio.run(run())


def test_what_would_wait_too_long_is_refused() -> None:
    async def run() -> None:
        queue = JobQueue(options(queue=1000, max_wait=1.0, batch=8))
        queue.note_done(1, 0.7)
        queue.put([ONE] * 2, [b""] * 2)  # two are always let in
        with pytest.raises(QueueFullError) as caught:
            queue.put([ONE], [b""])
        assert caught.value.seconds == 3
        assert len(await queue.take()) == 1  # a batch takes a part of the longest wait
        queue.running = 1
        with pytest.raises(QueueFullError):  # what runs counts too
            queue.check()

    asyncio.run(run())


class MortalWorker:
    """Dies of an image that is b"deadly", or when it is asked to."""

    pid = 1

    def __init__(self) -> None:
        self.models: dict[str, Any] = {"m": {}}
        self.ended, self.idle = asyncio.Event(), asyncio.Event()
        self.idle.set()
        self.held = asyncio.Event()
        self.held.set()
        self.batches: list[list[bytes]] = []

    async def run(self, jobs, seconds: float):
        self.batches.append([job.data for job in jobs])
        ended = asyncio.ensure_future(self.ended.wait())
        held = asyncio.ensure_future(self.held.wait())
        if any(job.data == b"deadly" for job in jobs):
            self.ended.set()
        await asyncio.wait((ended, held), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        if self.ended.is_set():
            held.cancel()
            raise WorkerDiedError("dead")
        ended.cancel()
        return [{"ms": 1.0, "orientation": 1}] * len(jobs), [job.data for job in jobs]

    async def stop(self) -> None:
        pass


@pytest.fixture
def mortals(monkeypatch) -> list[MortalWorker]:
    """The workers that were started, in order."""
    started: list[MortalWorker] = []

    async def start(*_: object) -> MortalWorker:
        started.append(MortalWorker())
        return started[-1]

    monkeypatch.setattr(pool_module.Worker, "start", start)
    return started


async def with_pool(mortals: list[MortalWorker], images: list[bytes], during=None, **values: Any):
    queue = JobQueue(options(**values))
    pool = Pool(options(**values), queue, Metrics(), {"m": ""})
    pool.fill([await pool_module.Worker.start()])
    if during is not None:
        mortals[0].held.clear()
    jobs = queue.put([ONE] * len(images), images)
    if during is not None:
        await asyncio.sleep(0.01)
        during(mortals[0])
    answers = await asyncio.wait_for(asyncio.gather(*(job.answer for job in jobs), return_exceptions=True), 20)
    await pool.stop()
    return answers


def test_images_of_a_worker_that_dies_go_to_the_next(mortals) -> None:
    images = [b"%d" % i for i in range(12)]
    answers = asyncio.run(with_pool(mortals, images, lambda worker: worker.ended.set(), batch=4))
    assert [answer.json for answer in answers] == images
    assert len(mortals) == 2
    # Those that were with the dead one run alone, the others as ever.
    assert [len(batch) for batch in mortals[1].batches].count(1) >= 8


def test_an_image_that_kills_workers_is_given_up_on_and_takes_no_other_with_it(mortals) -> None:
    answers = asyncio.run(with_pool(mortals, [b"0", b"deadly", b"1", b"2"], batch=4))
    assert [getattr(answer, "json", None) for answer in answers] == [b"0", None, b"1", b"2"]
    assert isinstance(answers[1], ImageRefusedError)
    assert answers[1].status == 422
    assert len(mortals) == MOST_ATTEMPTS + 1


def message(**header: Any) -> str:
    """A shell's line that prints a worker's message."""
    text = json.dumps({**header, "sizes": []})
    return f"printf '\\000\\000\\000\\{len(text):03o}%s' '{text}'"


@pytest.mark.parametrize(
    ("script", "says"),
    [("exit 3", "exit code 3"), ("echo no message at all", "at its start"), (message(failed="broken"), "broken")],
)
def test_a_process_that_is_no_worker_is_given_up_on(tmp_path, monkeypatch, script: str, says: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises((WorkerDiedError, CheckpointError), match=says):
        asyncio.run(Worker.start(options(), {"m": "m.onnx"}))


def test_a_worker_that_does_not_answer_is_killed(tmp_path, monkeypatch) -> None:
    python, pid = tmp_path / "python", tmp_path / "pid"
    python.write_text(f"#!/bin/sh\necho $$ > {pid}\n{message(ready={})}\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))

    async def run() -> None:
        worker = await Worker.start(options(), {"m": "m.onnx"})
        job = JobQueue(options()).put([ONE], [b"x" * (1 << 22)])  # more than the pipe takes
        with pytest.raises(WorkerDiedError, match="no answer"):
            await worker.run(job, 0.2)
        await asyncio.wait_for(worker.ended.wait(), 5)
        await worker.stop()

    asyncio.run(run())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


COMPILES = """
from singleshot.serve import worker

class Compiling(worker.Models):
    def prepare_batches(self):
        while True:
            for detector in self._detectors.values():
                detector.engine._compiled(True)
worker.Models = Compiling
worker.main()
"""


def test_a_worker_that_still_compiles_ends_in_order(exported: Path) -> None:
    """Its interpreter would go away under OpenVINO's threads, which ends a process by a signal."""
    config = json.dumps(config_of(options(batch=4, engine="openvino"), {"m": str(exported)}))
    with subprocess.Popen(
        [sys.executable, "-c", COMPILES, config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        read_message(process.stdout)
        time.sleep(0.3)
        process.stdin.close()
        assert (process.wait(20), process.stderr.read()) == (0, b"")


def test_bodies_together_are_bounded() -> None:
    held = HeldBytes(100)
    held.add(60)
    with pytest.raises(RequestError) as caught:
        held.add(50)
    assert caught.value.status == 503
    assert caught.value.headers == {"Retry-After": "1", "Connection": "close"}
    held.release(60)
    held.add(100)


def test_workers_are_replaced_one_after_the_other_and_batches_end_where_they_are(mortals) -> None:
    async def run() -> None:
        queue = JobQueue(options())
        pool = Pool(options(), queue, Metrics(), {"m": "old"})
        pool.fill([await pool_module.Worker.start()])
        mortals[0].held.clear()
        (before,) = queue.put([ONE], [b"before"])
        await asyncio.sleep(0.01)
        await pool.replace_all({"m": "new"})
        (after,) = queue.put([ONE], [b"after"])
        assert (await asyncio.wait_for(after.answer, 5)).json == b"after"
        assert not before.answer.done()
        mortals[0].held.set()
        assert (await asyncio.wait_for(before.answer, 5)).json == b"before"
        assert mortals[0].batches == [[b"before"]]
        assert pool.files == {"m": "new"}
        await pool.stop()

    asyncio.run(run())
