"""Parts of a bulk detection without Ray: every image once, whatever was killed and done again."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from unittest.mock import MagicMock

import fsspec
import pytest
import typer
from typer.testing import CliRunner

from singleshot.api.detect import DetectOptions
from singleshot.cli.detect import detect
from singleshot.cluster.addresses import Input, list_inputs
from singleshot.cluster.job import Folder, Job, PartCounts
from singleshot.cluster.part_detector import PartDetector
from singleshot.cluster.run import ClusterOptions, _run, run_on_cluster
from singleshot.errors import ConfigError, DataError
from singleshot.runtime import Detector

ASKED = {"form": "jsonl", "sources": ["photos"]}


def options(sources, out, **more) -> DetectOptions:
    return DetectOptions("m.onnx", tuple(map(str, sources)), out=str(out), form="jsonl", draw=False, **more)


@pytest.fixture
def job(tmp_path, make_images) -> Job:
    """20 images, one of them broken and one address without a file, in parts of 6."""
    make_images(tmp_path / "photos", 20)
    (tmp_path / "photos" / "0007.png").write_bytes(b"no image")
    inputs = [*list_inputs((str(tmp_path / "photos"),)), Input("", "row 21"), Input("/nowhere/a.png", "a.png")]
    return Job.open(Folder(str(tmp_path / "out")), ASKED, inputs, 6)


def work(job: Job, detector: Detector) -> PartDetector:
    return PartDetector(options(["photos"], "out").to_dict(), job.folder.place, detector)


def results(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("part-*.jsonl")) for line in path.read_text().splitlines()]


def test_every_image_is_in_one_part(job):
    assert (job.parts, job.images, job.repeated) == (4, 22, 0)
    parts = [job.inputs(part) for part in range(4)]
    assert [len(part) for part in parts] == [6, 6, 6, 4]
    assert len({one.name for part in parts for one in part}) == 22


def test_each_image_has_a_result_or_a_failure_as_plain_detect(job, detector, tmp_path):
    detect = work(job, detector)
    counts = [detect.detect(part) for part in range(4)]
    total = job.end()
    assert total == PartCounts(19, 19, 3)
    assert sum(one.images for one in counts) == 19
    rows = results(tmp_path / "out")
    plain = [one.detections for one in detector.stream(str(tmp_path / "photos"), keep_images=False)]
    assert rows == [one.to_dict() for one in plain if one is not None]
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert [Path(one["image"]).name for one in failures] == ["0007.png", "row 21", "a.png"]
    assert "not an image" in failures[0]["reason"]
    assert failures[1]["reason"] == "no address"
    assert "no such image file" in failures[2]["reason"]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary == {"images": 19, "objects": 19, "failures": 3, "parts": 4, "repeated": 0, "complete": True}


@pytest.mark.parametrize("killed_at", range(1, 13))
def test_a_run_that_is_killed_anywhere_goes_on(job, detector, tmp_path, monkeypatch, killed_at):
    """Of the twelve files that are written: whichever is the last, nothing is lost and nothing is there twice."""
    write, written = Folder.write, []

    def dying(self, name, data):
        written.append(name)
        if len(written) == killed_at:
            raise KeyboardInterrupt
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            [work(job, detector).detect(part) for part in range(4)]
    again = Job.open(Folder(str(tmp_path / "out")), ASKED, iter(()), 6)  # nothing is listed anew
    left = again.unfinished()
    assert left == list(range((killed_at - 1) // 3, 4))
    detect = work(again, detector)
    for part in left:
        detect.detect(part)
    assert again.end() == PartCounts(19, 19, 3)
    assert max(Counter(row["image"] for row in results(tmp_path / "out")).values()) == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if "part-0" not in path.name and ".part-" in path.name]


def test_an_image_that_ends_its_process_each_time_is_left_out(job, detector, tmp_path):
    """Two processes die at it, two more look at one image after the other, the fifth leaves it out."""

    class Dying:
        class_names = detector.class_names
        tiling = None

        def stream(self, frames, *options, **more):
            for frame in frames:
                if frame.path.endswith("0009.png"):
                    raise SystemExit  # as far as the part goes, the process is gone
                yield from detector.stream([frame], *options, **more)

    for _ in range(4):
        with pytest.raises(SystemExit):
            work(job, Dying()).detect(1)
    assert work(job, Dying()).detect(1) == PartCounts(4, 4, 2)
    failures = json.loads((tmp_path / "out/failures/000001.json").read_text())["list"]
    assert [(Path(one["image"]).name, one["reason"][:17]) for one in failures] == [
        ("0007.png", "not an image that"),
        ("0009.png", "ended the process"),
    ]
    assert work(job, detector).detect(0).images == 6  # other parts know nothing of it


def test_two_actors_at_one_part_leave_one_result(job, detector, tmp_path):
    first, second = work(job, detector), work(job, detector)
    first.detect(0)
    before = (tmp_path / "out/part-000000.jsonl").read_bytes()
    assert second.detect(0) == first.detect(0)  # which is finished: only counted
    (tmp_path / "out/part-000000.jsonl").unlink()
    second.detect(0)
    assert (tmp_path / "out/part-000000.jsonl").read_bytes() == before


def test_a_batch_of_ray_data(job, detector):
    found = work(job, detector)({"part": [1, 2]})
    assert found == {"part": [1, 2], "images": [5, 6], "objects": [5, 6], "failures": [1, 0]}


def test_another_job_in_the_folder_is_refused(job, tmp_path):
    with pytest.raises(ConfigError, match=r"was begun with form jsonl, now parquet; give the same"):
        Job.open(job.folder, {**ASKED, "form": "parquet"}, [], 6)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty, and no job"):
        Job.open(Folder(str(tmp_path / "other")), ASKED, [Input("a", "a")], 6)
    with pytest.raises(DataError, match="no image at all"):
        Job.open(Folder(str(tmp_path / "empty")), ASKED, [], 6)


def test_a_listing_that_was_stopped_begins_again(tmp_path):
    def inputs():
        yield from (Input(str(i), str(i)) for i in range(5))
        raise KeyboardInterrupt

    folder = Folder(str(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        Job.open(folder, ASKED, inputs(), 2)
    assert Job.open(folder, ASKED, [Input(str(i), str(i)) for i in range(3)], 2).images == 3


def test_an_address_given_twice_is_read_once(tmp_path):
    inputs = [Input(path, path) for path in "abacb"]
    job = Job.open(Folder(str(tmp_path / "out")), ASKED, inputs, 10)
    assert [one.path for one in job.inputs(0)] == ["a", "b", "c"]
    assert job.repeated == 2


def test_results_in_memory_storage(make_images, tmp_path, detector):
    make_images(tmp_path / "photos", 3)
    place = "memory://bulk/out"
    try:
        job = Job.open(Folder(place), ASKED, list_inputs((str(tmp_path / "photos"),)), 2)
        work(job, detector)({"part": [0, 1]})
        assert Job.open(Folder(place), ASKED, (), 2).unfinished() == []
        assert job.end().images == 3
        assert b'"complete": true' in fsspec.filesystem("memory").cat("/bulk/out/summary.json")
    finally:
        fsspec.filesystem("memory").rm("/bulk", recursive=True)


# ---------------------------------------------------------------------------------------------- sources


def names(*sources: object, column: str | None = None) -> list[str]:
    return [Path(one.name).name for one in list_inputs(tuple(map(str, sources)), column)]


def test_folders_patterns_and_lists(make_images, tmp_path):
    paths = make_images(tmp_path / "a", 3)
    (tmp_path / "list.txt").write_text(f"{paths[2]}\nhttps://host/b.jpg\n")
    assert names(tmp_path / "list.txt") == ["0002.png", "b.jpg"]
    assert names(tmp_path / "a") == ["0000.png", "0001.png", "0002.png"]
    assert names(tmp_path / "a/*1.png", paths[0]) == ["0001.png", "0000.png"]
    assert names("https://u:pa55word@host/x.jpg?sig=pa55word") == ["x.jpg"]
    system = fsspec.filesystem("memory")
    try:
        for path in paths:
            system.pipe_file(f"/photos/{path.name}", path.read_bytes())
        assert names("memory://photos") == names("memory://photos/*.png") == ["0000.png", "0001.png", "0002.png"]
        found = list(list_inputs(("memory://photos/*2.png",)))
        assert found == [Input("memory://photos/0002.png", "memory://photos/0002.png")]
    finally:
        system.rm("/photos", recursive=True)


def test_tables(make_images, tmp_path, monkeypatch):
    make_images(tmp_path / "a", 2)
    table = tmp_path / "a" / "t.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "URL"], [1, "0000.png"], [2, ""], [3, "https://h/x.png?sig=pa55word"]])
    found = list(list_inputs((str(table),)))
    assert found[0].path == str(tmp_path / "a/0000.png")  # next to the table
    assert found[1] == Input("", f"{table}: row 2 has no address")
    assert found[2] == Input("https://h/x.png?sig=pa55word", "https://h/x.png")
    (tmp_path / "t.jsonl").write_text('{"where": "b.png", "n": 1}\n\n"c.png"\n')
    assert names(tmp_path / "t.jsonl", column="where") == ["b.png", "c.png"]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("id,place\n1,a.png\n", None, "which column has the addresses? Name one of id, place with --column"),
        ("id,place\n1,a.png\n", "url", "--column url: .*t.csv has id, place"),
    ],
)
def test_tables_without_the_column(tmp_path, text, column, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        names(tmp_path / "t.csv", column=column)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("-", "standard input is read by one process"),
        ("nowhere", "no such file or folder"),
        ("memory://nowhere", "nothing is there"),
        ("https://h/*.jpg", "has no patterns"),
        ("nowhere.csv", "no such table file"),
    ],
)
def test_sources_that_are_none(source, message):
    with pytest.raises((ConfigError, DataError), match=message):
        names(source)


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "json"}, "--format json: on a cluster want jsonl or parquet"),
        ({"draw": True}, "--draw: not on a cluster"),
        ({"crop": True}, "--crop: not on a cluster"),
        ({"limit": 3}, "--limit: not on a cluster"),
        ({"out": None}, "--cluster: where do results go"),
    ],
)
def test_options_that_a_cluster_does_not_have(changes, message):
    values = options(["photos"], "out").to_dict() | changes
    with pytest.raises(ConfigError, match=message):
        run_on_cluster(DetectOptions.from_dict(values), ClusterOptions("local"))


@pytest.mark.parametrize(
    ("actors", "parts", "started", "most"), [(None, 9, 4, 4), (3, 9, 3, 3), (8, 2, 2, 2), (8, 9, 4, 8)]
)
def test_all_actors_start_at_once(job, actors, parts, started, most):
    """Ray Data waits for the first part before it lets a pool grow; more than there is room for are not demanded."""
    ray, pools = MagicMock(), []
    ray.cluster_resources.return_value = {"CPU": 4.0}
    ray.data.ActorPoolStrategy = lambda **sizes: pools.append(sizes)
    done = ray.data.from_items.return_value.map_batches.return_value
    done.iter_rows.return_value = [{"images": 6, "objects": 7, "failures": 0}]
    found = list(_run(ray, {"device": "cpu", "threads": 1}, job, list(range(parts)), actors))
    assert found == [PartCounts(6, 7, 0)]
    assert pools == [{"min_size": started, "max_size": most}]


def test_numbers_out_of_range():
    for name in ("actors", "block"):
        with pytest.raises(ConfigError, match=f"--{name} 0: want 1 to 100000"):
            ClusterOptions("local", **{name: 0})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--block", "3"], "--block: goes with --cluster"),
        (["--actors", "3"], "--actors: goes with --cluster"),
        (["--column", "url"], "--column: goes with --cluster"),
        (["--out", "memory://new"], "--out memory://new: an address goes with --cluster"),
        (["--format", "parquet", "--out", "new"], "--format parquet: goes with --cluster"),
        (["--cluster", "local"], "--cluster: where do results go"),
        (["--cluster", "local", "--out", "new", "--json"], "--json: results of --cluster go into files"),
        (["--cluster", "local", "--out", "new", "--draw"], "--draw: not on a cluster"),
        (["--cluster", "local", "--out", "new", "--format", "csv"], "--format csv: on a cluster want"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(detect)
    found = CliRunner().invoke(app, ["m.onnx", "photos", *words])
    assert isinstance(found.exception, ConfigError)
    assert message in str(found.exception)
    assert not list(tmp_path.iterdir())


def test_parquet_in_and_out(make_images, tmp_path, detector):
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        pytest.skip("ray is not installed")  # which brings it
    paths = [str(path) for path in make_images(tmp_path / "photos", 5)]
    parquet.write_table(pa.table({"id": list(range(6)), "url": [*paths, paths[0]]}), tmp_path / "t.parquet")
    place = Folder(str(tmp_path / "out"))
    job = Job.open(place, {**ASKED, "form": "parquet"}, list_inputs((str(tmp_path / "t.parquet"),)), 2)
    assert (job.images, job.repeated) == (5, 1)
    work(job, detector)({"part": [0, 1, 2]})
    names = [path.name for path in sorted((tmp_path / "out").glob("part-*"))]
    assert names == [f"part-{k:06d}.parquet" for k in range(3)]
    rows = pa.concat_tables(parquet.read_table(tmp_path / "out" / name) for name in names).to_pylist()
    plain = [one.detections.to_dict() for one in detector.stream(paths, keep_images=False)]
    assert [(row["image"], row["width"], row["height"]) for row in rows] == [
        (one["image"], one["width"], one["height"]) for one in plain
    ]
    for row, one in zip(rows, plain, strict=True):
        for columns, name in (("boxes", "box"), ("scores", "score"), ("labels", "label"), ("names", "name")):
            assert row[columns] == [found[name] for found in one["detections"]]
