from __future__ import annotations

from pathlib import Path

import pytest

from singleshot.errors import CheckpointError
from singleshot.weights.readers.sniff import read_foreign


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("net.onnx", b"\x08\x0e\x12\x07pytorch:", "not the protobuf it should be"),
        ("net.model", b"\x08\x07\x12\x00:K\n\x0c", "not the protobuf it should be"),
        ("net.model", b"\x08\x07\x12\x00:\x00", "an ONNX file without a network"),
        ("net.onnx", b"anything", "a text file, not a checkpoint"),
    ],
)
def test_what_begins_as_an_onnx_network_is_read_as_one(name: str, data: bytes, match: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match):
        read_foreign(path)


def test_other_bytes_are_not_taken_for_onnx(tmp_path: Path):
    path = tmp_path / "net.bin"
    path.write_bytes(b"\x08\x0e\x13\x07pytorch")
    with pytest.raises(CheckpointError, match="not a checkpoint that is known"):
        read_foreign(path)
