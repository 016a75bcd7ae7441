"""Learns the spans of one control: the features, the field, and how far its confidence is to be believed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from model.span_crf import Field, learn, states_of
from model.span_features import Features
from model.words import Span, on_words, without_overlaps, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from model.span_crf import Found
    from model.span_features import Row

    Floats = NDArray[np.floating]

_FOLDS = 5
# Left out more than once only while that is cheap: a second training takes as long as the first.
_LEFT_OUT_AT_LEAST = 100
# Where most words are outside a field says too little: as bold as found the most among texts that were left out.
_BOLD = (0.0, 0.5, 1.0, 1.5)
_SPANS_TO_BE_BOLD = 50


@dataclass(slots=True)
class Labelled:
    """Texts with their spans, as words and states; what could not be kept is counted.

    ``overlapping`` spans lie over a longer one, ``misplaced`` ones on no word, or on one that belongs to another span.
    """

    labels: tuple[str, ...]
    texts: list[str] = field(default_factory=list)
    spans: list[list[tuple[int, int, int]]] = field(default_factory=list)
    overlapping: int = 0
    misplaced: int = 0

    def add(self, text: str, spans: Sequence[Span]) -> None:
        """Take a text; of overlapping spans the longest stays, and each ends where words do."""
        words = words_of(text)
        kept = without_overlaps(spans)
        self.overlapping += len(set(spans)) - len(kept)
        found: list[tuple[int, int, int]] = []
        for one in kept:
            place = on_words(one, words)
            if place is None or (found and place[0] < found[-1][1]):
                self.misplaced += 1
            else:
                found.append((*place, self.labels.index(one.label)))
        self.texts.append(text)
        self.spans.append(found)

    def why_not(self) -> str | None:
        """Why nothing can be learnt from them."""
        if not self.texts:
            return "no example has a text"
        return None if any(self.spans) else f"none of {len(self.texts)} examples has a span"

    def quality(self) -> dict[str, float]:
        """What could not be kept, if there is any, for people to see."""
        counts = {"overlapping_spans": float(self.overlapping), "misplaced_spans": float(self.misplaced)}
        return {name: count for name, count in counts.items() if count}


@dataclass(slots=True)
class _Tried:
    """What was ``found`` in texts that were left out: how sure each span was, and whether it was right."""

    guessed: list[tuple[float, bool]] = field(default_factory=list)
    given: int = 0
    found: dict[int, list[Found]] = field(default_factory=dict)

    @property
    def f1(self) -> float:
        """Of exact spans."""
        return 2 * sum(hit for _, hit in self.guessed) / max(len(self.guessed) + self.given, 1)


def fit(
    labelled: Labelled, seed: int, progress: Callable[[float], None]
) -> tuple[Features, Field, dict[str, float], dict[int, list[Found]]]:
    """Learn them; also how well that goes on texts that were left out, and what was found in each of these."""
    used = sorted({label for spans in labelled.spans for *_, label in spans})
    labels = tuple(labelled.labels[number] for number in used)
    numbered = {number: place for place, number in enumerate(used)}
    spans = [[(first, last, numbered[label]) for first, last, label in some] for some in labelled.spans]
    features = Features()
    rows = features.fit(labelled.texts)
    tries = {bold: _Tried() for bold in _BOLD}
    folds = list(_folds(len(rows), seed))
    for number, (train, test) in enumerate(folds):
        if not any(spans[place] for place in train):
            continue
        # Features that only the left out texts have must not be known, as they are not in new texts.
        few = Features()
        few.number([rows[place] for place in train])
        model = _learn(few, [rows[at] for at in train], [spans[at] for at in train], labels, _part(progress, number))
        words = [few.known(rows[place]) for place in test]
        truths = [{(first, last, labels[label]) for first, last, label in spans[place]} for place in test]
        for bold, tried in tries.items():
            answers = replace(model, bold=bold).find(words, frozenset(labels))
            for place, truth, (found, _) in zip(test, truths, answers, strict=True):
                tried.found[place] = found
                tried.guessed += [(one.sure, (one.first, one.last, one.label) in truth) for one in found]
                tried.given += len(truth)
    model = _learn(features, rows, spans, labels, _part(progress, len(folds)))
    best = (
        max(tries, key=lambda bold: (round(tries[bold].f1, 9), -bold)) if tries[0.0].given >= _SPANS_TO_BE_BOLD else 0.0
    )
    slope, shift = _calibration(tries[best].guessed)
    kept = np.asarray(model.weights.any(axis=1))
    weights = np.ascontiguousarray(model.weights[kept])
    model = replace(model, weights=weights, bold=best, slope=slope, shift=shift)
    tried = tries[best]
    quality = {"cv_span_f1": tried.f1, "cv_examples": float(len(tried.found))} if tried.given else {}
    features = features.without(~kept)
    return features, model, quality | labelled.quality(), tried.found


def _learn(
    features: Features,
    rows: list[list[Row]],
    spans: list[list[tuple[int, int, int]]],
    labels: tuple[str, ...],
    progress: Callable[[float], None],
) -> Field:
    states = [states_of(len(words), some) for words, some in zip(rows, spans, strict=True)]
    return learn([features.known(words) for words in rows], states, labels, len(features.numbers), progress)


def _folds(size: int, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Texts to train on and texts to leave out, as often as it takes to leave enough out."""
    order = np.random.default_rng(seed).permutation(size).tolist()
    folds = min(size, _FOLDS)
    for fold in range(min(folds, -(-_LEFT_OUT_AT_LEAST * folds // size)) if folds > 1 else 0):
        out = order[fold::folds]
        left = frozenset(out)
        yield [place for place in order if place not in left], out


def _part(progress: Callable[[float], None], number: int) -> Callable[[float], None]:
    """The progress of one of several trainings: each takes a half of what is left, so that it never goes back."""
    return lambda fraction: progress(1 - 0.5**number * (1 - fraction / 2))


def _calibration(guessed: list[tuple[float, bool]]) -> tuple[float, float]:
    """The slope and shift of the odds that best foretell which spans were right, starting from 1 and 0."""
    from scipy.optimize import minimize  # noqa: PLC0415 - late: serving does without

    sure = np.clip(np.array([one for one, _ in guessed]), 1e-6, 1 - 1e-6)
    right = np.array([hit for _, hit in guessed], bool)
    odds = np.log(sure / (1 - sure))

    def loss(at: Floats) -> float:
        yes = (np.tanh((np.exp(at[0]) * odds + at[1]) / 2) + 1) / 2
        likely = np.log(np.maximum(np.where(right, yes, 1 - yes), 1e-12)).sum()
        return float((at[0] ** 2 + at[1] ** 2) / 2 - likely)

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"maxiter": 200})
    return float(np.exp(best.x[0])), float(best.x[1])
