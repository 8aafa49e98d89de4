"""The description of an exported file is read without the format's library, and what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from singleshot.errors import CheckpointError
from singleshot.model_info import EXPORTED, ModelInfo
from singleshot.runtime.model_file import onnx_description, read_onnx_info


def described(path: Path, change=None, drop: str | None = None) -> str:
    values = json.loads(onnx_description(path))
    if drop is not None:
        del values[drop]
    values.update(change or {})
    return json.dumps(values)


def test_reads_what_the_export_writes(exported, tiny) -> None:
    onnx = pytest.importorskip("onnx")
    _, info = tiny
    found = read_onnx_info(exported("model.onnx"))
    assert found.class_names == info.class_names
    assert found.input_spec == info.input_spec
    assert found.thresholds == info.thresholds
    assert not found.raw
    raw = read_onnx_info(exported("raw.onnx"))
    assert raw.raw
    assert raw.priors == info.priors
    model = onnx.load(exported("model.onnx"))
    assert {entry.key: entry.value for entry in model.metadata_props}["singleshot"] == onnx_description(
        exported("model.onnx")
    )


def test_the_last_of_several_entries_counts_and_others_are_passed_over(exported, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("model.onnx"))
    for key, value in (("author", "x" * 300), ("singleshot", "second"), ("license", "")):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path = tmp_path / "more.onnx"
    onnx.save(model, path)
    assert onnx_description(path) == "second"
    del model.metadata_props[:]
    onnx.save(model, path)
    assert onnx_description(path) is None
    with pytest.raises(CheckpointError, match="without singleshot's description"):
        read_onnx_info(path)


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.001, 0.5, 0.999999])
def test_a_file_cut_short(share: float, exported, tmp_path) -> None:
    data = exported("model.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.onnx: (not an ONNX file, or cut short|an empty file)"):
        onnx_description(path)


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 something else",
        b"\xff" * 400,
        b"hello\n" * 10,
        b"\x00",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
    ids=["zip", "ones", "text", "zero", "length"],
)
def test_other_files(data: bytes, tmp_path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not an ONNX file"):
        onnx_description(path)


def test_no_file(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        onnx_description(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match="cannot be read"):
        onnx_description(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2, "version": "9.1"}, r"made by singleshot 9\.1, which is newer than this one \(.*pip install -U"),
        ({"classes": []}, "classes are not a list of names"),
        ({"classes": "abc"}, "classes are not a list of names"),
        ({"input": {"size": 3}}, "input size 3"),
        ({"input": {"size": 320.5}}, "whole size"),
        ({"input": {"mean": [1, 2]}}, "three means"),
        ({"input": {"colour": "rgb"}}, "unknown key colour"),
        ({"input": None}, "cannot be read"),
        ({"thresholds": {"show_min": 7}}, "show_min: 7"),
        ({"thresholds": {"new_rule": 1}}, "unknown key new_rule"),
        ({"outputs": "raw", "priors": {"maps": [1]}}, "priors"),
        ({"outputs": "raw", "priors": None}, "cannot be read"),
        ({"format": "1"}, "cannot be read"),
    ],
)
def test_wrong_descriptions(change: dict, message: str, exported) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelInfo.from_json(described(exported("model.onnx"), change), "m.onnx", EXPORTED)
    assert str(caught.value).startswith("m.onnx: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["format", "classes", "input", "thresholds", "outputs"])
def test_missing_parts(key: str, exported) -> None:
    with pytest.raises(CheckpointError, match=f"cannot be read .*{key}"):
        ModelInfo.from_json(described(exported("model.onnx"), drop=key), "m.onnx", EXPORTED)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000])
def test_no_json(text: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        ModelInfo.from_json(text, "m.onnx", EXPORTED)
