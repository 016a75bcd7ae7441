"""What the tagger sees of each word of a text: its form and its neighbours', as the numbers of features that are known.

Everything comes from the text and from the training texts; there are no lists of names. A word's own features depend on
its letters alone, so they are made once for each distinct word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from model.words import words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

Row = list[str]

_squeeze = re.compile(r"(.)\1+").sub
_CACHED = 200_000
_COMMON = 2
_MANY = 5_000


@dataclass(slots=True)
class Features:
    """The features that are known, numbered, and the words that were seen in small letters."""

    numbers: dict[str, int] = field(default_factory=dict)
    small: frozenset[str] = frozenset()
    _forms: dict[str, tuple[Row, Row]] = field(default_factory=dict, repr=False)

    def fit(self, texts: Sequence[str]) -> list[list[Row]]:
        """Learn which features there are; returns each text's rows, for `known`.

        With many words those met once are left out: they are most of all features, and nothing new has them.
        """
        words = Counter(text[start:end] for text in texts for start, end in words_of(text))
        self.small = frozenset(word for word, often in words.items() if often >= _COMMON and word.islower())
        rows = [self.rows(text) for text in texts]
        self.number(rows)
        return rows

    def number(self, texts: Sequence[Sequence[Row]]) -> None:
        """Let the features of these rows be the known ones."""
        often = Counter(chain.from_iterable(chain.from_iterable(texts)))
        at_least = 2 if sum(map(len, texts)) > _MANY else 1
        self.numbers = {name: place for place, name in enumerate(name for name, n in often.items() if n >= at_least)}

    def without(self, useless: NDArray[np.bool_]) -> Features:
        """The same without some features, numbered anew."""
        names = [name for name, number in self.numbers.items() if not useless[number]]
        return Features({name: number for number, name in enumerate(names)}, self.small)

    def known(self, rows: Iterable[Row]) -> list[Ints]:
        """The numbers of the known features of each word."""
        get = self.numbers.get
        return [np.array([number for name in row if (number := get(name)) is not None], np.int64) for row in rows]

    def rows(self, text: str) -> list[Row]:
        """The features of each word of a text, by name."""
        places = words_of(text)
        forms = [self._form(text[start:end]) for start, end in places]
        low = [form[0][0] for form in forms]
        glued = [before[1] == after[0] for before, after in pairwise(places)]
        shouting = sum(text[start:end].istitle() for start, end in places) * 2 > len(places) > 3
        rows = []
        for at, (own, _) in enumerate(forms):
            row = ["", *own]
            for step in (-2, -1, 1, 2):
                near = at + step
                if 0 <= near < len(forms):
                    seen = forms[near][1] if abs(step) == 1 else forms[near][1][:1]
                    row += [f"{step}{name}" for name in seen]
                else:
                    row.append(f"{step}end")
            before, after = low[at - 1] if at else "", low[at + 1] if at + 1 < len(low) else ""
            row += [f"{before} {low[at]}", f"{low[at]} {after}>", f"{before} {after}|"]
            if at and glued[at - 1]:
                row += ["glued", f"glued {before}"]
            if at < len(glued) and glued[at]:
                row += ["glues", f"glues {after}"]
            if at and "\n" in text[places[at - 1][1] : places[at][0]]:
                row.append("line")
            if shouting:
                row.append(f"loud {own[1]}")
            rows.append(row)
        return rows

    def _form(self, word: str) -> tuple[Row, Row]:
        """A word's own features, the first its form in small letters; and those that its neighbours see."""
        found = self._forms.get(word)
        if found is None:
            if len(self._forms) >= _CACHED:
                self._forms.clear()
            found = self._forms[word] = self._made(word)
        return found

    def _made(self, word: str) -> tuple[Row, Row]:
        # A lone surrogate is no character, and no file of names can hold it.
        plain = unicodedata.normalize("NFKC", word[:100]).encode("utf-8", "replace").decode()
        low = plain.lower()
        shape = "".join(map(_kind, plain))
        short = _squeeze(r"\1", shape)
        own = [f"w{low}", f"s{short}", f"S{shape[:8]}{len(shape[:8])}"]
        own += [f"p{low[:size]}" for size in range(1, min(5, len(low) + 1))]
        own += [f"e{low[-size:]}" for size in range(1, min(5, len(low) + 1))]
        own += sorted({f"c{piece[at : at + 3]}" for piece in (f"<{low}>",) for at in range(len(piece) - 2)})
        if plain[:1].isupper():
            own.append("known" if low in self.small else "new")
        return own, [own[0], own[1], f"e{low[-3:]}", f"p{low[:3]}"]


def _kind(character: str) -> str:
    if character.isupper():
        return "X"
    if character.isdigit():
        return "0"
    return "x" if character.isalpha() else character
