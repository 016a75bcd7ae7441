"""The part of the API that connects: a project's backends and its webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_backend.label_studio.records import (
    Connection,
    WantedConnection,
    Webhook,
    read_connection,
    read_list,
    read_one,
    read_webhook,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ml_backend.label_studio.transport import Transport


class ConnectionCalls:
    """What `LabelStudioApi` can do about connections and webhooks; raises what it raises."""

    _transport: Transport

    def connections(self, project_id: int) -> list[Connection]:
        """The project's backends. Label Studio asks each of them for /health and /setup before it answers."""
        answer = self._transport.json("GET", "/api/ml/", parameters={"project": project_id})
        return read_list(answer, read_connection, "connections")

    def create_connection(self, project_id: int, wanted: WantedConnection) -> Connection:
        """Connect a backend. Label Studio asks it for /health and /setup first, and refuses what does not answer.

        It also creates a webhook without credentials, unless one with the same URL is there (fact 2).
        """
        body = {"project": project_id, "title": wanted.title, **_connected(wanted)}
        answer = self._transport.json("POST", "/api/ml/", body=body, repeatable=False)
        return read_one(answer, read_connection, "a connection")

    def update_connection(self, connection: Connection, wanted: WantedConnection) -> None:
        """Set address, credentials and extra params; its webhook does not follow (fact 3)."""
        body = {"project": connection.project_id, "title": wanted.title, **_connected(wanted)}
        # An address that does not resolve is a 500: not to be tried for long.
        self._transport.json("PATCH", f"/api/ml/{connection.id}", body=body, repeatable=False)

    def delete_connection(self, connection_id: int) -> None:
        """Delete it; its webhook stays (fact 3)."""
        self._transport.json("DELETE", f"/api/ml/{connection_id}")

    def rename_connection(self, connection: Connection, title: str) -> None:
        """Rename it; the project's ``model_version`` follows if it was the old title (fact 16).

        The whole connection is sent again, since Label Studio checks what it is sent against the backend: without
        address and project it answers 500, without the user 400, without extra params /setup would lose them.
        """
        body: dict[str, object] = {
            "title": title,
            "url": connection.url,
            "project": connection.project_id,
            "extra_params": connection.extra_params,
        }
        if connection.basic_auth_user is not None:
            # An empty password keeps the stored one.
            body |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": connection.basic_auth_user,
                "basic_auth_pass": "",
            }
        self._transport.json("PATCH", f"/api/ml/{connection.id}", body=body)

    def webhooks(self, project_id: int | None = None) -> list[Webhook]:
        """The project's webhooks; without a project, those that the key's owner can see of the whole organization."""
        parameters = {} if project_id is None else {"project": project_id}
        return read_list(self._transport.json("GET", "/api/webhooks/", parameters=parameters), read_webhook, "webhooks")

    def create_webhook(self, project_id: int, url: str, headers: Mapping[str, str] | None = None) -> Webhook:
        """Create one for all actions with payload."""
        body = {
            "project": project_id,
            "url": url,
            "headers": dict(headers or {}),
            "send_payload": True,
            "send_for_all_actions": True,
        }
        return read_one(
            self._transport.json("POST", "/api/webhooks/", body=body, repeatable=False), read_webhook, "a webhook"
        )

    def update_webhook(self, webhook: Webhook) -> None:
        """Store it as given. Everything is sent: Label Studio takes actions that are left out for none."""
        body = {
            "url": webhook.url,
            "is_active": webhook.active,
            "send_payload": webhook.send_payload,
            "send_for_all_actions": webhook.all_actions,
            "actions": list(webhook.actions),
            "headers": webhook.headers,
        }
        self._transport.json("PATCH", f"/api/webhooks/{webhook.id}/", body=body)

    def delete_webhook(self, webhook_id: int) -> None:
        """Delete it."""
        self._transport.json("DELETE", f"/api/webhooks/{webhook_id}/")


def _connected(wanted: WantedConnection) -> dict[str, object]:
    body: dict[str, object] = {"url": wanted.url, "extra_params": wanted.extra_params}
    if wanted.login is None:
        return {**body, "auth_method": "NONE", "basic_auth_user": ""}
    user, password = wanted.login
    return {**body, "auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
