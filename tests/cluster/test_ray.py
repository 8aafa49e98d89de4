"""Bulk detection on a Ray cluster of this machine, with an actor, a node and the driver killed in mid-run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from singleshot.api.detect import DetectOptions
from singleshot.api.load import load
from singleshot.cluster.run import ClusterDone, ClusterOptions, run_on_cluster

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IMAGES, BLOCK = 48, 3
SECONDS = 600


@pytest.fixture(scope="module")
def ray():
    try:
        import ray
    except ImportError:
        pytest.skip("ray is not installed")
    return ray


def add_node(cluster: Cluster) -> object:
    """One more node, with one processor. Ray gives its helpers 15 seconds to start, which a busy machine may exceed:
    some tries."""
    for left in (4, 3, 2, 1, 0):
        try:
            return cluster.add_node(num_cpus=1, include_dashboard=False, include_log_monitor=False)
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
    raise AssertionError


@pytest.fixture(scope="module")
def cluster(ray):
    """A cluster of one node with one processor."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    add_node(made)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_images) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    make_images(folder, IMAGES)
    (folder / "0007.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def wanted(model, photos) -> list[dict]:
    """What plain `detect` finds."""
    found = load(model, threads=1).stream(str(photos), keep_images=False)
    return [one.detections.to_dict() for one in found if one.detections is not None]


def options(model: Path, photos: object, out: Path, form: str = "jsonl") -> DetectOptions:
    return DetectOptions(str(model), (str(photos),), out=str(out), form=form, draw=False)


def check(out: Path, wanted: list[dict]) -> None:
    """Nothing lost, nothing twice, and the numbers of plain `detect`."""
    rows = [json.loads(line) for path in sorted(out.glob("part-*.jsonl")) for line in path.read_text().splitlines()]
    assert [row["image"] for row in rows] == [row["image"] for row in wanted]
    assert rows == wanted
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [Path(one["image"]).name for one in failures] == ["0007.png"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["failures"], summary["complete"]) == (IMAGES - 1, 1, True)


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.jsonl")))


def descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield child
            yield from descendants(child)


def actors_of(pid: int) -> list[int]:
    """The processes below `pid` that hold the model."""
    found = []
    for child in descendants(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"MapWorker" in line:
            found.append(child)
    return found


@pytest.fixture
def command(model, photos, cluster):
    """command(out): the command in a process of its own."""
    started: list[subprocess.Popen] = []

    def start(out: Path) -> subprocess.Popen:
        words = ["detect", model, photos, "--cluster", cluster.address, "--block", BLOCK, "--out", out]
        process = subprocess.Popen(
            [sys.executable, "-m", "singleshot", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_an_actor_that_is_killed_is_replaced(command, tmp_path, wanted):
    process = command(tmp_path / "out")
    wait_for(lambda: parts(tmp_path / "out") >= 2 or process.poll() is not None)
    actors = actors_of(os.getpid())  # the cluster's nodes are below this process
    assert actors
    os.kill(actors[0], signal.SIGKILL)
    assert 2 <= parts(tmp_path / "out") < IMAGES // BLOCK
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 3, err  # one image is broken
    assert f"{IMAGES - 1} images" in out
    check(tmp_path / "out", wanted)


def test_the_same_command_goes_on_after_the_driver_was_killed(command, tmp_path, wanted):
    first = command(tmp_path / "out")
    wait_for(lambda: parts(tmp_path / "out") >= 3 or first.poll() is not None)
    first.kill()
    first.wait()
    wait_for(lambda: not actors_of(os.getpid()))  # Ray ends them
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*.jsonl")}
    assert 3 <= len(kept) < IMAGES // BLOCK
    second = command(tmp_path / "out")
    out, err = second.communicate(timeout=SECONDS)
    assert second.returncode == 3, err
    assert f"{len(kept)} of the parts from before" in out
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    check(tmp_path / "out", wanted)
    third = command(tmp_path / "out")  # nothing is left
    out, err = third.communicate(timeout=SECONDS)
    assert third.returncode == 3, err
    assert f"{IMAGES // BLOCK} of the parts from before" in out
    check(tmp_path / "out", wanted)


def test_a_node_that_is_lost_in_mid_run(ray, cluster, model, photos, tmp_path, wanted):
    lost = add_node(cluster)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        assert ray.cluster_resources()["CPU"] == 2
        found: list[ClusterDone | BaseException] = []

        def work() -> None:
            try:
                job = options(model, photos, tmp_path / "out")
                found.append(run_on_cluster(job, ClusterOptions(cluster.address, actors=2, block=BLOCK)))
            except BaseException as error:
                found.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        wait_for(lambda: (parts(tmp_path / "out") >= 3 and len(actors_of(os.getpid())) == 2) or bool(found))
        cluster.remove_node(lost, allow_graceful=False)
        assert parts(tmp_path / "out") < IMAGES // BLOCK
        thread.join(SECONDS)
        assert found
        assert isinstance(found[0], ClusterDone), found[0]
        assert found[0].counts.images == IMAGES - 1
        check(tmp_path / "out", wanted)
    finally:
        ray.shutdown()


def test_tables_in_and_parquet_out(ray, model, photos, tmp_path, wanted):
    import pyarrow as pa
    from pyarrow import parquet

    paths = [str(path) for path in sorted(photos.glob("000*.png"))]
    parquet.write_table(pa.table({"id": list(range(11)), "url": [*paths, paths[0]]}), tmp_path / "table.parquet")
    job = options(model, tmp_path / "table.parquet", tmp_path / "out", "parquet")
    done = run_on_cluster(job, ClusterOptions("local", block=4))
    assert done.repeated == 1
    table = pa.concat_tables(parquet.read_table(path) for path in sorted((tmp_path / "out").glob("part-*.parquet")))
    rows = table.to_pylist()
    assert [row["image"] for row in rows] == [row["image"] for row in wanted[: len(rows)]]
    assert len(rows) == 9
    for row, one in zip(rows, wanted, strict=False):
        assert row["boxes"] == [found["box"] for found in one["detections"]]
        assert row["scores"] == [found["score"] for found in one["detections"]]
        assert row["names"] == [found["name"] for found in one["detections"]]
