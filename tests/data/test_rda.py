"""R's files without R: a file written here byte by byte, as R Internals describes the format."""

import struct

import numpy as np
import pytest

from methods.data.rda import read_frames

ATTRIBUTES = 0x200
TAG = 0x400


def word(*values):
    return struct.pack(f">{len(values)}i", *values)


def text(value):
    body = value.encode()
    return word(9, len(body)) + body


def symbol(name):
    return word(1) + text(name)


def strings(*values):
    missing = word(9, -1)
    return word(16, len(values)) + b"".join(missing if v is None else text(v) for v in values)


def pairs(*rows):
    return b"".join(word(2 | TAG) + tag + value for tag, value in rows) + word(254)


def rda(version=2):
    """A frame of a number with a missing value, a factor, a run of integers and words."""
    real = word(14, 3) + struct.pack(">3d", 1.5, float("nan"), -2.0)
    levels = pairs(
        (symbol("levels"), strings("low", "high")), (symbol("names"), strings("p", "q", "r"))
    )
    names = word(255 | 3 << 8)  # after "frame" and "levels" the third symbol of the file
    factor = word(13 | ATTRIBUTES) + word(3, 2, 1, -(2**31)) + levels
    information = word(2) + symbol("compact_intseq") + word(254)
    state = word(14, 3) + struct.pack(">3d", 3, 10, 1)
    run = word(238) + information + state + word(254)
    columns = word(19 | ATTRIBUTES, 4) + real + factor + run + strings("a", None, "é")
    pointer = word(22) + word(254) + word(254)
    columns += pairs((names, strings("x", "f", "i", "s")), (symbol(".internal.selfref"), pointer))
    head = f"RDX{version}\nX\n".encode() + word(version, 0x040201, 0x020300)
    head += word(5) + b"UTF-8" if version == 3 else b""
    return head + pairs((symbol("frame"), columns))


@pytest.mark.parametrize("version", [2, 3])
def test_a_frame_of_every_kind_of_column(version):
    frame = read_frames(rda(version))["frame"]
    assert list(frame) == ["x", "f", "i", "s"]
    np.testing.assert_array_equal(frame["x"], [1.5, np.nan, -2.0])
    assert frame["f"] == ["high", "low", None]
    np.testing.assert_array_equal(frame["i"], [10, 11, 12])
    assert frame["s"] == ["a", None, "é"]


def test_every_truncation_is_an_error_and_never_a_shorter_frame():
    whole = rda()
    for size in range(len(whole)):
        with pytest.raises(ValueError, match=r"rda|frame"):
            read_frames(whole[:size])


def test_what_is_no_frame_is_refused():
    head = b"RDX2\nX\n" + word(2, 0, 0)
    with pytest.raises(ValueError, match="not a data frame"):
        read_frames(head + pairs((symbol("x"), strings("a"))))
    with pytest.raises(ValueError, match="type 3 are not read"):
        read_frames(head + pairs((symbol("x"), word(3))))  # a closure
    with pytest.raises(ValueError, match=r"not an \.rda file"):
        read_frames(b"RDA2\nA\n")
