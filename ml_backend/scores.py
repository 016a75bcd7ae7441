"""Scores: which examples are held out, how well regions were predicted, and whether a new version may serve. Pure."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ml_backend.examples import labels_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ml_backend.examples import Example, JsonObject
    from ml_backend.label_config import Control

COMPARABLE = 30
"""Fewer examples than this that neither version was trained on decide nothing."""
HELD_OUT_SHARE = 0.2
WORSE_P = 0.1
"""A version is kept aside when chance alone would make it look this bad less often than this."""
_BOX_IOU = 0.5

Kind = Literal["choices", "spans", "boxes"]
Rule = Literal["not_worse", "better", "min_gain", "always", "never"]

_KINDS: Mapping[str, Kind] = {
    "Choices": "choices",
    "Labels": "spans",
    "HyperTextLabels": "spans",
    "ParagraphLabels": "spans",
    "RectangleLabels": "boxes",
}


# --- what is held out -------------------------------------------------------------------------------------------------


class Labelled(Protocol):
    """What choosing needs to know of a labelled task."""

    @property
    def task(self) -> int:
        """Its id."""

    @property
    def created_at_us(self) -> int:
        """When it was created, in microseconds: ids are used again (fact 5)."""

    @property
    def ground_truth(self) -> bool:
        """Whether one of its annotations is ground truth."""


def held_out(tasks: Iterable[Labelled], *, share: float = HELD_OUT_SHARE, at_least: int = COMPARABLE) -> frozenset[int]:
    """Ids of the tasks that no version is trained on: at most ``share`` of them, ground truth first.

    Within each kind a stable hash of id and time of creation decides, so that the same tasks stay held out while a
    project grows. Nothing is held out before that gives ``at_least`` tasks: they would be missed in training and
    decide nothing.
    """
    ranked = sorted((not one.ground_truth, _stable_hash(one), one.task) for one in tasks)
    count = int(len(ranked) * share)
    return frozenset(task for _, _, task in ranked[:count]) if count >= at_least else frozenset()


def _stable_hash(one: Labelled) -> bytes:
    return hashlib.blake2b(b"%d.%d" % (one.task, one.created_at_us), digest_size=8).digest()


# --- how well it was predicted ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scores:
    """``metrics`` by name, each from 0 to 1, and one number for each example, the higher the better."""

    metrics: dict[str, float]
    per_example: tuple[float, ...]


def kind_of(control: Control) -> Kind | None:
    """How a control tag's results are scored; None when only the model itself can say (`TrainingBackend.evaluate`)."""
    if control.attributes.get("perRegion", "").lower() == "true":
        return None
    return _KINDS.get(control.type)


def score(
    controls: Sequence[Control], examples: Sequence[Example], predicted: Sequence[Sequence[JsonObject]]
) -> Scores | None:
    """Score ``predicted``, the regions of one prediction for each example, against what people labelled.

    Choices: accuracy (the same set of labels) and macro F1. Spans: exact span F1, overall and by label. Boxes: F1 at an
    IoU of 0.5. With several control tags the names begin with the tag's. A tag counts when it has a scorer and at
    least one example is labelled with it; None when no tag does.
    """
    parts: list[tuple[str, Scores]] = []
    for control in controls:
        kind = kind_of(control)
        if kind is None:
            continue
        items = _choice_items if kind == "choices" else _span_items if kind == "spans" else _box_items
        truths = [items(_truth(example, control, kind)) for example in examples]
        guesses = [items([one for one in regions if one.get("from_name") == control.name]) for regions in predicted]
        if any(truths):
            parts.append((control.name, _scored(kind, list(zip(truths, guesses, strict=True)))))
    if not parts:
        return None
    metrics = {
        name if len(parts) == 1 else f"{control}.{name}": value
        for control, part in parts
        for name, value in part.metrics.items()
    }
    columns = zip(*(part.per_example for _, part in parts), strict=True)
    return Scores(metrics, tuple(sum(column) / len(column) for column in columns))


@dataclass(frozen=True, slots=True)
class _Item:
    """One thing to find: a label, at a place (nowhere, for choices)."""

    label: str
    place: tuple[object, ...] = ()


@dataclass(slots=True)
class _Count:
    right: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def f1(self) -> float:
        """Of nothing expected and nothing found: 1."""
        total = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / total if total else 1.0


def _truth(example: Example, control: Control, kind: Kind) -> list[JsonObject]:
    if kind != "choices":
        return example.newest(control.name)
    # Annotators vote on choices; places cannot be voted on.
    labels = list(example.majority(control.name))
    return [{"from_name": control.name, "type": "choices", "value": {"choices": labels}}] if labels else []


def _scored(kind: Kind, pairs: list[tuple[set[_Item], set[_Item]]]) -> Scores:
    overall = _Count()
    by_label: dict[str, _Count] = defaultdict(_Count)
    each: list[float] = []
    for truth, guess in pairs:
        found = _matched(truth, guess) if kind == "boxes" else {one: one for one in truth & guess}
        here = _Count(len(found), len(guess) - len(found), len(truth) - len(found))
        each.append(here.f1)
        overall = _Count(overall.right + here.right, overall.wrong + here.wrong, overall.missed + here.missed)
        for one in truth:
            by_label[one.label].right += one in found
            by_label[one.label].missed += one not in found
        used = set(found.values())
        for one in guess - used:
            by_label[one.label].wrong += 1
    if kind == "choices":
        macro = sum(count.f1 for count in by_label.values()) / len(by_label)
        accuracy = sum(truth == guess for truth, guess in pairs) / len(pairs)
        return Scores({"accuracy": accuracy, "macro_f1": macro}, tuple(each))
    name = "span_f1" if kind == "spans" else "box_f1"
    labelled = {f"{name}.{label}": by_label[label].f1 for label in sorted(by_label)}
    return Scores({name: overall.f1, **labelled}, tuple(each))


def _choice_items(regions: Iterable[JsonObject]) -> set[_Item]:
    return {_Item(label) for region in regions for label in labels_of(region)}


def _span_items(regions: Iterable[JsonObject]) -> set[_Item]:
    found: set[_Item] = set()
    for region in regions:
        value = region.get("value")
        place = _span(value) if isinstance(value, Mapping) else None
        if place is not None:
            found |= {_Item(label, place) for label in labels_of(region)}
    return found


def _span(value: Mapping[str, object]) -> tuple[object, ...] | None:
    """Where a span lies: characters of a text, of a node of it (paragraphs, pages), or tenths of a second."""
    whole = value.get("globalOffsets")
    start, end = value.get("start"), value.get("end")
    if isinstance(whole, Mapping):
        start, end = whole.get("start"), whole.get("end")
    elif "startOffset" in value:
        return ("node", *(str(value.get(name)) for name in ("start", "startOffset", "end", "endOffset")))
    if isinstance(start, int | float) and isinstance(end, int | float):
        return (round(start, 1), round(end, 1))
    return None


def _box_items(regions: Iterable[JsonObject]) -> set[_Item]:
    found: set[_Item] = set()
    for region in regions:
        value = region.get("value")
        if not isinstance(value, Mapping):
            continue
        sides = [value.get(name) for name in ("x", "y", "width", "height")]
        if all(isinstance(side, int | float) for side in sides):
            # A rotated box is taken by its corner and sides as they are written: both versions are measured alike.
            place = (region.get("item_index", 0), *sides)
            found |= {_Item(label, place) for label in labels_of(region)}
    return found


def _matched(truth: set[_Item], guess: set[_Item]) -> dict[_Item, _Item]:
    """Pairs of the same label that overlap enough, the best first, each box at most once."""
    near = [
        (overlap, one, other)
        for one in truth
        for other in guess
        if one.label == other.label
        and one.place[0] == other.place[0]
        and (overlap := iou(one.place[1:], other.place[1:])) >= _BOX_IOU
    ]
    near.sort(key=lambda pair: (-pair[0], repr(pair[1]), repr(pair[2])))
    found: dict[_Item, _Item] = {}
    used: set[_Item] = set()
    for _, one, other in near:
        if one not in found and other not in used:
            found[one] = other
            used.add(other)
    return found


def iou(one: Sequence[object], other: Sequence[object]) -> float:
    """Intersection over union of two boxes, each x, y, width, height in the same unit; 0 for boxes without area."""
    x1, y1, w1, h1 = (_number(value) for value in one)
    x2, y2, w2, h2 = (_number(value) for value in other)
    width = min(x1 + w1, x2 + w2) - max(x1, x2)
    height = min(y1 + h1, y2 + h2) - max(y1, y2)
    shared = max(0.0, width) * max(0.0, height)
    union = w1 * h1 + w2 * h2 - shared
    return shared / union if union > 0 else 0.0


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


# --- whether it may serve ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same ``n`` examples, which neither was trained on.

    ``left_out``: they were trained on them, and what is compared are models that were trained without (`left_out`).

    ``wins`` and ``losses`` count the examples on which the candidate did better and worse; both None when only totals
    are known (a model's own `evaluate`). ``gain`` is the candidate's mean score minus the incumbent's.
    """

    n: int
    gain: float
    wins: int | None = None
    losses: int | None = None
    candidate: dict[str, float] = field(default_factory=dict)
    incumbent: dict[str, float] = field(default_factory=dict)
    left_out: bool = False

    @property
    def p_worse(self) -> float:
        """How often chance alone would make an equally good candidate look this bad or worse, 0 to 1."""
        if self.wins is not None and self.losses is not None:
            return sign_test(self.wins, self.losses)
        # A mean of n numbers between 0 and 1 strays at most this much, so two of them: a careful stand-in.
        stray = math.sqrt(0.5 / self.n) if self.n else math.inf
        return 0.5 * math.erfc(-self.gain / stray / math.sqrt(2))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version may serve, and why: one sentence for people."""

    promote: bool
    reason: str


def compare(candidate: Scores, incumbent: Scores) -> Comparison:
    """Compare two versions example by example; both scored the same examples in the same order."""
    pairs = list(zip(candidate.per_example, incumbent.per_example, strict=True))
    return Comparison(
        n=len(pairs),
        gain=sum(new - old for new, old in pairs) / len(pairs) if pairs else 0.0,
        wins=sum(new > old for new, old in pairs),
        losses=sum(new < old for new, old in pairs),
        candidate=candidate.metrics,
        incumbent=incumbent.metrics,
    )


def compare_totals(candidate: Mapping[str, float], incumbent: Mapping[str, float], n: int) -> Comparison | None:
    """Compare what two versions' own `evaluate` say about ``n`` examples; None when they share no metric.

    The candidate's first metric that the incumbent has too decides.
    """
    shared = next((name for name in candidate if name in incumbent), None)
    if shared is None:
        return None
    gain = candidate[shared] - incumbent[shared]
    return Comparison(n=n, gain=gain, candidate=dict(candidate), incumbent=dict(incumbent))


def sign_test(wins: int, losses: int) -> float:
    """One-sided exact sign test: the probability of at least ``losses`` losses in as many tosses of a fair coin."""
    n = wins + losses
    if losses <= 0:
        return 1.0
    whole = math.lgamma(n + 1) - n * math.log(2)
    terms = (math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(losses, n + 1))
    return min(1.0, math.fsum(terms))


def decide_promotion(rule: Rule, comparison: Comparison | None, *, min_gain: float = 0.0) -> Verdict:
    """Whether the candidate may serve.

    ``not_worse`` (the default) keeps it aside only if a sign test says that it is worse (p < 0.1); ``better`` asks for
    a higher mean score, ``min_gain`` for one higher by at least ``min_gain``; ``always`` and ``never`` do not look.
    Without at least 30 comparable examples every rule but ``never`` promotes: nobody could tell.
    """
    if rule in {"always", "never"}:
        return Verdict(rule == "always", f"the rule is to promote {rule}")
    if comparison is None:
        return Verdict(promote=True, reason="there is nothing to compare it with")
    if comparison.n < COMPARABLE:
        few = f"{comparison.n} examples that neither version was trained on"
        return Verdict(promote=True, reason=f"too few to compare: {few}, {COMPARABLE} are needed")
    seen = _seen(comparison)
    if rule == "not_worse":
        p = comparison.p_worse
        if p < WORSE_P:
            return Verdict(promote=False, reason=f"worse than what serves: {seen} (p = {p:.2g})")
        return Verdict(promote=True, reason=f"not worse than what serves: {seen}")
    wanted = min_gain if rule == "min_gain" else 0.0
    good = comparison.gain >= wanted if wanted > 0 else comparison.gain > 0
    asked = f"a gain of at least {wanted:g} is asked for" if wanted > 0 else "a better score is asked for"
    return Verdict(good, f"{'better' if good else 'not better'} than what serves: {seen}; {asked}")


def _seen(comparison: Comparison) -> str:
    shared = next((name for name in comparison.candidate if name in comparison.incumbent), None)
    values = ""
    if shared is not None:
        values = f"{shared} {comparison.candidate[shared]:.3f} against {comparison.incumbent[shared]:.3f}, "
    how = ", each time trained without them" if comparison.left_out else ""
    if comparison.wins is None or comparison.losses is None:
        return f"{values}on {comparison.n} examples{how}"
    return f"{values}better on {comparison.wins} and worse on {comparison.losses} of {comparison.n} examples{how}"
