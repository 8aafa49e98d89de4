"""`singleshot data shard`, and the other commands on what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from singleshot.cli.data_shard import parse_size
from singleshot.errors import ConfigError


@pytest.fixture(scope="module")
def packed(run, scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    done = run("data", "shard", scenes, out, "--per-shard", 6)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "test: 8 images in 2 shards", "train: 48 images in 8 shards", "val: 8 images in 2 shards",
    ]  # fmt: skip
    assert f"written: {out} (64 images, " in done.stderr
    return out


def test_json_and_the_same_bytes_again(run, scenes, packed, tmp_path):
    done = run("data", "shard", scenes, tmp_path / "out", "--per-shard", 6, "--split", "train", "--split", "val",
               "--json", "--quiet")  # fmt: skip
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["splits"] == {"train": {"shards": 8, "images": 48}, "val": {"shards": 2, "images": 8}}
    assert told["images"] == 56
    assert told["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    for path in (tmp_path / "out").glob("*.tar"):
        assert path.read_bytes() == (packed / path.name).read_bytes()


def test_shard_size(run, scenes, tmp_path):
    assert run("data", "shard", scenes, tmp_path / "out", "--shard-size", "200k", "--seed", 3).returncode == 0
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("train-*.tar")]
    assert len(sizes) > 1
    assert max(sizes) <= 200 * 1024


def test_evaluation_reads_shards(run, scenes, packed, model):
    scores = [run("eval", model, data, "--split", "test", "--json", "--quiet") for data in (scenes, packed)]
    before, after = (json.loads(done.stdout) for done in scores)
    assert after["images"] == 8
    assert after["mean_ap"] == pytest.approx(before["mean_ap"], abs=1e-6)


def test_the_other_commands_read_shards(run, scenes, packed, tmp_path):
    told = [run("data", "info", data, "--json", "--quiet") for data in (scenes, packed)]
    before, after = (json.loads(done.stdout) for done in told)
    assert {split["name"]: split["images"] for split in after["splits"]} == {"test": 8, "train": 48, "val": 8}
    assert after["classes"] == before["classes"]
    check = run("data", "check", packed, "--quiet")
    assert check.returncode == 0, check.stdout + check.stderr
    back = run("data", "convert", packed, tmp_path / "back", "--to", "coco", "--quiet")
    assert back.returncode == 0, back.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shard-size", "many"), "--shard-size 'many': want a size such as 100M"),
        (("--shard-size", "1k"), "want 10k to 1024G"),
        (("--shard-size", "1M", "--per-shard", 5), "exclude each other"),
        (("--split", "dev"), "no split 'dev' (there are: test, train, trainval, val"),
        (("--per-shard", 0), "--per-shard"),
    ],
)
def test_wrong_options(refused, scenes, tmp_path, words, said):
    assert said in refused("data", "shard", scenes, tmp_path / "out", *words)
    assert list(tmp_path.iterdir()) == []


def test_wrong_data_and_a_folder_in_use(refused, tmp_path):
    assert "no such file or folder" in refused("data", "shard", tmp_path / "none", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "is there already" in refused("data", "shard", tmp_path, tmp_path / "out")


def test_what_training_refuses_names_the_check(refused, run, scenes, tmp_path):
    """A box far outside: one line, and --clip-boxes cuts it."""
    data = tmp_path / "data"
    assert run("data", "convert", scenes, data, "--to", "coco", "--quiet").returncode == 0
    path = data / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 5000
    path.write_text(json.dumps(content))
    line = refused("data", "shard", data, tmp_path / "out")
    assert "lies outside the image" in line
    assert "singleshot data check" in line
    assert run("data", "shard", data, tmp_path / "out", "--clip-boxes", "--quiet").returncode == 0


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500 * 2**20), ("2g", 2**31), ("1.5MB", 3 * 2**19), ("64 KiB", 65536), ("20000", 20000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1T", "nan", "1e9", "9" * 400, "5G"[::-1], "1\n2"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match="--shard-size"):
        parse_size(text)
