"""The words of a text as the places where they stand: every character that is not space belongs to exactly one.

Places are counted in code points, as Python does. So does Label Studio since it draws with ``[...text]``: checked in a
browser, where a word behind an emoji, an accent or a Windows line end was stored with Python's own offsets. Older
releases counted UTF-16 units; `as_code_points` reads these too, wherever the region holds its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Marks that `\w` leaves out (accents, vowel signs, joiners, variation selectors, skin tones) stay with what they mark.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0903\u093a-\u094f\u0962\u0963\u0981-\u0983\u09bc-\u09d7\u0a01-\u0a51\u0abc-\u0acd\u0b3c-\u0b57\u0bbe-\u0bcd"
    "\u0c3e-\u0c56\u0cbc-\u0cd6\u0d3e-\u0d4d\u0dca-\u0ddf\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
    "\u0f71-\u0f84\u102b-\u103e\u17b4-\u17d3\u1ab0-\u1aff\u1dc0-\u1dff\u200c\u200d\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f"
    "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
)
# Scripts that write no space between words (Thai, Lao, Burmese, Khmer, kana, Chinese): a word is a character there.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED += "\uff66-\uff9f\U00020000-\U0003ffff"
# Joined emoji are one sign; a word goes on over marks; whatever else is not space stands alone with its marks.
_words = re.compile(
    rf"[^\W{_UNSPACED}](?:[{_MARKS}]|[^\W{_UNSPACED}])*"
    rf"|[^\s\w](?:[{_MARKS}]*\u200d[^\s\w{_MARKS}])*[{_MARKS}]*"
    rf"|\S[{_MARKS}]*"
).finditer


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` up to, not including, ``end``, in code points, and what they are."""

    start: int
    end: int
    label: str


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each word, in order."""
    return [found.span() for found in _words(text)]


def as_code_points(text: str, start: int, end: int, quoted: str | None) -> tuple[int, int] | None:
    """The place in code points of a region that says where it is and, perhaps, its text; None when it lies nowhere.

    Offsets that do not lead to what the region quotes are taken for UTF-16 units when these do.
    """
    place = (start, end) if 0 <= start < end <= len(text) else None
    if quoted is None or (place is not None and text[start:end] == quoted):
        return place
    older = _counted(text, start), _counted(text, end)
    return older if start >= 0 and text[slice(*older)] == quoted != "" else place


def _counted(text: str, units: int) -> int:
    """How many characters the first UTF-16 ``units`` of a text are."""
    passed = 0
    for at, character in enumerate(text):
        if passed >= units:
            return at
        passed += 2 if character > "\uffff" else 1
    return len(text)


def without_overlaps(spans: Sequence[Span]) -> list[Span]:
    """The spans that a sequence of words can hold, in order: of those that overlap the longest, then the first."""
    kept: list[Span] = []
    for one in sorted(set(spans), key=lambda span: (span.start - span.end, span.start, span.label)):
        if all(one.end <= other.start or other.end <= one.start for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda span: span.start)


def on_words(span: Span, words: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The words that a span means, as a range of their numbers: those that it covers by half or more.

    A span inside a single word means that word; one that touches none is None.
    """
    covered = [
        (number, min(span.end, end) - max(span.start, start), end - start)
        for number, (start, end) in enumerate(words)
        if start < span.end and span.start < end
    ]
    halves = [number for number, shared, size in covered if 2 * shared >= size]
    if not halves:
        return (best := max(covered, key=lambda one: one[1])[0], best + 1) if covered else None
    return halves[0], halves[-1] + 1
