"""Which examples are held out of a run, and whether the new version may serve: on examples that neither version saw."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_backend import left_out, scores
from ml_backend.errors import RunEnded, VersionCorrupt
from ml_backend.predictions.answers import normalised
from ml_backend.training.snapshot import FileTrainingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ml_backend.backend import TrainingBackend
    from ml_backend.examples import Example, Fetch, JsonObject
    from ml_backend.left_out import Answered, Reported
    from ml_backend.registry import Version
    from ml_backend.settings import PromoteSettings
    from ml_backend.training.snapshot import Line, Written

log = logging.getLogger(__name__)

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether to promote, why, and the scores that people see."""

    promote: bool
    reason: str
    candidate: dict[str, float] = field(default_factory=dict)
    incumbent: dict[str, float] = field(default_factory=dict)
    compared_on: int = 0


class Comparing:
    """Splits a snapshot into what is trained on and what is held out, and compares the result with what serves.

    One task in five is held out once that makes enough to compare on; which ones depends on the tasks alone, so the
    same ones stay unseen from version to version. Until then versions are compared by what their models answered about
    tasks that they were trained without, where they report that.
    """

    def __init__(
        self,
        written: Written,
        parent: Version | None,
        make_model: Callable[[], TrainingBackend],
        *,
        damaged: str | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        """``parent`` is what serves; None when nothing does, or nothing that is whole: ``damaged`` says why then.
        ``fetch`` brings the examples' media."""
        held = scores.held_out(written.lines)
        self.trained = tuple(line for line in written.lines if line.task not in held)
        self._seen = parent.manifest.trained_on_ids if parent is not None else frozenset[int]()
        self._unseen = tuple(line for line in written.lines if line.task in held)
        self._fresh = tuple(line for line in self._unseen if line.task not in self._seen)
        self._written = written
        self._parent = parent
        self._make_model = make_model
        self._damaged = damaged
        self._fetch = fetch

    def learnt_from(self, *, warm: bool) -> frozenset[int]:
        """Ids of the tasks behind the new version. Whoever began from the parent's weights knows its tasks too."""
        own = frozenset(line.task for line in self.trained)
        return own | self._seen if warm else own

    def answered(self, reported: Reported, *, warm: bool) -> dict[int, Answered]:
        """What the new version's model answered about tasks that it was trained without, to be kept with it.

        Nothing of one that began from its parent's weights: these know the tasks.
        """
        lines = tuple(line for line in self.trained if line.task in reported)
        if warm or not lines or len(self.trained) > left_out.LARGEST:
            return {}
        return left_out.collected(self._data(self._make_model(), lines), reported)

    def outcome(
        self,
        candidate: Path,
        incumbent: Path | None,
        settings: PromoteSettings,
        answered: Mapping[int, Answered] | None = None,
    ) -> Outcome:
        """Load both versions and score them; ``answered`` is what `answered` gave.

        An exception of the new one passes through: it blocks the promotion.
        """
        new = self._make_model().loaded(candidate, "candidate")
        if self._parent is None or incumbent is None:
            own = self._scores(new, self._data(new, self._unseen))
            verdict = scores.decide_promotion(settings.when, None)
            alone = "the first version" if self._damaged is None else f"what served is damaged: {self._damaged}"
            reason = alone if verdict.promote else verdict.reason
            return Outcome(verdict.promote, reason, candidate=own.metrics if own else {}, compared_on=len(self._unseen))
        comparison = self._left_out(new, answered or {}) or self._compare(new, incumbent)
        verdict = scores.decide_promotion(settings.when, comparison, min_gain=settings.min_gain)
        if comparison is None:
            return Outcome(verdict.promote, verdict.reason)
        return Outcome(
            verdict.promote, verdict.reason, comparison.candidate, comparison.incumbent, compared_on=comparison.n
        )

    def _left_out(self, new: TrainingBackend, answered: Mapping[int, Answered]) -> scores.Comparison | None:
        """The comparison of small projects; None where there is a better one, or not enough for this one."""
        if len(self._fresh) >= scores.COMPARABLE or len(answered) < scores.COMPARABLE or self._parent is None:
            return None
        try:
            before = left_out.decode(self._parent.manifest.left_out)
        except VersionCorrupt as error:
            log.warning("%s: %s", self._parent.name, error)
            return None
        lines = tuple(line for line in self._written.lines if line.task in answered and line.task in before)
        data = self._data(new, lines)
        comparison = left_out.compare(data.controls, data, answered, before)
        return comparison if comparison is not None and comparison.n >= scores.COMPARABLE else None

    def _compare(self, new: TrainingBackend, incumbent: Path) -> scores.Comparison | None:
        data = self._data(new, self._fresh)
        if not len(data):
            return scores.Comparison(n=0, gain=0.0, wins=0, losses=0)
        scored = self._scores(new, data)
        # What serves may be older than today's label config or libraries: that it fails is no reason to keep it.
        try:
            old = self._make_model().loaded(incumbent, "incumbent")
            before = self._scores(old, data)
            totals = old.evaluate(data) if scored is None else {}
        except RunEnded:
            raise  # a worker that is asked to stop, or a time limit, says so wherever the program is
        except Exception as error:
            log.warning("what serves cannot be scored any more: %s: %s", type(error).__name__, error)
            return None
        if scored is not None and before is not None:
            return scores.compare(scored, before)
        return scores.compare_totals(new.evaluate(data), totals, len(data)) if totals else None

    def _scores(self, model: TrainingBackend, data: FileTrainingSet) -> scores.Scores | None:
        if not len(data):
            return None
        examples: list[Example] = []
        regions: list[list[JsonObject]] = []
        for chunk in _batched(data):
            answers = normalised(model.predict([dict(one.task) for one in chunk]), len(chunk), "")
            examples += chunk
            regions += [answer[0]["result"] if answer else [] for answer in answers]
        return scores.score(data.controls, examples, regions)

    def _data(self, model: TrainingBackend, lines: tuple[Line, ...]) -> FileTrainingSet:
        return FileTrainingSet(
            self._written,
            lines,
            label_config=model.label_config,
            controls=model.controls,
            changed=None,
            fetch=self._fetch,
        )


def _batched(data: FileTrainingSet) -> Iterator[tuple[Example, ...]]:
    it = iter(data)
    while chunk := tuple(itertools.islice(it, _CHUNK)):
        yield chunk
