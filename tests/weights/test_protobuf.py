from __future__ import annotations

import numpy as np
import pytest

from singleshot.errors import CheckpointError
from singleshot.weights.readers.protobuf import MAX_DEPTH, messages, parse_binary, parse_text

TABLE = {
    "Colour": {"RED": 0, "BLUE": 1},
    "Mood": {"CALM": 0, "BLUE": 7},  # the same word in another enumeration
    "Thing": [
        ("name", 1, "string", "optional"),
        ("values", 5, "float", "packed"),
        ("sizes", 6, "int64", "packed"),
        ("inner", 20, "Thing", "repeated"),
        ("colour", 21, "Colour", "optional", "BLUE"),
        ("mood", 22, "Mood", "optional"),
        ("on", 23, "bool", "optional", True),
        ("part", 24, "float", "optional", 0.25),
    ],
}


@pytest.fixture(scope="module")
def thing():
    return messages("test.things", TABLE)["Thing"]


def test_defaults_and_what_is_written_come_back(thing):
    empty = thing()
    assert (empty.name, empty.colour, empty.mood, empty.on, empty.part) == ("", 1, 0, True, 0.25)
    assert not empty.HasField("part")
    given = thing(name="a", values=[1.5, -2], inner=[{"name": "b", "mood": 7, "on": False}])
    assert parse_binary(thing, given.SerializeToString(), "here") == given
    text = 'name: "a" values: [1.5, -2] more { of: THIS } # } \n inner < name: "b" mood: BLUE on: false what: 3 >'
    assert parse_text(thing, text, "here") == given


def test_two_packages_do_not_know_each_other(thing):
    other = messages("test.things", {"Thing": [("name", 2, "string", "optional")]})["Thing"]
    assert other(name="a").SerializeToString() != thing(name="a").SerializeToString()


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_numbers_one_by_one_are_read_as_packed_ones(count, thing, tables):
    values = np.arange(count, dtype="<f4")
    single = b"".join(b"\x2d" + value.tobytes() for value in values)
    for data in (single, tables.message(5, values.tobytes()), single + tables.message(1, b"x")):
        assert np.array_equal(np.array(parse_binary(thing, data, "here").values), values)
    with pytest.raises(CheckpointError, match="cut off"):
        parse_binary(thing, single[:-1], "here")


def test_what_is_not_the_message_is_refused(thing, tables):
    nested = b""
    for _ in range(MAX_DEPTH + 2):
        nested = tables.message(20, nested)
    for data, match in (
        (b"\x0b", "not the protobuf it should be"),  # a group
        (b"\x00\x01", "not the protobuf it should be"),  # field 0
        (b"\x0a\x05ab", "cut off"),
        (b"\xff" * 20, "not the protobuf it should be"),
        (tables.message(1, b"\xff\xfe"), "name is not text"),
        (tables.message(6, b"\xff"), "not the protobuf it should be"),
        (nested, "messages in each other"),
        (tables.message(6, bytes(2_000_001)), "more than 2000000 fields"),
    ):
        with pytest.raises(CheckpointError, match=match) as caught:
            parse_binary(thing, data, "here")
        assert str(caught.value).startswith("here: ")
