"""Texts as sparse rows: words, pairs of neighbouring words and runs of 1 to 3 characters, weighed by tf-idf.

The same kind of features as scikit-learn's ``TfidfVectorizer`` makes with ``analyzer="word"`` and ``"char_wb"``, five
times faster: runs of characters never leave their word, so they are found once for each *distinct* word, and a sparse
product (texts x words) @ (words x runs) counts them for all texts at once.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.floating]

# ``\w`` knows no combining marks: without the ranges (accents, Hebrew and Arabic points, the Indic scripts, Thai, Lao,
# Tibetan, Burmese, Khmer, joiners) every vowel sign would cut its word in two. Signs and emoji stand alone.
_IN_WORD = r"\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u109f\u1780-\u17ff\u200c\u200d"
_tokens = re.compile(rf"[{_IN_WORD}]+(?:['\u2019][{_IN_WORD}]+)*|[^\s{_IN_WORD}]").findall

_LONGEST_TEXT = 50_000
_MOST_OF_A_KIND = 150_000
# Weights while training, 8 bytes each.
_MOST_WEIGHTS = 50_000_000
_PLENTY = 2_000
# Runs of characters outnumber words by seven to one, and misspellings need them; found by cross-validation.
_WORDS_WEIGH = 0.7


@dataclass(frozen=True, slots=True)
class _Read:
    """Texts cut into tokens: ``tokens`` are places in ``words``, ``sizes`` how many tokens each text has."""

    words: list[str]
    tokens: Ints
    sizes: Ints


@dataclass(slots=True)
class NGrams:
    """The vocabulary. Columns are words, then pairs, then runs; ``idf`` has one value for each.

    A pair is kept as ``first * len(words) + second``, sorted, so that no dictionary of strings is needed for them.
    """

    words: dict[str, int] = field(default_factory=dict)
    pairs: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    runs: dict[str, int] = field(default_factory=dict)
    idf: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self.words) + len(self.pairs) + len(self.runs)

    def fit(self, texts: Sequence[str], labels: int = 1) -> sparse.csr_array:
        """Learn the vocabulary of ``texts`` and return their counts (texts x columns), not yet weighed.

        The more ``labels`` are to be told apart, the fewer columns there may be; those that occur the most stay.
        """
        read = _read(texts)
        most = min(_MOST_OF_A_KIND, _MOST_WEIGHTS // (3 * labels))
        self.words = _names(read.words, read.tokens, most)
        runs, _ = _runs(read.words)
        distinct = _distinct(runs)
        self.runs = _names(distinct, _numbers(distinct, runs), most)
        pairs = self._neighbours(read)
        found, often = np.unique(pairs[pairs >= 0], return_counts=True)
        # With many examples a pair that occurred once is rarely met again, and such pairs are half of the model.
        self.pairs = found[_kept(often, most, at_least=2 if len(texts) >= _PLENTY else 1)]
        counts = self._counts(read)
        self.idf = inverse_document_frequency(counts).astype(np.float32)
        return counts

    def transform(self, texts: Sequence[str]) -> sparse.csr_array:
        """The weighed rows of ``texts``; a text's row is the same alone as among others, to the last bit."""
        counts = self._counts_of_one(texts[0]) if len(texts) == 1 else self._counts(_read(texts))
        return self.weigh(counts, self.idf)

    def weigh(self, counts: sparse.csr_array, idf: Floats) -> sparse.csr_array:
        """Damped tf-idf of ``counts``, in the type of ``idf``.

        In each row words and pairs together have one length, and runs another. Columns whose ``idf`` is 0 count for
        nothing, the length included.
        """
        values = (1 + np.log(counts.data)) * idf[counts.indices]
        part = np.repeat(np.arange(0, 2 * counts.shape[0], 2), np.diff(counts.indptr))
        part += counts.indices >= len(self.words) + len(self.pairs)
        length = np.sqrt(np.bincount(part, values * values, minlength=2 * counts.shape[0]))
        length[length == 0] = 1
        length[0::2] /= _WORDS_WEIGH
        weighed = copy.copy(counts)
        weighed.data = (values / length[part]).astype(idf.dtype)
        return weighed

    def _neighbours(self, read: _Read) -> Ints:
        """For each token the pair it makes with the next one; -1 at the end of a text and where one is not known."""
        known = np.append(_numbers(self.words, read.words)[read.tokens], -1)
        known_next = known[1:].copy()
        ends = np.cumsum(read.sizes)
        known_next[ends[ends > 0] - 1] = -1
        known = known[:-1]
        return np.where((known >= 0) & (known_next >= 0), known * len(self.words) + known_next, -1)

    def _counts(self, read: _Read) -> sparse.csr_array:
        """One product counts everything.

        In the right factor each distinct word has a row with itself and its runs, each distinct pair one with itself;
        in the left one, in the row of a text, its tokens and their pairs take turns.
        """
        runs, sizes = _runs(read.words)
        columns = _numbers(self.runs, runs)
        columns[columns >= 0] += len(self.words) + len(self.pairs)
        pairs, which = np.unique(self._neighbours(read), return_inverse=True)
        columns = np.insert(columns, np.cumsum(sizes), _numbers(self.words, read.words))
        turns = np.empty(2 * len(read.tokens), np.int64)
        turns[0::2] = read.tokens
        turns[1::2] = which + len(read.words)
        heights = np.append(sizes + 1, np.ones(len(pairs), np.int64))
        right = _rows(np.append(columns, self._pair_columns(pairs)), heights, self.width)
        product = _rows(turns, 2 * read.sizes, len(heights)) @ right
        # Sums depend on the order of what is added: it must not depend on what other texts there are.
        product.sort_indices()
        return product

    def _counts_of_one(self, text: str) -> sparse.csr_array:
        """The same for one text: who waits for a single prediction would wait for the product's workspace mostly."""
        tokens = _cut(text)
        known, runs = _numbers(self.words, tokens), _numbers(self.runs, _runs(tokens)[0])
        pairs = (known[:-1] * len(self.words) + known[1:])[(known[:-1] >= 0) & (known[1:] >= 0)]
        runs[runs >= 0] += len(self.words) + len(self.pairs)
        columns = np.concatenate([known, self._pair_columns(pairs), runs])
        found, often = np.unique(columns[columns >= 0], return_counts=True)
        bounds = np.array([0, len(found)], np.int32)
        return sparse.csr_array((often.astype(np.float32), found.astype(np.int32), bounds), shape=(1, self.width))

    def _pair_columns(self, pairs: Ints) -> Ints:
        """The column of each pair; -1 for one that is not known."""
        if not len(self.pairs):
            return np.full(len(pairs), -1)
        at = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        return np.where(self.pairs[at] == pairs, at + len(self.words), -1)


def inverse_document_frequency(counts: sparse.csr_array) -> NDArray[np.float64]:
    """The smoothed idf of each column; 0 for a column that no text has."""
    having = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.where(having > 0, np.log((1 + counts.shape[0]) / (1 + having)) + 1, 0.0)


def _read(texts: Sequence[str]) -> _Read:
    found = [_cut(text) for text in texts]
    tokens = list(chain.from_iterable(found))
    words = _distinct(tokens)
    return _Read(list(words), _numbers(words, tokens), np.fromiter(map(len, found), np.int64, len(found)))


def _cut(text: str) -> list[str]:
    return _tokens(unicodedata.normalize("NFKC", text[:_LONGEST_TEXT]).lower())


def _runs(words: Sequence[str]) -> tuple[list[str], Ints]:
    """All runs of 1 to 3 characters in all words, whose edges are spaces; and how many each word has."""
    runs: list[str] = []
    for word in words:
        edged = f" {word} "
        runs += word
        runs += [edged[at : at + 2] for at in range(len(word) + 1)]
        runs += [edged[at : at + 3] for at in range(len(word))]
    return runs, np.fromiter((3 * len(word) + 1 for word in words), np.int64, len(words))


def _distinct(names: Sequence[str]) -> dict[str, int]:
    """The different names, numbered in the order in which they come."""
    return dict(zip(dict.fromkeys(names), count(), strict=False))


def _numbers(known: dict[str, int], names: Sequence[str]) -> Ints:
    """The number of each name, -1 for a name that is not known."""
    return np.fromiter(map(known.get, names, repeat(-1)), np.int64, len(names))


def _rows(columns: Ints, heights: Ints, width: int) -> sparse.csr_array:
    """A matrix of ones: ``heights`` cuts ``columns`` into rows; columns below zero are left out."""
    known = columns >= 0
    before = np.append(0, np.cumsum(known))
    bounds = before[np.append(0, np.cumsum(heights))].astype(np.int32)
    kept = columns[known].astype(np.int32)
    return sparse.csr_array((np.ones(len(kept), np.float32), kept, bounds), shape=(len(heights), width))


def _names(names: Sequence[str] | dict[str, int], seen: Ints, most: int) -> dict[str, int]:
    """A vocabulary of the names whose numbers were ``seen``, at ``most`` so many."""
    kept = set(_kept(np.bincount(seen, minlength=len(names)), most, at_least=1).tolist())
    return {name: place for place, name in enumerate(name for number, name in enumerate(names) if number in kept)}


def _kept(often: Ints, most: int, *, at_least: int) -> Ints:
    """Places of what occurred often enough, the most frequent ones if they are too many; ascending."""
    kept = np.flatnonzero(often >= at_least)
    if len(kept) > most:
        kept = np.sort(kept[np.argsort(-often[kept], kind="stable")[:most]])
    return kept
