"""A Label Studio on paper: what a refresh asks of it, in memory, with the facts that make refreshing hard.

It stands in for `LabelStudioApi` where a test needs a crash, a deletion or another backend at one exact moment; what
it claims is shown by `tests/label_studio/test_active_learning.py` against the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from ml_backend.errors import LabelStudioRefused
from ml_backend.events import Project
from ml_backend.label_studio import Connection, PlacedPrediction, PlainTask, ProjectDetails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ml_backend.label_studio import StoredPrediction

CREATED_US = 1_795_333_883_000_000
UID = "7.1795333883"
PAGE = 40


@dataclass
class PaperLabelStudio:
    """Task numbers are their ids; ``before`` is called with each method's name before it does anything; ``setup`` is
    what the connected backend names in /setup."""

    label_config: str
    model_version: str = "my model"
    show: bool = True
    uid_of_project: int = 7
    tasks: dict[int, PlainTask] = field(default_factory=dict)
    predictions: dict[int, StoredPrediction] = field(default_factory=dict)
    parents: set[int] = field(default_factory=set)
    backends: list[Connection] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _name: None
    setup: Callable[[], str] = lambda: ""
    moved: list[str] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # What a test arranges

    def add(self, *numbers: int, labelled: bool = False) -> None:
        for number in numbers:
            data: dict[str, object] = {"text": f"number {number}"}
            at = CREATED_US + number
            self.tasks[number] = PlainTask(number, data, at, at, labelled, frozenset())

    def connect(self, title: str, number: int = 1) -> None:
        self.backends.append(Connection(number, 7, "http://b:9090", title, "CO", "", "", None, None))

    def held(self, version: str) -> list[int]:
        """The tasks that have a prediction of it, as often as they have."""
        return [one.task for one in self.predictions.values() if one.model_version == version]

    # What a refresh asks

    def _asked(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)

    def project(self, project_id: int) -> ProjectDetails:
        self._asked("project")
        project = Project(id=self.uid_of_project, created_at_us=CREATED_US, label_config=self.label_config)
        return ProjectDetails(project, self.model_version, self.show, "Uncertainty sampling")

    def plain_tasks(
        self, project_id: int, *, after: int = 0, lacking: str | None = None, created_from_us: int | None = None
    ) -> Iterator[list[PlainTask]]:
        while True:
            self._asked("plain_tasks")
            holding = set() if lacking is None else set(self.held(lacking))
            left = [
                one
                for number, one in sorted(self.tasks.items())
                if number > after and number not in holding and one.created_at_us >= (created_from_us or 0)
            ]
            if not left:
                return
            yield left[:PAGE]
            after = left[:PAGE][-1].id

    def plain_tasks_by_id(
        self, project_id: int, ids: Sequence[int], *, lacking: str | None = None
    ) -> Iterator[list[PlainTask]]:
        self._asked("plain_tasks_by_id")
        holding = set() if lacking is None else set(self.held(lacking))
        yield [self.tasks[one] for one in ids if one in self.tasks and one not in holding]

    def import_predictions(self, project_id: int, predictions: Sequence[StoredPrediction]) -> int:
        self._asked("import_predictions")
        assert len(predictions) <= 500, "parts above 500 are stored one after the other (fact 27)"
        if any(one.task not in self.tasks for one in predictions):
            raise LabelStudioRefused(400, "task ID not found in project")
        for one in predictions:
            self.predictions[max(self.predictions, default=0) + 1] = one
        self.batches.append([one.task for one in predictions])
        self._asked("stored")
        return len(predictions)

    def prediction_versions(self, project_id: int) -> dict[str, int]:
        self._asked("prediction_versions")
        found = {self.model_version: 0} if self.model_version else {}
        for one in self.predictions.values():
            found[one.model_version] = found.get(one.model_version, 0) + 1
        return found

    def stored_predictions(self, project_id: int, version: str) -> Iterator[list[PlacedPrediction]]:
        self._asked("stored_predictions")
        yield [
            PlacedPrediction(number, one.task, is_parent=number in self.parents)
            for number, one in self.predictions.items()
            if one.model_version == version
        ]

    def delete_prediction(self, prediction_id: int) -> None:
        self._asked("delete_prediction")
        self.predictions.pop(prediction_id, None)

    def connections(self, project_id: int) -> list[Connection]:
        self._asked("connections")
        return [replace(one, model_version=self.setup()) for one in self.backends]

    def rename_connection(self, connection: Connection, title: str) -> None:
        self._asked("rename_connection")
        self.backends = [replace(one, title=title) if one.id == connection.id else one for one in self.backends]
        if self.model_version == connection.title:
            self._moves_to(title)

    def set_model_version(self, project_id: int, version: str, *, show: bool | None = None) -> None:
        self._asked("set_model_version")
        known = {one.title for one in self.backends} | {one.model_version for one in self.predictions.values()}
        if version != self.model_version and version not in known:
            raise LabelStudioRefused(400, "Model version doesn't exist in this project")
        self._moves_to(version)
        self.show = self.show if show is None else show

    def _moves_to(self, version: str) -> None:
        if version != self.model_version:
            self.model_version = version
            self.moved.append(f"{version} after {len(self.batches)}")


def as_api(studio: PaperLabelStudio) -> Any:
    """It has the methods, not the type."""
    return studio
