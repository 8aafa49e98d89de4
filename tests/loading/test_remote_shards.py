"""Shards on servers that are slow, busy or broken: the batches are those of local shards, or the error is one line."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from singleshot import remote_file
from singleshot.api.train_data import open_sets
from singleshot.api.train_options import TrainOptions
from singleshot.datasets.shard_cache import ShardCache
from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.loader import TrainLoader
from singleshot.loading.shard_stream import open_stream
from singleshot.remote_file import RemoteFile, without_secrets

SPEC = InputSpec(size=32)
NO_S3 = "s3fs and moto are not installed"


class Server:
    """What a test server does: `faults`, the first ones first, for one request of a tar each; without listings."""

    def __init__(self, folder: Path, faults: list[str], always: dict[str, str], ranges: bool = True) -> None:
        self.folder, self.faults, self.always, self.ranges = folder, faults, always, ranges
        self.asked: Counter[str] = Counter()
        self.resumed = 0
        self.lock = threading.Lock()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.answer(self)

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.split("?")[0].lstrip("/")
        path = self.folder / name
        with self.lock:
            self.asked[name] += 1
            fault = self.always.get(name, "")
            if not fault and name.endswith(".tar") and self.faults:
                fault = self.faults.pop(0)
        if fault.isdigit() or not path.is_file():
            request.send_response(int(fault) if fault else 404)
            request.send_header("Retry-After", "0" if fault != "429" else "Thu, 01 Jan 2015 00:00:00 GMT")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = path.read_bytes()
        if fault == "wrong":
            body = body[:-1] + b"x"  # behind the end of the tar
        at = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")) if self.ranges else None
        start = int(at[1]) if at else 0
        self.resumed += start > 0
        request.send_response(206 if at else 200)
        request.send_header("ETag", '"other"' if fault == "changed" else '"one"')
        part = body[start:]
        told = part[: len(part) // 2] if fault == "short" else part  # "short": the length fits the short body
        request.send_header("Content-Length", str(len(told)))
        request.end_headers()
        if fault == "slow":
            for k in range(0, len(part), 4096):
                request.wfile.write(part[k : k + 4096])
                time.sleep(0.001)
            return
        sent = part[: max(1, len(part) // 2)] if fault == "drop" else told
        request.wfile.write(sent)


@pytest.fixture
def remote(serve, shards):
    """remote(faults, always, ...): (server, the address of shards.json)."""

    def start(faults=(), always=None, folder: Path = shards, **more) -> tuple[Server, str]:
        server = Server(folder, list(faults), always or {}, **more)
        return server, serve(server.handler()) + "/shards.json"

    return start


@pytest.mark.parametrize("ranges", [True, False])
def test_batches_are_those_of_local_shards_whatever_breaks(loader, remote, equal_but_for_names, ranges):
    faults = ["drop", "503", "short", "500", "429", "slow", "502", "drop", "drop", "408"]
    server, address = remote(faults, ranges=ranges)
    assert equal_but_for_names(list(loader(address).epoch(3)), list(loader().epoch(3)))
    assert not server.faults
    assert (server.resumed > 0) == ranges  # it goes on where it was, if the server can


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_is_taken_up_in_the_middle_as_with_local_shards(loader, remote, all_same, workers):
    _, address = remote(["drop", "503"])
    entire = list(loader(address).epoch(3))
    assert all_same(list(loader(address, workers=workers).epoch(3, 13)), entire[13:])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("403", "forbidden: HTTP 403; credentials come from"),
        ("401", "forbidden: HTTP 401"),
        ("404", "no such shard file"),
        ("410", "no such shard file"),
        ("418", "cannot be read (HTTP 418)"),
        ("500", "cannot be read (HTTP 500, after 8 tries)"),
        ("short", "cannot be read (the answer ended at byte"),
        ("wrong", "has another SHA-256 than the index says"),
    ],
)
def test_a_shard_that_stays_broken_is_one_line_or_left_out(loader, remote, fault, message, seen):
    server, address = remote(always={"train-000003.tar": fault})
    with pytest.raises(DataError) as caught:
        list(loader(address).epoch(0))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(address.replace("shards.json", "train-000003.tar: "))
    assert message in str(caught.value)
    if fault in ("403", "404", "418"):
        assert server.asked["train-000003.tar"] == 1  # another try changes nothing
    batches = list(loader(address, skip_broken=True, spec="none").epoch(0))
    said = {text for batch in batches for text in batch.skipped}
    assert len(said) == 1
    assert message in said.pop()
    lost = {3 * 8 + k for k in range(8)} - set(seen(batches))
    assert len(lost) == {"short": len(lost), "wrong": 0}.get(fault, 8)
    assert len(batches) == 24  # others came twice in their place
    assert set(range(96)) - lost <= set(seen(batches)) | lost


def test_no_shard_that_can_be_read_ends_it(loader, remote):
    _, address = remote(always={f"train-{k:06d}.tar": "404" for k in range(12)})
    with pytest.raises(DataError, match=r"none of \d+ shards can be read: .*no such shard file"):
        list(loader(address, skip_broken=True).epoch(0))


def test_what_the_run_has_counted_is_not_counted_again(loader, remote):
    _, address = remote(always={"train-000003.tar": "404"})
    entire = list(loader(address, skip_broken=True).epoch(0))
    at = max(k for k, batch in enumerate(entire) if batch.skipped)
    after = list(loader(address, skip_broken=True).epoch(0, at + 1))
    assert [batch.indices.tolist() for batch in after] == [batch.indices.tolist() for batch in entire[at + 1 :]]
    assert not any(batch.skipped for batch in after)


def test_a_file_that_changes_in_the_middle_is_noticed(remote, shards):
    _, address = remote(["drop", "changed"])
    with pytest.raises(OSError, match="changed on the server while it was read"):
        RemoteFile(address.replace("shards.json", "train-000000.tar")).readall()


def test_wrong_addresses_are_one_line(remote, one_line):
    server, address = remote()
    assert "no such index file" in one_line(open_stream, address.replace("shards.json", "nowhere/shards.json"))
    assert "nothing is there, or the server does not list it (of shards give" in one_line(
        open_stream, address.removesuffix("/shards.json")
    )
    server.always["shards.json"] = "403"
    assert "shards.json: cannot be read (forbidden: HTTP 403" in one_line(open_stream, address)
    assert "after 4 tries)" in one_line(open_stream, "http://127.0.0.1:9/shards.json")


def test_no_secrets_in_messages(one_line, remote):
    for address in ("http://me:pa55word@127.0.0.1:9/shards", "s3://KEY:pa55word@bucket/shards.json"):
        text = one_line(open_stream, address)
        assert "pa55word" not in text
        assert "leave them out" in text
    text = one_line(open_stream, "http://127.0.0.1:9/shards?X-Amz-Signature=pa55word")
    assert "pa55word" not in text
    assert "query" in text
    text = without_secrets("500, url='https://u:pa55word@h/a.tar?X-Signature=pa55word&b=1' and http://h/a@b")
    assert text == "500, url='https://h/a.tar?...' and http://h/a@b"


def test_passwords_come_from_netrc(remote, tmp_path, monkeypatch, shards):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pa55word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    found = []
    server, address = remote()
    answer = server.answer
    server.answer = lambda request: (found.append(request.headers["Authorization"]), answer(request))
    assert len(open_stream(address)) == 96
    assert found == ["Basic bWU6cGE1NXdvcmQ="]


# ---------------------------------------------------------------------------------------------- patterns


def test_a_pattern_names_some_shards(loader, remote, shards, seen, one_line):
    _, address = remote()
    base = address.removesuffix("/shards.json")
    for place in (base, str(shards)):
        one = loader(f"{place}/train-{{000002..000005}}.tar", spec="none")
        assert set(seen(one.epoch(0))) == set(range(32))  # positions in what is named
        assert all(re.search(r"train-00000[2-5]\.tar", name) for batch in one.epoch(0) for name in batch.names)
    assert len(open_stream(f"{base}/train-00000{{1,7}}.tar")) == 16
    text = one_line(open_stream, f"{base}/train-{{000010..000013}}.tar")
    assert "lists no train-000012.tar" in text
    assert "(2 such)" in text
    assert "names more than" in one_line(open_stream, f"{base}/train-{{0..999999999}}.tar")
    assert "no shards" in one_line(open_stream, f"{base}/train-{{5..2}}.tar")


# ---------------------------------------------------------------------------------------------- the cache


def test_kept_shards_are_not_asked_for_again(loader, remote, shards, tmp_path, equal_but_for_names):
    server, address = remote()
    size = max(path.stat().st_size for path in shards.glob("*.tar"))
    limit = 5 * size
    stream = open_stream(address).cached_in(tmp_path / "kept", limit)
    one = TrainLoader(stream, AUGMENTS["caffe"], SPEC, 4, 5, 0)
    wanted = loader()
    for epoch in (0, 1, 2):
        server.asked.clear()
        assert equal_but_for_names(list(one.epoch(epoch)), list(wanted.epoch(epoch)))
        files = list((tmp_path / "kept").glob("*.shard"))
        assert sum(path.stat().st_size for path in files) <= limit
        assert not list((tmp_path / "kept").glob("*.coming"))
    assert len(files) >= 4
    assert sum(server.asked.values()) == 12 - len(files)
    one.close()


def test_a_damaged_copy_is_dropped(remote, loader, tmp_path, equal_but_for_names):
    _, address = remote()
    stream = open_stream(address).cached_in(tmp_path, 2**30)
    one = TrainLoader(stream, AUGMENTS["caffe"], SPEC, 4, 5, 0)
    list(one.epoch(0))
    path = sorted(tmp_path.glob("*.shard"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"another SHA-256"):
        list(one.epoch(1))
    assert not path.exists()
    assert equal_but_for_names(list(one.epoch(1)), list(loader().epoch(1)))
    one.close()


def test_the_cache_keeps_its_size_and_its_own(tmp_path):
    cache = ShardCache(tmp_path, 100, frozenset({"a", "b", "c"}))
    first = cache.reserve("a", 60)
    first.write(bytes(60))
    assert cache.reserve("a", 60) is None  # another has it
    assert cache.reserve("b", 60) is None  # no room
    first.keep()
    first.close()
    assert cache.find("a").stat().st_size == 60
    assert cache.reserve("b", 60) is None  # what is wanted is not pushed out
    (tmp_path / "other.shard").write_bytes(bytes(40))
    (tmp_path / "dead-1234.coming").write_bytes(bytes(40))  # of a process that ended
    second = cache.reserve("b", 40)
    assert not (tmp_path / "other.shard").exists()
    assert not (tmp_path / "dead-1234.coming").exists()
    second.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a.shard"]


def test_options_of_a_training(remote, shards, tmp_path):
    _, address = remote()
    options = TrainOptions(data=address, cache=str(tmp_path / "kept"), cache_size="1M", val_split="none")
    assert open_sets(options)[0].cache.limit == 2**20
    assert open_sets(TrainOptions(data=address, val_split="none"))[0].cache is None
    for data, cache, message in (
        (shards, str(tmp_path), "lie on a disk already"),
        (address, "ram", "read in a stream"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_sets(TrainOptions(data=str(data), cache=cache))


# ---------------------------------------------------------------------------------------------- pauses, S3


@pytest.mark.parametrize(
    ("failures", "asked", "least", "most"),
    [(1, None, 0.25, 0.5), (4, None, 2, 4), (20, None, 15, 30), (1, "7", 7, 7.5), (1, "999999", 120, 120.5),
     (2, "Thu, 01 Jan 2015 00:00:10 GMT", 10, 10.5), (1, "soon", 0.25, 0.5)],
)  # fmt: skip
def test_pauses_double_and_heed_the_server(monkeypatch, failures, asked, least, most):
    monkeypatch.setattr(remote_file, "_PAUSE", 0.5)
    headers = {} if asked is None else {"Retry-After": asked}
    pauses = {remote_file._pause_of(failures, headers, lambda: 1420070400.0) for _ in range(20)}
    assert len(pauses) > 1  # not all at the same moment
    assert least <= min(pauses)
    assert max(pauses) <= most


@pytest.fixture(scope="module")
def s3_shards(shards):
    """Shards in a bucket of moto's server; the address."""
    try:
        import s3fs
        from moto.server import ThreadedMotoServer
    except ImportError:
        pytest.skip(NO_S3)
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "pa55word",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        for path in shards.iterdir():
            system.pipe_file(f"bucket/shards/{path.name}", path.read_bytes())
        yield "s3://bucket/shards"
        server.stop()


def test_from_s3(s3_shards, loader, equal_but_for_names, one_line):
    for place in (s3_shards, f"{s3_shards}/shards.json"):
        assert equal_but_for_names(list(loader(place).epoch(0)), list(loader().epoch(0)))
    assert "no such index file" in one_line(open_stream, "s3://bucket/nowhere/shards.json")
    assert "no such index file" in one_line(open_stream, "s3://no-such-bucket/shards.json")
