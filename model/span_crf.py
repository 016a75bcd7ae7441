"""A linear-chain conditional random field over words: CRFsuite trains it, arrays and numpy serve it.

A word is outside, the first of a span of some label, or one that goes on with it. Serving does not need CRFsuite: what
it learnt is read out once, and the sums over all ways to tag a text, which say how sure a span is, are done here for
many texts at once.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.floating]

# Found by cross-validation on WNUT-17's training sentences.
_L1, _L2, _ITERATIONS = 0.1, 0.01, 60
_LARGEST_BATCH = 2_000_000
_TEXTS_IN_A_BATCH = 256
_OUTSIDE = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Words ``first`` up to, not including, ``last`` are a span with that ``label``; ``sure`` is its probability."""

    first: int
    last: int
    label: str
    sure: float


@dataclass(frozen=True, slots=True)
class Field:
    """``weights`` (features x states) and ``steps`` (states x states, -inf for what cannot follow).

    State 0 is outside; label number k has the states 2k + 1 (the first word) and 2k + 2 (goes on).
    ``bold`` is taken off every word's score for outside; ``slope`` and ``shift`` correct the odds that a span is right.
    """

    labels: tuple[str, ...]
    weights: Floats
    steps: Floats
    bold: float = 0.0
    slope: float = 1.0
    shift: float = 0.0

    def find(self, texts: Sequence[Sequence[Ints]], kept: frozenset[str]) -> list[tuple[list[Found], float]]:
        """For each text, given as the features of its words, its most likely spans of the ``kept`` labels; a margin.

        The margin is the difference in probability between the best two states of the least clear word, 0 to 1.
        """
        steps = np.where(self._usable(kept)[None, :], self.steps.astype(np.float64), -np.inf)
        answers: list[tuple[list[Found], float]] = [([], 1.0)] * len(texts)
        for batch in _batches([len(words) for words in texts], len(steps)):
            lengths = np.array([len(texts[place]) for place in batch])
            emissions = self._emissions([texts[place] for place in batch], lengths)
            for place, answer in zip(batch, self._found(emissions, lengths, steps), strict=True):
                answers[place] = answer
        return answers

    def calibrated(self, sure: float) -> float:
        """The probability that a span is right, of the one that the field has for it."""
        odds = np.log(max(sure, 1e-9)) - np.log(max(1 - sure, 1e-9))
        return round(float((np.tanh((self.slope * odds + self.shift) / 2) + 1) / 2), 6)

    def _usable(self, kept: frozenset[str]) -> NDArray[np.bool_]:
        return np.array([True, *(label in kept for label in self.labels for _ in range(2))])

    def _emissions(self, texts: list[Sequence[Ints]], lengths: Ints) -> NDArray[np.float64]:
        """(texts x words x states); what is behind the end of a text is zero."""
        words = [word for text in texts for word in text]
        bounds = np.append(0, np.cumsum([len(word) for word in words]))
        ones = np.ones(bounds[-1], np.float32)
        columns = np.concatenate(words)
        rows = sparse.csr_array((ones, columns, bounds), shape=(len(words), len(self.weights))) @ self.weights
        rows[:, _OUTSIDE] -= self.bold
        emissions = np.zeros((len(texts), lengths.max(), len(self.steps)))
        emissions[np.arange(lengths.max())[None, :] < lengths[:, None]] = rows
        return emissions

    def _found(
        self, emissions: NDArray[np.float64], lengths: Ints, steps: NDArray[np.float64]
    ) -> Iterator[tuple[list[Found], float]]:
        texts, longest, states = emissions.shape
        here, last = np.exp(emissions - emissions.max(axis=2, keepdims=True)), lengths - 1
        onward = np.exp(steps - steps[np.isfinite(steps)].max())
        first = np.isfinite(steps[_OUTSIDE])
        ahead, behind = np.zeros_like(here), np.ones_like(here)
        scale = np.ones((texts, longest))
        best = np.where(first, emissions[:, 0], -np.inf)
        came = np.zeros(here.shape, np.int64)
        for at in range(longest):
            ahead[:, at] = here[:, at] * (ahead[:, at - 1] @ onward if at else first)
            scale[:, at] = ahead[:, at].sum(axis=1)
            ahead[:, at] /= scale[:, at, None]
            if at:
                ways = best[:, :, None] + steps
                came[:, at] = ways.argmax(axis=1)
                reached = ways.max(axis=1) + emissions[:, at]
                best = np.where((at <= last)[:, None], reached, best)
        for at in range(longest - 2, -1, -1):
            reached = (here[:, at + 1] * behind[:, at + 1]) @ onward.T / scale[:, at + 1, None]
            behind[:, at] = np.where((at < last)[:, None], reached, 1)
        for text in range(texts):
            state, path = int(best[text].argmax()), np.zeros(lengths[text], np.int64)
            for at in range(int(last[text]), -1, -1):
                path[at] = state
                state = int(came[text, at, state])
            likely = np.partition(ahead[text, : len(path)] * behind[text, : len(path)], states - 2, axis=1)
            margin = float((likely[:, -1] - likely[:, -2]).min())
            # For a span: how likely it is to step on from word to word, and then to end.
            forth = here[text] / scale[text, :, None]
            spans = []
            for start, end in _runs(path):
                opening, going = int(path[start]), int(path[start]) + 1
                sure = ahead[text, start, opening]
                for at in range(start + 1, end):
                    sure *= onward[path[at - 1], going] * forth[at, going]
                if end < len(path):
                    ends = onward[path[end - 1]] * forth[end] * behind[text, end]
                    sure *= ends.sum() - ends[going]
                label = self.labels[(opening - 1) // 2]
                spans.append(Found(start, end, label, self.calibrated(min(float(sure), 1.0))))
            yield spans, round(min(max(margin, 0.0), 1.0), 6)


def states_of(length: int, spans: Sequence[tuple[int, int, int]]) -> list[int]:
    """The state of each of ``length`` words; spans are first and last word (exclusive) and the label's number."""
    states = [_OUTSIDE] * length
    for first, last, label in spans:
        states[first:last] = [2 * label + 1] + [2 * label + 2] * (last - first - 1)
    return states


def learn(
    texts: Sequence[Sequence[Ints]],
    states: Sequence[list[int]],
    labels: tuple[str, ...],
    width: int,
    progress: Callable[[float], None],
) -> Field:
    """The field that fits these texts; ``width`` is the number of features. What ``progress`` raises ends it."""
    # Late: serving does without.
    import pycrfsuite  # noqa: PLC0415

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", params={"c1": _L1, "c2": _L2, "max_iterations": _ITERATIONS})
    done = iter(range(1, _ITERATIONS + 2))

    def message(text: str) -> None:
        if "Iteration" in text:
            progress(min(next(done, _ITERATIONS) / _ITERATIONS, 1.0))

    trainer.message = message
    # Names of features could hold what CRFsuite's text dump does not bear: it gets their numbers.
    for words, given in zip(texts, states, strict=True):
        if len(words):
            trainer.append([list(map(str, word.tolist())) for word in words], list(map(str, given)))
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "field.crfsuite")
        trainer.train(file)
        tagger = pycrfsuite.Tagger()
        tagger.open(file)
        learnt: Any = tagger.info()
        tagger.close()
    size = 2 * len(labels) + 1
    weights, steps = np.zeros((width, size), np.float32), np.full((size, size), -np.inf, np.float32)
    seen = sorted({state for given in states for state in given} | {_OUTSIDE})
    for before in seen:
        for after in seen:
            goes_on = after != _OUTSIDE and after % 2 == 0
            if not goes_on or before in {after, after - 1}:
                steps[before, after] = learnt.transitions.get((str(before), str(after)), 0.0)
    for (feature, state), weight in learnt.state_features.items():
        weights[int(feature), int(state)] = weight
    return Field(labels, weights, steps)


def _runs(path: Ints) -> Iterator[tuple[int, int]]:
    """The spans in a path of states, from their first word up to, not including, the one behind them."""
    start = 0
    while start < len(path):
        end = start + 1
        if path[start] != _OUTSIDE:
            while end < len(path) and path[end] == path[start] + 1:
                end += 1
            yield start, end
        start = end


def _batches(lengths: Sequence[int], states: int) -> Iterator[list[int]]:
    """Places of texts of about one length, none of them empty, as many as memory takes at once."""
    batch: list[int] = []
    for place in sorted((place for place, length in enumerate(lengths) if length), key=lengths.__getitem__):
        room = lengths[place] * states * (states if states > 64 else 1)
        if batch and (len(batch) >= _TEXTS_IN_A_BATCH or (len(batch) + 1) * room > _LARGEST_BATCH):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
