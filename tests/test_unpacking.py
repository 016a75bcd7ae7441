"""Packed answers: unpacked in small parts, to their end and no further, whatever comes behind it."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from ml_backend.unpacking import WronglyPacked, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_gzip_of_several_parts_is_unpacked_whole(size: int) -> None:
    data = gzip.compress(b"one, ") + gzip.compress(b"") + gzip.compress(b"two" * 1000)
    assert b"".join(unpacked(in_pieces(data, size), "gzip")) == b"one, " + b"two" * 1000


def test_gzip_whose_last_part_is_cut_short_is_refused() -> None:
    data = gzip.compress(b"one") + gzip.compress(b"two")[:-4]
    with pytest.raises(WronglyPacked, match="cut short") as refused:
        list(unpacked([data], "gzip"))
    assert refused.value.cut


def test_what_comes_without_end_behind_the_end_of_gzip_is_not_read_on_and_on() -> None:
    came = 0

    def without_end() -> Iterator[bytes]:
        nonlocal came
        yield gzip.compress(b"one")
        while came < 1000:
            came += 1
            yield b"junk" * 1000

    with pytest.raises(WronglyPacked, match="broken"):
        list(unpacked(without_end(), "gzip"))
    assert came == 1
