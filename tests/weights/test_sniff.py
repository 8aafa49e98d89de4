from __future__ import annotations

from pathlib import Path

import pytest

from singleshot.errors import CheckpointError
from singleshot.weights.readers.sniff import read_foreign


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("net.onnx", b"\x08\x0e\x12\x07pytorch:"),
        ("net.model", b"\x08\x07\x12\x00:K\n\x0c"),
        ("net.onnx", b"anything"),
    ],
)
def test_an_onnx_network_is_named(name: str, data: bytes, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"an ONNX file, which is not read; .*import the checkpoint"):
        read_foreign(path)


def test_other_bytes_are_not_taken_for_onnx(tmp_path: Path):
    path = tmp_path / "net.bin"
    path.write_bytes(b"\x08\x0e\x13\x07pytorch")
    with pytest.raises(CheckpointError, match="not a checkpoint that is known"):
        read_foreign(path)
