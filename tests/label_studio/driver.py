"""Does through Label Studio's public API what a person does in its pages; for tests and benchmarks.

Every answer that is not 2xx raises `httpx.HTTPStatusError`, so that a test can assert on it; JSON stays as it came.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Self

import httpx

from tests.label_studio.server import personal_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

JsonObject = dict[str, Any]
Result = list[JsonObject]

EVERYTHING: JsonObject = {"all": True, "excluded": []}


class PersonalToken(httpx.Auth):
    """Personal access tokens are refresh tokens: exchanged for an access token that lives five minutes."""

    requires_response_body = True

    def __init__(self, base_url: str, refresh: str) -> None:
        self._url = f"{base_url}/api/token/refresh/"
        self._refresh = refresh
        self._access = ""

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        if self._access:
            request.headers["Authorization"] = f"Bearer {self._access}"
            answer = yield request
            if answer.status_code != 401:
                return
        answer = yield httpx.Request("POST", self._url, json={"refresh": self._refresh})
        answer.raise_for_status()
        self._access = answer.json()["access"]
        request.headers["Authorization"] = f"Bearer {self._access}"
        yield request


class Driver:
    """A person at a Label Studio. A context manager: it holds open connections."""

    def __init__(self, base_url: str, token: str) -> None:
        self.base_url = base_url
        self.token = token
        self.http = httpx.Client(base_url=base_url, auth=PersonalToken(base_url, token), timeout=300.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """One request; the decoded JSON of its answer, None where it has none."""
        answer = self.http.request(method, path, **kwargs)
        if answer.is_error:
            # The body is the only place where Label Studio says why.
            raise httpx.HTTPStatusError(
                f"{method} {path}: {answer.status_code} {answer.text[:500]}", request=answer.request, response=answer
            )
        return answer.json() if answer.content and "json" in answer.headers.get("content-type", "") else None

    # People

    def invite(self, email: str, password: str = "a-password-for-tests") -> Driver:
        """Another person of the same organization, signed up through the invitation link."""
        link = self.call("GET", "/api/invite")
        with httpx.Client(base_url=self.base_url, follow_redirects=True, timeout=60.0, trust_env=False) as browser:
            path = f"/user/signup/?token={link['token']}"
            browser.get(path).raise_for_status()
            form = {"email": email, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
            browser.post(path, data=form, headers={"Referer": self.base_url}).raise_for_status()
        return Driver(self.base_url, personal_token(self.base_url, email, password))

    def delete_person(self, person: int) -> None:
        """Their annotations stay, and are nobody's."""
        self.call("DELETE", f"/api/users/{person}/")

    def me(self) -> JsonObject:
        return self.call("GET", "/api/current-user/whoami")

    def legacy_tokens(self, *, enabled: bool) -> None:
        """Organization > API tokens settings: fresh installations have legacy tokens switched off (fact 14)."""
        settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": enabled}
        self.call("POST", "/api/jwt/settings", json=settings)

    # Projects

    def create_project(
        self, label_config: str, *, title: str | None = None, min_annotations: int | None = None, **settings: Any
    ) -> JsonObject:
        """``min_annotations`` is ``min_annotations_to_start_training``; any other setting goes in as it is named."""
        body = {"title": title or f"test {uuid.uuid4().hex[:8]}", "label_config": label_config, **settings}
        if min_annotations is not None:
            body["min_annotations_to_start_training"] = min_annotations
        return self.call("POST", "/api/projects/", json=body)

    def project(self, project: int) -> JsonObject:
        """All settings and counters."""
        return self.call("GET", f"/api/projects/{project}/")

    def update_project(self, project: int, **settings: Any) -> JsonObject:
        return self.call("PATCH", f"/api/projects/{project}/", json=settings)

    def delete_project(self, project: int) -> None:
        self.call("DELETE", f"/api/projects/{project}/")

    def model_versions(self, project: int) -> dict[str, int]:
        """How many stored predictions each version has."""
        return self.call("GET", f"/api/projects/{project}/model-versions/")

    def delete_model_version(self, project: int, version: str) -> None:
        """Its predictions go; who began as one of them says so no more."""
        self.call("DELETE", f"/api/projects/{project}/model-versions/", json={"model_version": version})

    # Connections and webhooks

    def connect(
        self,
        project: int,
        url: str,
        *,
        title: str = "backend",
        basic_auth: tuple[str, str] | None = None,
        extra_params: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> JsonObject:
        """Settings > Model > Connect Model; also creates the webhook (fact 2)."""
        body: JsonObject = {"project": project, "url": url, "title": title, **settings}
        if extra_params is not None:
            body["extra_params"] = extra_params
        if basic_auth is not None:
            user, password = basic_auth
            body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
        return self.call("POST", "/api/ml/", json=body)

    def connections(self, project: int) -> list[JsonObject]:
        """Each with ``state``, ``readable_state``, ``error_message``, ``model_version``; asks for /setup."""
        return self.call("GET", "/api/ml/", params={"project": project})

    def connection(self, connection: int) -> JsonObject:
        return self.call("GET", f"/api/ml/{connection}")

    def update_connection(self, connection: int, **settings: Any) -> JsonObject:
        return self.call("PATCH", f"/api/ml/{connection}", json=settings)

    def disconnect(self, connection: int) -> None:
        """The webhook stays (fact 3)."""
        self.call("DELETE", f"/api/ml/{connection}")

    def start_training(self, connection: int) -> None:
        """The button *Start Training*. The job it got is in `RealLabelStudio.train_jobs`."""
        self.call("POST", f"/api/ml/{connection}/train")

    def webhooks(self, project: int) -> list[JsonObject]:
        return self.call("GET", "/api/webhooks/", params={"project": project})

    def create_webhook(self, url: str, *, project: int, **settings: Any) -> JsonObject:
        """For all actions of that project."""
        body = {"url": url, "project": project, "send_for_all_actions": True, "send_payload": True, **settings}
        return self.call("POST", "/api/webhooks/", json=body)

    def update_webhook(self, webhook: int, **settings: Any) -> JsonObject:
        return self.call("PATCH", f"/api/webhooks/{webhook}/", json=settings)

    def delete_webhook(self, webhook: int) -> None:
        self.call("DELETE", f"/api/webhooks/{webhook}/")

    # Tasks

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """``tasks`` are bare data objects or {"data", "annotations", "predictions"}; their ids, in order."""
        answer = self.call("POST", f"/api/projects/{project}/import", params={"return_task_ids": 1}, json=list(tasks))
        return answer["task_ids"]

    def upload(self, project: int, name: str, content: bytes) -> list[int]:
        """Import a file, as dropped onto the page; the tasks it became."""
        before = {task["id"] for task in self.tasks(project)}
        self.call("POST", f"/api/projects/{project}/import", files={name: (name, content)})
        return [task["id"] for task in self.tasks(project) if task["id"] not in before]

    def add_storage(self, project: int, kind: str, **settings: Any) -> list[int]:
        """Settings > Cloud Storage > Add, and Sync: a task for each file (``localfiles``, ``s3``). The tasks' ids."""
        before = {task["id"] for task in self.tasks(project)}
        body = {"project": project, "title": kind, "use_blob_urls": True, **settings}
        storage = self.call("POST", f"/api/storages/{kind}", json=body)
        self.call("POST", f"/api/storages/{kind}/{storage['id']}/sync")
        return [task["id"] for task in self.tasks(project) if task["id"] not in before]

    def task(self, task: int) -> JsonObject:
        """The task with its annotations and predictions, as the labeling page gets it."""
        return self.call("GET", f"/api/tasks/{task}/")

    def tasks(self, project: int) -> list[JsonObject]:
        """All tasks with all that Label Studio tells about them, annotations and predictions included."""
        everything: list[JsonObject] = []
        while True:
            last = everything[-1]["id"] if everything else 0
            after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
            query = {"filters": {"conjunction": "and", "items": [after]}, "ordering": ["tasks:id"]}
            parameters = {"project": project, "fields": "all", "page_size": 1000, "query": json.dumps(query)}
            page = self.call("GET", "/api/tasks/", params=parameters)["tasks"]
            if not page:
                return everything
            everything += page

    def update_task(self, task: int, **fields: Any) -> JsonObject:
        return self.call("PATCH", f"/api/tasks/{task}/", json=fields)

    def delete_task(self, task: int) -> None:
        self.call("DELETE", f"/api/tasks/{task}/")

    def delete_tasks(self, project: int, tasks: Iterable[int] | None = None) -> None:
        """Select rows > Delete tasks; all of the project without ``tasks`` (which tells nobody, fact 9)."""
        self.action(project, "delete_tasks", tasks)

    def next_task(self, project: int) -> JsonObject:
        """*Label All Tasks*: the task that this person gets to label now. 404 when there is none."""
        return self.call("GET", f"/api/projects/{project}/next/")

    # Annotations

    def annotate(self, task: int, result: Result, **fields: Any) -> JsonObject:
        """Submit. Fields are Label Studio's: ``parent_prediction``, ``ground_truth``, ``lead_time``…"""
        return self.call("POST", f"/api/tasks/{task}/annotations/", json={"result": result, "lead_time": 1.5, **fields})

    def annotate_without_result(self, task: int) -> JsonObject:
        """Its ``result`` is null, which Label Studio takes only where none is sent."""
        return self.call("POST", f"/api/tasks/{task}/annotations/", json={"lead_time": 1.5})

    def skip(self, task: int) -> JsonObject:
        return self.annotate(task, [], was_cancelled=True)

    def update_annotation(self, annotation: int, **fields: Any) -> JsonObject:
        return self.call("PATCH", f"/api/annotations/{annotation}/", json=fields)

    def mark_ground_truth(self, annotation: int, *, ground_truth: bool = True) -> JsonObject:
        """The star. Takes the mark from the task's other annotations, of which nobody is told (fact 23)."""
        return self.update_annotation(annotation, ground_truth=ground_truth)

    def delete_annotation(self, annotation: int) -> None:
        self.call("DELETE", f"/api/annotations/{annotation}/")

    # Data Manager actions

    def action(self, project: int, name: str, tasks: Iterable[int] | None = None, **parameters: Any) -> Any:
        """One action on the selected rows (all without ``tasks``): ``remove_duplicates``, for instance."""
        selected = EVERYTHING if tasks is None else {"all": False, "included": list(tasks)}
        return self.call(
            "POST",
            "/api/dm/actions/",
            params={"id": name, "project": project},
            json={"selectedItems": selected, **parameters},
        )

    def retrieve_predictions(self, project: int, tasks: Iterable[int] | None = None) -> Any:
        """Select rows > Retrieve predictions: asks the connected backends."""
        return self.action(project, "retrieve_tasks_predictions", tasks)

    def predictions_to_annotations(self, project: int, tasks: Iterable[int] | None = None, **parameters: Any) -> Any:
        """Select rows > Create annotations from predictions (fact 21); ``model_version`` narrows them."""
        return self.action(project, "predictions_to_annotations", tasks, **parameters)

    # Predictions

    def predictions(self, *, task: int | None = None, project: int | None = None) -> list[JsonObject]:
        """The stored predictions of a task or of a whole project."""
        wanted = {k: v for k, v in (("task", task), ("project", project)) if v is not None}
        return self.call("GET", "/api/predictions/", params=wanted)

    def import_predictions(self, project: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        """Each {"task", "result", "score", "model_version"}; how many were created."""
        answer = self.call("POST", f"/api/projects/{project}/import/predictions", json=list(predictions))
        return answer["created"]

    # Export

    def export(self, project: int) -> list[JsonObject]:
        """Export as JSON, all tasks. Label Studio keeps a copy of each export in its data folder."""
        parameters = {"exportType": "JSON", "download_all_tasks": "true"}
        answer = self.http.get(f"/api/projects/{project}/export", params=parameters).raise_for_status()
        return answer.json()


def choices(choice: str | Sequence[str], *, from_name: str = "label", to_name: str = "text") -> Result:
    """The result of one `Choices` control."""
    chosen = [choice] if isinstance(choice, str) else list(choice)
    return [{"from_name": from_name, "to_name": to_name, "type": "choices", "value": {"choices": chosen}}]


def choices_config(labels: Iterable[str], *, choice: str = "single", key: str = "text") -> str:
    """A label config with one `Choices` called ``label`` over one `Text` called ``text``."""
    values = "".join(f'<Choice value="{label}"/>' for label in labels)
    return (
        f'<View><Text name="text" value="${key}"/>'
        f'<Choices name="label" toName="text" choice="{choice}">{values}</Choices></View>'
    )
