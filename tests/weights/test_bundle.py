"""TensorFlow's checkpoints without TensorFlow."""

from __future__ import annotations

import cramjam
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_checkpoint
from singleshot.weights.readers import sstable
from singleshot.weights.readers.bundle import is_bundle, read_bundle
from singleshot.weights.readers.sstable import masked_crc32c, unpack_snappy

DATA = "data-00000-of-00001"


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "net/conv1/weights": rng.normal(size=(3, 3, 2, 5)).astype(np.float32),
        "net/conv1/biases": rng.normal(size=5).astype(np.float32),
        "net/conv2/half": rng.normal(size=(4, 2)).astype(np.float16),
        "net/conv2/wide": rng.normal(size=7),
        "global_step": np.array(120_000, np.int64),
        "net/count": np.arange(-3, 3, dtype=np.int32),
        "net/picture": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "net/mask": np.array([True, False]),
        "net/nothing": np.zeros((0, 4), np.float32),
    }


def assert_same(read, wanted):
    assert set(read) == set(wanted)
    for name, array in wanted.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert np.array_equal(read[name], array)


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_bundle(path, "model.ckpt")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.ckpt")


class TestChecksum:
    # RFC 3720, appendix B.4.
    @pytest.mark.parametrize(
        ("data", "wanted"),
        [
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
            (bytes(range(31, -1, -1)), 0x113FDB5C),
            (b"123456789", 0xE3069283),
            (b"", 0),
        ],
    )
    def test_published_values(self, data, wanted):
        # LevelDB, doc/log_format.md: "masked" is rotated right by 15 bits and a constant added.
        rotated = (masked_crc32c(data) - 0xA282EAD8) & 0xFFFFFFFF
        assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == wanted


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["model.ckpt-9", "model.ckpt-9.index", f"model.ckpt-9.{DATA}"])
    def test_by_the_prefix_or_any_of_its_files(self, tmp_path, arrays, bundle_writer, name):
        bundle_writer(tmp_path / "model.ckpt-9", arrays)
        assert is_bundle(tmp_path / name)
        assert_same(read_bundle(tmp_path / name, "model.ckpt"), arrays)

    @pytest.mark.parametrize(("shards", "block"), [(1, 1), (3, 2), (12, 100)])
    def test_any_number_of_shards_and_blocks(self, tmp_path, arrays, bundle_writer, shards, block):
        bundle_writer(tmp_path / "m", arrays, shards=shards, block=block)
        assert_same(read_bundle(tmp_path / "m", "m"), arrays)

    def test_many_names_that_begin_alike(self, tmp_path, bundle_writer):
        arrays = {f"scope/layer_{i:04d}/weights": np.full(2, i, np.float32) for i in range(300)}
        bundle_writer(tmp_path / "m", arrays, block=50)
        assert_same(read_bundle(tmp_path / "m", "m"), arrays)

    def test_snappy(self, tmp_path, bundle_writer):
        arrays = {f"scope/layer_{i:04d}/weights": np.zeros(2, np.float32) for i in range(40)}
        index = bundle_writer(tmp_path / "m", arrays, pack=(1, pack_snappy))
        plain = bundle_writer(tmp_path / "p", arrays)
        assert index.stat().st_size < plain.stat().st_size
        assert_same(read_bundle(tmp_path / "m", "m"), arrays)

    def test_bfloat16_becomes_float32(self, tmp_path, bundle_writer):
        values = np.array([1.0, -2.5, 3.140625], np.float32)  # exact in bfloat16
        halves = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.float16)
        bundle_writer(tmp_path / "m", {"x": halves}, change=lambda name, entry: b"\x08\x0e" + entry[2:])
        assert_same(read_bundle(tmp_path / "m", "m"), {"x": values})

    def test_text_is_left_out(self, tmp_path, bundle_writer):
        arrays = {"_CHECKPOINTABLE_OBJECT_GRAPH": np.zeros(9, np.uint8), "x": np.ones(1, np.float32)}

        def text(name, entry):
            return entry if name == "x" else b"\x08\x07" + entry[2:]

        bundle_writer(tmp_path / "m", arrays, change=text)
        assert_same(read_bundle(tmp_path / "m", "m"), {"x": arrays["x"]})


class TestRefused:
    def test_a_data_file_that_is_missing(self, tmp_path, arrays, bundle_writer):
        bundle_writer(tmp_path / "m", arrays, shards=2)
        (tmp_path / "m.data-00001-of-00002").unlink()
        refused(tmp_path / "m", r"data file m\.data-00001-of-00002 is missing; put it beside the index")

    def test_an_index_that_is_missing(self, tmp_path, arrays, bundle_writer):
        bundle_writer(tmp_path / "m", arrays).unlink()
        refused(tmp_path / f"m.{DATA}", r"no m\.index beside it")
        refused(tmp_path / "m", r"no m\.index beside it")
        with pytest.raises(CheckpointError, match=r"no m\.index beside it"):
            import_checkpoint(tmp_path / f"m.{DATA}")
        with pytest.raises(CheckpointError, match="no such file"):
            import_checkpoint(tmp_path / "m")

    @pytest.mark.parametrize("kept", [0, 7, 47, 48, 100, -60, -49, -1])
    def test_an_index_that_is_cut_off(self, tmp_path, arrays, bundle_writer, kept):
        index = bundle_writer(tmp_path / "m", arrays)
        index.write_bytes(index.read_bytes()[:kept])
        refused(tmp_path / "m", "damaged checkpoint")
        with pytest.raises(CheckpointError, match="damaged checkpoint"):
            import_checkpoint(index)

    def test_a_data_file_that_is_cut_off(self, tmp_path, arrays, bundle_writer):
        bundle_writer(tmp_path / "m", arrays)
        data = tmp_path / f"m.{DATA}"
        data.write_bytes(data.read_bytes()[:-1])
        refused(tmp_path / "m", "beyond the end of its data file")

    def test_a_folder(self, tmp_path):
        refused(tmp_path, "is a folder")
        for path in (tmp_path, "", "/"):
            with pytest.raises(CheckpointError, match="is a folder"):
                import_checkpoint(path)

    @pytest.mark.parametrize(
        ("entry", "match"),
        [
            (lambda m, n: n(1, 1) + m(7, m(1, n(2, 1))), "saved in parts"),
            (lambda m, n: n(1, 8) + n(5, 8), "type 8, which is not read"),
            (lambda m, n: n(1, 1) + n(3, 5) + n(5, 4), "data file 5 of 1"),
            (lambda m, n: n(1, 1) + m(2, m(2, n(1, 2))) + n(5, 4), "4 bytes for float32 of shape"),
            (lambda m, n: n(1, 1) + m(2, m(2, n(1, 2**64 - 1))) + n(5, 4), "is not a shape"),
            (lambda m, n: n(1, 1) + m(2, m(2, n(1, 2**40)) + m(2, n(1, 0))), "is not a shape"),
            (lambda m, n: n(1, 1) + m(2, m(2, n(1, 2**28))) + n(5, 2**30), "beyond the end"),
            (lambda m, n: n(1, 1) + n(4, 2**62) + n(5, 4), "beyond the end"),
            (lambda m, n: n(1, 1) + n(4, 2**64 - 8) + n(5, 4), "overlaps"),
            (lambda m, n: n(1, 1) + n(5, 4), "checksum does not match"),
            (lambda m, n: n(1, 1) + m(2, n(3, 1)) + n(5, 4), "is not a shape"),
            (lambda m, n: b"\x08", "not the protobuf"),
        ],
    )
    def test_an_entry_that_lies(self, tmp_path, bundle_writer, tables, entry, match):
        arrays = {"x": np.ones(1, np.float32)}
        bundle_writer(tmp_path / "m", arrays, change=lambda name, _: entry(tables.message, tables.number))
        refused(tmp_path / "m", match)

    def test_tensors_that_share_bytes(self, tmp_path, bundle_writer):
        arrays = {name: np.ones(4, np.float32) for name in "ab"}
        first = {}
        bundle_writer(tmp_path / "m", arrays, change=lambda name, entry: first.setdefault("a", entry))
        refused(tmp_path / "m", "overlaps another tensor")

    @pytest.mark.parametrize(
        ("header", "match"),
        [
            (lambda n: n(1, 1) + n(2, 1), "big-endian"),
            (lambda n: n(1, 0), "says it has 0 data files"),
            (lambda n: n(1, 10**6), "says it has 1000000 data files"),
        ],
    )
    def test_a_header_that_lies(self, tmp_path, tables, header, match):
        tables.write(tmp_path / "m.index", [(b"", header(tables.number))], 1)
        refused(tmp_path / "m", match)

    def test_a_table_of_something_else(self, tmp_path, tables):
        tables.write(tmp_path / "m.index", [(b"key", b"value")], 1)
        refused(tmp_path / "m", "it has no header")

    @pytest.mark.parametrize(
        ("rows", "match"),
        [
            ([(b"", b"\x08\x01"), (b"b", b""), (b"a", b"")], "out of order"),
            ([(b"", b"\x08\x01"), (b"a", b""), (b"a", b"")], "out of order"),
            ([(b"", b"\x08\x01"), (b"a" * 5000, b"")], "a name of 5000 bytes"),
        ],
    )
    def test_names_that_no_table_has(self, tmp_path, tables, rows, match):
        tables.write(tmp_path / "m.index", rows, 9)
        refused(tmp_path / "m", match)

    @pytest.mark.parametrize("method", [2, 4])
    def test_blocks_packed_by_another_method(self, tmp_path, arrays, bundle_writer, method):
        bundle_writer(tmp_path / "m", arrays, pack=(method, bytes))
        refused(tmp_path / "m", f"packed by method {method}")


class TestDamage:
    def test_any_byte_that_flips_is_noticed(self, tmp_path, bundle_writer):
        arrays = {"net/a": np.arange(6, dtype=np.float32).reshape(2, 3), "net/b": np.arange(3, dtype=np.int64)}
        index = bundle_writer(tmp_path / "m", arrays, block=2)
        noticed = 0
        for file in (index, tmp_path / f"m.{DATA}"):
            good = file.read_bytes()
            for i in range(len(good)):
                for flip in (1 << i % 8, 0xFF):
                    bad = bytearray(good)
                    bad[i] ^= flip
                    file.write_bytes(bad)
                    try:
                        assert_same(read_bundle(tmp_path / "m", "m"), arrays)
                    except CheckpointError as error:
                        assert "\n" not in str(error)
                        noticed += 1
            file.write_bytes(good)
        # All but the padding of the last 48 bytes and the block on blocks, which nothing is read from.
        assert noticed > 2 * (index.stat().st_size + 48) * 0.6

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=200), st.binary(min_size=40, max_size=40))
    def test_bytes_that_end_as_a_table(self, tmp_path, content, handles):
        (tmp_path / "m.index").write_bytes(content + handles + sstable.MAGIC)
        refused(tmp_path / "m", "damaged checkpoint|no header")

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=60), st.binary(max_size=60))
    def test_entries_of_any_bytes(self, tmp_path, tables, header, entry):
        tables.write(tmp_path / "m", [(b"", header), (b"x", entry)], 1)
        try:
            assert set(read_bundle(tmp_path / "m", "m")) <= {"x"}
        except CheckpointError as error:
            assert "\n" not in str(error)


class TestSnappy:
    def test_copies_that_overlap_themselves(self):
        # Google's format description, 2.2: a run is a copy longer than its offset. Tags with 1, 2 and 4 bytes.
        assert unpack_snappy(b"\x0a\x04ab\x11\x02", 99) == b"ab" * 5
        assert unpack_snappy(b"\x0a\x00x\x22\x01\x00", 99) == b"x" * 10
        assert unpack_snappy(b"\x0a\x00x\x23\x01\x00\x00\x00", 99) == b"x" * 10

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff\xff\xff\xff\x0f\x00a",  # claims 4 GB
            b"\x05\x10abc",  # cut off in a literal
            b"\x05\x00a\x0d",  # cut off in a copy
            b"\x05\x00a\x0d\x02",  # refers to before the beginning
            b"\x05\x00a\x0d\x00",  # refers to itself
            b"\x02\x00a",  # gives less than it says
            b"\x01\x04ab",  # gives more
            b"\x03\xfc\xff\xff\xff\xffabc",  # literal of 4 GB
        ],
    )
    def test_what_is_damaged_or_hostile(self, data):
        with pytest.raises(ValueError, match="packed"):
            unpack_snappy(data, 10**6)

    def test_a_bomb_is_refused_before_it_is_unpacked(self):
        packed = pack_snappy(bytes(10**6))
        assert len(packed) < 50_000
        with pytest.raises(ValueError, match="claim to be 1000000"):
            unpack_snappy(packed, 10**6 - 1)


class TestVersion1:
    def rows(self, tables, arrays, meta=lambda name: b"", slices=lambda name: b""):
        message, number = tables.message, tables.number
        fields = {"float32": (1, 5), "float64": (2, 6), "int64": (9, 10)}
        told, rows = b"", []
        for name in sorted(arrays):
            array = arrays[name]
            kind, field = fields[array.dtype.name]
            shape = b"".join(message(2, number(1, n)) for n in array.shape)
            told += message(1, message(1, name.encode()) + message(2, shape) + number(3, kind) + meta(name))
            packed = array.tobytes()
            if kind == 9:
                packed = b"".join(number(1, n)[1:] for n in array.ravel().tolist())
            saved = (
                message(1, name.encode())
                + message(2, slices(name))
                + message(3, number(1, kind) + message(field, packed))
            )
            rows.append((b"\1" + name.encode(), message(2, saved)))
        return [(b"", message(1, told)), *rows]

    @pytest.fixture
    def arrays(self):
        rng = np.random.default_rng(1)
        return {
            "net/weights": rng.normal(size=(3, 3, 2, 4)).astype(np.float32),
            "net/wide": rng.normal(size=3),
            "global_step": np.array(7, np.int64),
        }

    @pytest.mark.parametrize("packed", [False, True])
    def test_round_trip(self, tmp_path, tables, arrays, packed):
        pack = (1, pack_snappy) if packed else None
        tables.write(tmp_path / "vgg_16.ckpt", self.rows(tables, arrays), 2, pack)
        assert is_bundle(tmp_path / "vgg_16.ckpt")
        assert_same(read_bundle(tmp_path / "vgg_16.ckpt", "vgg_16.ckpt"), arrays)

    def test_parts_are_refused(self, tmp_path, tables, arrays):
        message, number = tables.message, tables.number
        part = message(1, number(1, 0) + number(2, 1))
        for kwargs in ({"slices": lambda name: part}, {"meta": lambda name: message(4, part) * 2}):
            tables.write(tmp_path / "m", self.rows(tables, arrays, **kwargs), 9)
            refused(tmp_path / "m", "saved in parts")

    def test_values_that_are_missing_or_too_few(self, tmp_path, tables, arrays):
        rows = self.rows(tables, arrays)
        tables.write(tmp_path / "m", rows[:-1], 9)
        refused(tmp_path / "m", "values missing for net/wide|values missing for net/weights")
        fewer = dict(arrays, **{"net/weights": arrays["net/weights"][:2]})
        tables.write(tmp_path / "m", rows[:1] + self.rows(tables, fewer)[1:], 9)
        refused(tmp_path / "m", "net/weights has 48 values for shape")


def pack_snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))
