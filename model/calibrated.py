"""A linear classifier over n-gram counts that knows how sure it is, for one label of several or any number of labels.

One of several: Crammer and Singer's multi-class support vector machine, which learns all labels in one go, faster than
one against the rest, and does better where examples are few. Any number: one support vector machine for each label.
Scores become probabilities through a slope (and, for any number, a shift) that fits the scores of examples which were
left out of a first training: one by one when there are a handful, a fifth of them, once, when there are thousands.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model.text_ngrams import inverse_document_frequency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from scipy import sparse

    from model.text_ngrams import NGrams

    Floats = NDArray[np.floating]
    Ints = NDArray[np.int64]

_TOLERANCE = 0.2
_FOLDS = 5
_LEFT_OUT_AT_LEAST = 400
_LEFT_OUT_AT_MOST = 2_000
# What the slopes are like in data sets of all sizes; a handful of examples cannot say.
_USUAL_SLOPE = 5.0


@dataclass(frozen=True, slots=True)
class Calibrated:
    """``weights`` (columns x labels) and ``bias`` give scores; ``slope`` and ``shift`` make probabilities of them.

    ``unseen`` is the probability that none of the ``labels`` is right, since some have had no example yet.
    """

    labels: tuple[str, ...]
    multiple: bool
    weights: Floats
    bias: Floats
    slope: float
    shift: float
    unseen: float

    def choose(self, rows: sparse.csr_array, kept: list[int]) -> tuple[list[list[str]], list[float], list[float]]:
        """For each row its labels, among those numbered ``kept``; the probability that they are right; the margin.

        Of any number of labels it is the probability of the least sure one that is given. The margin is the difference
        in probability between the best two labels if it is one of them, or between yes and no in the closest call.
        """
        names = [self.labels[label] for label in kept]
        scores = (rows @ self.weights + self.bias)[:, kept].astype(np.float64)
        if self.multiple:
            yes = _sigmoid(self.slope * scores + self.shift)
            chosen = [[names[label] for label in np.flatnonzero(row)] for row in yes > 0.5]
            sure, margins = np.where(yes > 0.5, yes, 1).min(axis=1), np.abs(2 * yes - 1).min(axis=1)
        else:
            chosen = [[names[label]] for label in scores.argmax(axis=1).tolist()]
            ahead = _ahead(scores)
            sure = (1 - self.unseen) * _sigmoid(self.slope * ahead + self.shift)
            margins = np.tanh(self.slope * ahead / 2)
        return chosen, np.round(sure, 6).tolist(), np.round(margins, 6).tolist()


@dataclass(frozen=True, slots=True)
class Answers:
    """What people answered. ``given`` is the number of the label of each row, or (rows x labels) booleans."""

    labels: tuple[str, ...]
    multiple: bool
    given: NDArray[Any]
    unseen: float = 0.0

    @classmethod
    def one(cls, answers: list[str], possible: tuple[str, ...]) -> Answers:
        """One label for each row.

        How likely a label is that nobody has used yet: as likely as it was lately that a label was used for the first
        time, which is the share of labels that were used once (Good and Turing).
        """
        labels, given, often = np.unique(np.array(answers, object), return_inverse=True, return_counts=True)
        missing = not set(possible) <= set(labels)
        once = int((often == 1).sum()) / (len(answers) + 1)
        return cls(tuple(labels.tolist()), multiple=False, given=given, unseen=once if missing else 0.0)

    @classmethod
    def several(cls, answers: list[frozenset[str]]) -> Answers:
        """Any number of labels for each row."""
        labels = tuple(sorted(frozenset[str]().union(*answers)))
        numbers = {label: number for number, label in enumerate(labels)}
        given = np.zeros((len(answers), len(labels)), bool)
        for row, some in enumerate(answers):
            given[row, [numbers[label] for label in some]] = True
        return cls(labels, multiple=True, given=given)

    def why_not(self) -> str | None:
        """Why nothing can be learnt from them."""
        if len(self.given) == 0:
            return "no example has a label and a text"
        if self.multiple and (not self.labels or bool(self.given.all())):
            return f"all {len(self.given)} examples have the same labels"
        if not self.multiple and len(self.labels) < 2:
            return f"all {len(self.given)} examples are {self.labels[0]!r}"
        return None


def fit(
    ngrams: NGrams, counts: sparse.csr_array, answers: Answers, seed: int, progress: Callable[[float], None]
) -> tuple[Calibrated, dict[str, float], dict[int, list[str]]]:
    """Learn ``answers`` from ``counts`` (see `NGrams.fit`); also how well that goes on rows that were left out, and the
    labels that each of these got."""
    scores, out = _left_out(ngrams, counts, answers, seed, progress)
    given = answers.given[out]
    slope, shift = _calibration(scores, given, answers)
    progress(0.6)
    rows = ngrams.weigh(counts, ngrams.idf.astype(np.float64))
    weights, bias = _separate(rows, answers, answers.given, seed)
    # A label that all n rows have was not learnt: its odds are n + 1 to 1.
    bias[np.isinf(bias)] = (np.log(len(answers.given) + 1) - shift) / slope
    calibrated = Calibrated(
        answers.labels,
        answers.multiple,
        np.ascontiguousarray(weights, np.float32),
        bias.astype(np.float32),
        slope,
        shift,
        answers.unseen,
    )
    surer = slope * scores + shift
    said = dict(zip(out.tolist(), _said(surer, answers), strict=True))
    return calibrated, _quality(surer, given, answers), said


def _separate(
    rows: sparse.csr_array, answers: Answers, given: NDArray[Any], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and bias; the bias is -inf for a label that no row has, inf for one (of any number) that all have."""
    # Late: serving needs none of it, and it is a second and 100 MB of a web process.
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.svm import LinearSVC  # noqa: PLC0415

    weights = np.zeros((rows.shape[1], len(answers.labels)))
    bias = np.full(len(answers.labels), -np.inf)
    with warnings.catch_warnings():
        # The bound on iterations is one on time, and what was found by then serves.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Hardly more examples than labels: that is how every project begins.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        if answers.multiple:
            bias[given.all(axis=0)] = np.inf
            for label in np.flatnonzero(given.any(axis=0) & ~given.all(axis=0)):
                machine = LinearSVC(tol=_TOLERANCE, random_state=seed).fit(rows, given[:, label])
                weights[:, label], bias[label] = machine.coef_[0], machine.intercept_[0]
        else:
            machine = LinearSVC(multi_class="crammer_singer", tol=_TOLERANCE, random_state=seed).fit(rows, given)
            two = len(machine.classes_) == 2
            # Of two labels only the difference is kept.
            weights[:, machine.classes_] = (np.vstack([-machine.coef_, machine.coef_]) / 2 if two else machine.coef_).T
            difference = machine.intercept_ / 2
            bias[machine.classes_] = np.append(-difference, difference) if two else machine.intercept_
    return weights, bias


def _left_out(
    ngrams: NGrams, counts: sparse.csr_array, answers: Answers, seed: int, progress: Callable[[float], None]
) -> tuple[NDArray[np.float64], Ints]:
    """Scores of rows by classifiers that were not trained on them, and which rows these are."""
    scores: list[NDArray[np.float64]] = [np.zeros((0, len(answers.labels)))]
    out: list[Ints] = [np.zeros(0, np.int64)]
    folds = list(_folds(counts.shape[0], seed))
    for number, (train, test) in enumerate(folds):
        if answers.multiple or len(np.unique(answers.given[train])) > 1:
            # Words that only left out texts have must not count, or the rows would look emptier than new texts do.
            rows = ngrams.weigh(counts, inverse_document_frequency(counts[train]))
            weights, bias = _separate(rows[train], answers, answers.given[train], seed)
            scores.append(rows[test] @ weights + bias)
            out.append(test)
        progress(0.6 * (number + 1) / len(folds))
    return np.vstack(scores), np.concatenate(out)


def _folds(size: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Rows to train on and rows to leave out, as often as it takes to leave enough out."""
    order = np.random.default_rng(seed).permutation(size)
    folds = min(size, 2 * _FOLDS if size <= 2 * _FOLDS else _FOLDS)
    for fold in range(min(folds, -(-_LEFT_OUT_AT_LEAST * folds // size))):
        out = np.arange(size) % folds == fold
        yield order[~out], order[out][:_LEFT_OUT_AT_MOST]


def _calibration(scores: NDArray[np.float64], given: NDArray[Any], answers: Answers) -> tuple[float, float]:
    """The slope and shift that best foretell what was right in rows that were left out, starting from what is usual."""
    from scipy.optimize import minimize  # noqa: PLC0415 - late: serving does without

    if answers.multiple:
        learnt = np.isfinite(scores)
        values, right = scores[learnt], given[learnt]
    else:
        values, right = _ahead(scores), scores.argmax(axis=1) == given

    def loss(at: Floats) -> float:
        unusual = ((at[0] - np.log(_USUAL_SLOPE)) ** 2 + at[1] ** 2) / 2
        yes = (1 - answers.unseen) * _sigmoid(np.exp(at[0]) * values + at[1])
        return float(unusual - np.log(np.maximum(np.where(right, yes, 1 - yes), 1e-12)).sum())

    best = minimize(loss, np.array([np.log(_USUAL_SLOPE), 0.0]), method="Nelder-Mead", options={"maxiter": 200})
    return float(np.exp(best.x[0])), float(best.x[1])


def _said(scores: NDArray[np.float64], answers: Answers) -> list[list[str]]:
    """The labels of each row, as `Calibrated.choose` gives them."""
    if answers.multiple:
        return [[answers.labels[label] for label in np.flatnonzero(row)] for row in scores > 0]
    return [[answers.labels[label]] for label in scores.argmax(axis=1).tolist()] if len(scores) else []


def _quality(scores: NDArray[np.float64], given: NDArray[Any], answers: Answers) -> dict[str, float]:
    if len(given) == 0:
        return {}
    if not answers.multiple:
        return {"cv_accuracy": float((scores.argmax(axis=1) == given).mean()), "cv_examples": float(len(given))}
    said = scores > 0
    right, wrong = int((said & given).sum()), int((said != given).sum())
    return {"cv_f1": 2 * right / max(2 * right + wrong, 1), "cv_examples": float(len(given))}


def _ahead(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the best score of each row is ahead of the second best; 0 where there is no other."""
    if scores.shape[1] < 2:
        return np.zeros(len(scores))
    best = np.partition(scores, -2, axis=1)
    ahead: NDArray[np.float64] = best[:, -1] - best[:, -2]
    return ahead


def _sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    # Through tanh, since exp would overflow.
    sigmoid: NDArray[np.float64] = (np.tanh(scores / 2) + 1) / 2
    return sigmoid
