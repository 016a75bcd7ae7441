"""The steps of one refresh: rank the tasks, store predictions batch by batch, let the tasks follow, tidy up.

Every step can be repeated: a task that has a prediction of the version gets no second one. One gap stays open: Label
Studio predicts a task that an annotator opens by itself, and may do so between our look at the task and our batch.
Then the task has two equal predictions until its version is deleted; taking one away could break a Submit (fact 19).
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from ml_backend.errors import LabelStudioError, LabelStudioRefused, ModelLoadFailed, Unavailable
from ml_backend.predictions.answers import Answering
from ml_backend.refresh.planning import Kept, Pace, Ranking, expired
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ml_backend.backend import TrainingBackend
    from ml_backend.label_studio import Connection, LabelStudioApi, PlainTask, StoredPrediction
    from ml_backend.refresh.planning import Standing
    from ml_backend.refresh.record import Hold, Records
    from ml_backend.registry import Registry, Version
    from ml_backend.settings import PredictionSettings

Page = TypeVar("Page")

_ARRIVES_S = 30.0
"""How long a batch may still be on its way into Label Studio after whoever sent it is gone."""
_SERVED_WITHIN_S = 30.0
_LOOK_S = 0.2
_TRIES = 4


class TakenOver(Exception):
    """Another version must serve now: this refresh makes room for its."""


@dataclass(eq=False, kw_only=True)
class Sending:
    """One refresh under way, or the rest of one. ``before`` is how the project stood, ``budget_s`` the time it has.

    After `run`: ``newest_us`` is the creation date up to which tasks were looked at.
    """

    api: LabelStudioApi
    records: Records
    hold: Hold
    registry: Registry
    version: Version
    settings: PredictionSettings
    before: Standing
    budget_s: float
    make_model: Callable[[str], TrainingBackend]
    accepted: Callable[[], frozenset[int]]
    served: Callable[[str], str | None]
    clock: Callable[[], float]
    pause: Callable[[float], None]
    newest_us: int | None = field(default=None, init=False)
    did_something: bool = field(default=False, init=False)
    _notes: list[str] = field(default_factory=list, init=False)
    _pace: Pace = field(default_factory=Pace, init=False)
    _busy_s: float = field(default=0.0, init=False)
    _busy_until: float = field(default=0.0, init=False)

    def run(self) -> str:
        """All steps; returns what was done, for people.

        Raises `TakenOver`, `RunCancelled`, `LeaseLost`, `LabelStudioError` and its kind, `RegistryError`, and what the
        model raises while it loads.
        """
        self._ends_at = time.monotonic() + self.budget_s
        self._name = self.version.name
        self._uid = self.hold.uid
        self._project = id_of(self._uid)
        details = self.api.project(self._project)
        if details.project.uid != self._uid:
            raise LabelStudioError(f"Label Studio's project {self._project} is not the one that this backend knows")
        self._settle()
        self._until_served()
        self._model = self._loaded_model(details.project.label_config or "")
        picks, ranking = self._ranked()
        pushed, in_time = self._send(picks, ranking)
        gone = self._tidy()
        return self._summary(pushed, len(picks), in_time=in_time, gone=gone)

    def _summary(self, pushed: int, wanted: int, *, in_time: bool, gone: list[str]) -> str:
        said = f"{self._name}: {pushed} {'task has' if pushed == 1 else 'tasks have'} got a fresh prediction"
        if not in_time:
            said += f", of {wanted}: the time of {self.budget_s:.0f} s was up"
        if gone:
            said += f"; the predictions of {', '.join(gone)} are deleted"
        self.did_something |= bool(pushed or gone)
        return "; ".join([said, *self._notes])

    # --- before anything is sent --------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """A batch was sent and nobody saw the answer: wait until it is stored, or can no longer be."""
        sent, sent_at = self.before.sent, self.before.sent_at
        if not sent or sent_at is None:
            return
        while self.clock() < sent_at + _ARRIVES_S:
            there = sum(len(page) for page in self.api.plain_tasks_by_id(self._project, sent))
            lack = self.api.plain_tasks_by_id(self._project, sent, lacking=self.before.version)
            if sum(len(page) for page in lack) < there:
                break
            self.records.write(self.hold, phase="looking for what was sent last")
            self.pause(_LOOK_S * 5)
        self.records.write(self.hold, sent=None, sent_at=None)

    def _until_served(self) -> None:
        """Wait until `/setup` names the version: Label Studio compares predictions with what it names (fact 17)."""
        until = time.monotonic() + _SERVED_WITHIN_S
        while (named := self.served(self._uid)) not in {None, self._name}:
            self._look_for_newer()
            if time.monotonic() > until:
                raise ModelLoadFailed(f"the web processes do not serve {self._name} yet, but {named}")
            self.records.write(self.hold, phase="waiting for the web processes")
            self.pause(_LOOK_S)

    def _loaded_model(self, label_config: str) -> TrainingBackend:
        folder = self.registry.fetch(self._uid, self.version.number)
        model = self.make_model(self.version.manifest.label_config or label_config).loaded(folder, self._name)
        return model.for_config(label_config)

    # --- which tasks --------------------------------------------------------------------------------------------------

    def _ranked(self) -> tuple[list[int], Ranking]:
        """The tasks to predict, most useful first. Half of the time at most goes into finding them."""
        until = time.monotonic() + (self._ends_at - time.monotonic()) / 2
        new_only = self.before.covers == self._name
        since_us = self.newest_us = self.before.newest_us if new_only else None
        room = self.settings.limit
        if not new_only:
            room = max(0, room - self.api.prediction_versions(self._project).get(self._name, 0))
        ranking = Ranking(room)
        looked = 0
        pages = self.api.plain_tasks(self._project, lacking=self._name, created_from_us=since_us)
        for page in self._timed(pages):
            looked += len(page)
            self.newest_us = max([self.newest_us or 0, *(task.created_at_us for task in page)])
            if room:
                unlabelled = [task for task in page if not task.labelled]
                for task, kept in zip(unlabelled, self._asked(unlabelled, until), strict=True):
                    if kept is not None:
                        ranking.add(task.id, kept.score, kept)
                ranking.add_labelled(task.id for task in page if task.labelled)
            self.records.write(self.hold, phase="ranking", total=looked)
            if time.monotonic() >= until:
                self._notes.append(f"the most useful of the {looked} that there was time to look at")
                break
        return ranking.picks(), ranking

    def _timed(self, pages: Iterator[Page]) -> Iterator[Page]:
        """The pages, with a rest between one and the next."""
        while True:
            began = time.monotonic()
            page = next(pages, None)
            self._worked(time.monotonic() - began)
            if page is None:
                return
            yield page
            self._rest()

    def _asked(self, tasks: Sequence[PlainTask], until: float) -> list[Kept | None]:
        """The model's first prediction for each task; None where it has none."""
        questions = [{"id": task.id, "data": task.data, "project": self._project} for task in tasks]
        answering = Answering(self._ask, self._name, until, self.settings.strategy)
        return [
            Kept(_digest(task), answer[0]["result"], answer[0]["score"]) if answer else None
            for task, answer in zip(tasks, answering.answers(questions), strict=True)
        ]

    def _ask(self, tasks: list[dict[str, Any]]) -> object:
        # Without Redis for a moment the model's answer is still good: the next step needs Redis, and says so.
        with contextlib.suppress(Unavailable):
            self.records.write(self.hold)
        return self._model.predict(tasks)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send(self, picks: list[int], ranking: Ranking) -> tuple[int, bool]:
        """Store the first batch, let the tasks follow the version, store the rest; (how many, all in time)."""
        pushed = at = 0
        while True:
            batch = picks[at : at + self._pace.size]
            at += len(batch)
            pushed += self._store(batch, ranking) if batch else 0
            self.records.write(self.hold, phase="sending", done=pushed, total=len(picks))
            if at == len(batch):
                self._point()
            self._look_for_newer()
            if at >= len(picks):
                return pushed, True
            if time.monotonic() >= self._ends_at:
                return pushed, False
            self._rest()

    def _store(self, batch: Sequence[int], ranking: Ranking) -> int:
        """Store predictions for those of the tasks that still exist and have none of the version; how many."""
        for last in (False,) * (_TRIES - 1) + (True,):
            began = time.monotonic()
            tasks = [
                task for page in self.api.plain_tasks_by_id(self._project, batch, lacking=self._name) for task in page
            ]
            reading_s = time.monotonic() - began
            self._worked(reading_s)
            predictions = self._predictions(tasks, ranking)
            if not predictions:
                return 0
            # Written before: if nobody sees the answer, the next one knows what may still arrive. Renews the hold.
            ids = ",".join(str(one.task) for one in predictions)
            self.records.write(self.hold, sent=ids, sent_at=self.clock())
            began = time.monotonic()
            try:
                stored = self.api.import_predictions(self._project, predictions)
            except LabelStudioRefused as refused:
                self.records.write(self.hold, sent=None, sent_at=None)
                if refused.status != 400 or last:
                    raise
                continue  # one of the tasks was deleted in between, and none was stored (fact 27)
            took_s = time.monotonic() - began
            self._worked(reading_s + took_s)
            self._pace.stored(stored, took_s)
            self.records.write(self.hold, sent=None, sent_at=None)
            return stored
        return 0

    def _predictions(self, tasks: Sequence[PlainTask], ranking: Ranking) -> list[StoredPrediction]:
        """Those made while ranking, unless the task's data changed since; the others are made now."""
        # Late: what it is part of brings an HTTP client, which is of no use to the web and the clock.
        from ml_backend.label_studio import StoredPrediction  # noqa: PLC0415

        found: dict[int, Kept] = {}
        for task in tasks:
            kept = ranking.take(task.id)
            if kept is not None and kept.digest == _digest(task):
                found[task.id] = kept
        missing = [task for task in tasks if task.id not in found]
        for task, made in zip(missing, self._asked(missing, self._ends_at), strict=True):
            if made is not None:
                found[task.id] = made
        return [
            StoredPrediction(task.id, found[task.id].result, found[task.id].score, self._name)
            for task in tasks
            if task.id in found
        ]

    def _worked(self, seconds: float) -> None:
        """Label Studio was busy with us for that long, until now."""
        self._busy_s, self._busy_until = seconds, time.monotonic()

    def _rest(self) -> None:
        """Leave Label Studio to others for a while; time that the model took counts."""
        self.pause(max(0.0, self._pace.rest_s(self._busy_s) - (time.monotonic() - self._busy_until)))

    def _look_for_newer(self) -> None:
        alias = self.registry.alias(self._uid)
        if alias is not None and alias.name != self._name:
            raise TakenOver(f"{alias.name} takes over from {self._name}")

    # --- what the tasks follow ----------------------------------------------------------------------------------------

    def _ours(self) -> frozenset[str]:
        """Names of our versions, those included that the store has removed since."""
        stored = {version.name for version in self.registry.versions(self._uid)}
        return frozenset({*stored, *self.before.marks, self._name})

    def _point(self) -> None:
        """Let the order of tasks and what annotators see follow it, unless somebody chose another (fact 16)."""
        details = self.api.project(self._project)
        ours = self._ours()
        mine = [one for one in self.api.connections(self._project) if one.model_version in ours or one.title in ours]
        self._mark_out_of_use(ours)
        current = details.model_version
        if current not in {"", *ours, *(one.title for one in mine)}:
            self._notes.append(f"tasks stay in the order of {current!r}, which somebody chose")
            return
        if current and not self.settings.show and details.show_predictions:
            self._hide(current)
        if mine and (chosen := _first(mine, current)).title != self._name:
            self.api.rename_connection(chosen, self._name)
            self.did_something = True
        show = True if self.settings.show and self.before.hidden else None
        if show or self.api.project(self._project).model_version != self._name:
            self._set(show)
        if not current and not self.settings.show and details.show_predictions:
            self._hide(self._name)
        if show:
            self.records.write(self.hold, hidden=None)

    def _hide(self, version: str) -> None:
        """The order stays, and annotators see no prediction (fact 22)."""
        self.records.write(self.hold, hidden="1")
        self.api.set_model_version(self._project, version, show=False)

    def _set(self, show: bool | None) -> None:
        try:
            self.api.set_model_version(self._project, self._name, show=show)
        except LabelStudioRefused as refused:
            if refused.status != 400:
                raise
            self._notes.append("tasks keep their order: there is neither a prediction nor a connection to follow")

    # --- tidying up ---------------------------------------------------------------------------------------------------

    def _mark_out_of_use(self, ours: frozenset[str]) -> None:
        counts = self.api.prediction_versions(self._project)
        now = self.clock()
        old = {name: now for name, count in counts.items() if count and name in ours and name != self._name}
        self.records.marked(self._uid, old, in_use=self._name)
        for name in self.before.marks:
            if not counts.get(name):
                self.records.forget(self._uid, name)

    def _tidy(self) -> list[str]:
        """Delete what nobody can have open any more (fact 19); returns the versions.

        What was accepted in bulk stays: with the prediction goes all that tells the label from a person's (fact 21).
        """
        gone: list[str] = []
        old, _ = expired(self.records.read(self._uid).marks, self._name, self.clock())
        accepted = self.accepted() if old else frozenset()
        for name in old:
            if self.api.project(self._project).model_version == name:
                continue  # somebody chose it
            kept = deleted = 0
            for page in self._timed(self.api.stored_predictions(self._project, name)):
                self.records.write(self.hold, phase=f"deleting the predictions of {name}")
                for prediction in page:
                    if time.monotonic() >= self._ends_at:
                        return gone  # the clock asks again
                    if prediction.is_parent and prediction.task in accepted:
                        kept += 1
                        continue
                    # One by one: a version's deletion as a whole is one transaction, in which nobody can submit.
                    began = time.monotonic()
                    self.api.delete_prediction(prediction.id)
                    self._worked(time.monotonic() - began)
                    deleted += 1
                    self.records.write(self.hold, phase=f"deleting the predictions of {name}")
                    self._look_for_newer()
                    self._rest()
            self.records.forget(self._uid, name)
            if deleted or not kept:
                gone.append(f"{name} (but for {kept} accepted as labels)" if kept else name)
        return gone


def _first(connections: Sequence[Connection], model_version: str) -> Connection:
    """The connection that the project follows, else the first."""
    return next((one for one in connections if one.title == model_version), connections[0])


def _digest(task: PlainTask) -> bytes:
    return hashlib.blake2b(orjson.dumps(task.data, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
