"""Answers as they come over HTTP, unpacked in small parts: a small part may hold a thousand times as much."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PART = 1 << 20
"""Bytes that are unpacked at a time."""


class WronglyPacked(ValueError):
    """It cannot be unpacked. ``cut``: what is there is right, but its end is missing."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        self.cut = cut
        super().__init__(reason)


def unpacked(parts: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """What ``parts`` hold, in parts of which none is much above a megabyte.

    ``encoding`` is the header ``Content-Encoding``: gzip, or none. Raises `WronglyPacked`, for all others too: those
    are asked for by nobody here.
    """
    encoding = encoding.strip().lower()
    if encoding in {"identity", ""}:
        yield from parts
        return
    if encoding not in {"gzip", "x-gzip"}:
        raise WronglyPacked(f"compressed with {encoding[:40]}")
    unpacking = _gzip()
    try:
        begun = False
        for part in parts:
            left = part
            while left:
                begun = True
                if unpacking.eof:
                    # Gzip may have several parts. What follows an end is kept by the object that has come to it.
                    unpacking = _gzip()
                yield unpacking.decompress(left, _PART)
                left = unpacking.unconsumed_tail or unpacking.unused_data
        if not begun:
            return  # an answer without a body may have the header all the same
        yield unpacking.flush(_PART)
    except zlib.error as error:
        raise WronglyPacked(f"its gzip is broken: {error}") from None
    if not unpacking.eof:
        raise WronglyPacked("its gzip is cut short", cut=True)


def _gzip() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)
