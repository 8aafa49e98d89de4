from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from singleshot.errors import CheckpointError
from singleshot.weights.readers import protobuf
from singleshot.weights.readers.protobuf import DESCRIPTORS, message_class, parse_binary, parse_text

POOLING, BLOB, TENSOR = "caffe.PoolingParameter", "caffe.BlobProto", "tensorflow.TensorProto"


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    files = sorted(path.name for path in DESCRIPTORS.parent.glob("*.proto"))
    out = tmp_path / "protos.binpb"
    assert protoc.main(["protoc", f"-I{DESCRIPTORS.parent}", f"--descriptor_set_out={out}", *files]) == 0
    made, kept = (descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()) for path in (out, DESCRIPTORS))
    assert made == kept, "run: make protos"


def test_no_message_holds_itself():
    """So that the walk before parsing, which recurses, is as deep as the .proto files are."""

    def check(descriptor, outer):
        assert descriptor.full_name not in outer
        for field in descriptor.fields:
            if field.message_type is not None:
                check(field.message_type, (*outer, descriptor.full_name))

    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        for message in file.message_type:
            check(message_class(f"{file.package}.{message.name}").DESCRIPTOR, ())


def test_defaults_and_what_is_written_come_back():
    pooling = message_class(POOLING)
    empty = pooling()
    assert (empty.pool, empty.stride, empty.kernel_size, empty.ceil_mode) == (pooling.MAX, 1, 0, True)
    assert not empty.HasField("stride")
    given = pooling(pool="AVE", stride=3, ceil_mode=False)
    assert parse_binary(POOLING, given.SerializeToString(), "here") == given
    text = 'pool: AVE stride: 3 ceil_mode: false more { of: THIS } # } \n inner < name: "b" what: [1, 2] >'
    assert parse_text(POOLING, text, "here") == given


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_numbers_one_by_one_are_read_as_packed_ones(count, tables):
    values = np.arange(count, dtype="<f4")
    single = b"".join(b"\x2d" + value.tobytes() for value in values)
    for data in (single, tables.message(5, values.tobytes()), single + tables.number(1, 7)):
        assert np.array_equal(np.array(parse_binary(BLOB, data, "here").data), values)
    with pytest.raises(CheckpointError, match="cut off"):
        parse_binary(BLOB, single[:-1], "here")


def test_what_is_not_the_message_is_refused(tables, monkeypatch):
    monkeypatch.setattr(protobuf, "MAX_ENTRIES", 2000)  # the real limit takes seconds: caffe/test_bad_files.py
    for name, data, match in (
        (TENSOR, b"\x0b", "not the protobuf it should be"),  # a group
        (TENSOR, b"\x00\x01", "not the protobuf it should be"),  # field 0
        (TENSOR, b"\x22\x05ab", "cut off"),
        (TENSOR, b"\xff" * 20, "not the protobuf it should be"),
        ("caffe.NetParameter", tables.message(1, b"\xff\xfe"), "name is not text"),
        (TENSOR, tables.message(10, b"\xff"), "not the protobuf it should be"),
        (TENSOR, tables.message(10, bytes(2001)), "more than 2000 fields"),
        ("tensorflow.GraphDef", tables.message(1, b"") * 2001, "more than 2000 fields"),
    ):
        with pytest.raises(CheckpointError, match=match) as caught:
            parse_binary(name, data, "here")
        assert str(caught.value).startswith("here: ")


def test_what_is_too_large_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(protobuf, "MAX_BINARY", 100)
    with pytest.raises(CheckpointError, match="protobuf of 101 bytes"):
        parse_binary(TENSOR, bytes(101), "here")
    monkeypatch.setattr(protobuf, "MAX_TEXT", 2**20)
    with pytest.raises(CheckpointError, match="want at most 1 MB"):
        parse_text(POOLING, " " * (2**20 + 1), "here")
