"""What has to change in Label Studio so that a project is connected as it must be. Pure; planned again, nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ml_backend.connecting.addresses import Login, bare, bare_of_webhook, basic, login_of, webhook_of, without_login
from ml_backend.label_studio import Connection, WantedConnection, Webhook

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

SECRET_HEADER = "X-Refit-Secret"  # noqa: S105 - the header's name, as the web server takes it
NEEDED = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "PROJECT_UPDATED",
    }
)
_REFUSED_STATES = frozenset({"ER", "DI"})


@dataclass(frozen=True, slots=True)
class Ours:
    """How to know what is ours in a project.

    ``url`` is where Label Studio reaches this backend, ``login`` what it must give (None: nothing is asked for),
    ``passwords`` all that are taken, ``earlier`` addresses that it was connected at before, and ``versions`` names
    that only our versions have.
    """

    url: str
    login: Login | None = field(default=None, repr=False)
    passwords: frozenset[str] = field(default=frozenset(), repr=False)
    earlier: frozenset[str] = frozenset()
    versions: frozenset[str] = frozenset()

    @property
    def places(self) -> frozenset[str]:
        """Bare addresses of this backend, now and before."""
        return frozenset({bare(self.url), *(bare(one) for one in self.earlier)}) - {""}

    def leads_here(self, url: str) -> bool:
        """Whether a connection's URL is one of this backend's: by its place, or by a password that only it takes."""
        login = login_of(url)
        return bare(url) in self.places or (login is not None and login[1] in self.passwords)


@dataclass(frozen=True, slots=True)
class Step:
    """One change. ``what`` is for people and holds no secret.

    Exactly one of the others is set: a connection to make, one to change (with what is wanted), a webhook to make (id
    0), one to change, one to delete.
    """

    what: str
    create: WantedConnection | None = None
    change: tuple[Connection, WantedConnection] | None = None
    webhook: Webhook | None = None
    remove: Webhook | None = None


def connections_here(ours: Ours, connections: Iterable[Connection]) -> list[Connection]:
    """The connections that lead to this backend, those at its present address first."""
    found = [
        one
        for one in connections
        if ours.leads_here(one.url) or one.title in ours.versions or one.model_version in ours.versions
    ]
    return sorted(found, key=lambda one: (bare(one.url) != bare(ours.url), one.id))


def plan_connection(
    ours: Ours,
    connections: Sequence[Connection],
    *,
    title: str = "ml-backend",
    extra_params: object = None,
    stale_password: bool = False,
) -> Step | None:
    """The connection to make or to change; None when it is as it must be.

    ``extra_params`` None leaves them as they are. ``stale_password``: it is known that the stored one is an old one.
    """
    mine = connections_here(ours, connections)
    if not mine:
        made = WantedConnection(without_login(ours.url), title, ours.login, extra_params)
        return Step(f"connected at {made.url}", create=made)
    one = mine[0]
    kept = one.extra_params if extra_params is None else extra_params
    in_url = login_of(one.url)
    if bare(one.url) == bare(ours.url) and in_url is not None and in_url == ours.login:
        # Pasted from the terminal: the credentials in the URL reach every call, the form's own stay empty.
        wanted = WantedConnection(one.url, one.title, None, kept)
    elif bare(one.url) == bare(ours.url) and in_url is None:
        wanted = WantedConnection(one.url, one.title, ours.login, kept)
    else:
        wanted = WantedConnection(without_login(ours.url), one.title, ours.login, kept)
    wrong = list(_differences(one, wanted))
    if stale_password and not wrong:
        wrong = ["a new password"]
    if one.state in _REFUSED_STATES and not wrong:
        wrong = [f"tried again, it was in error: {one.error}" if one.error else "tried again, it was in error"]
    if not wrong:
        return None
    return Step(f"connection {one.id}: {', '.join(wrong)}", change=(one, wanted))


def plan_webhooks(
    ours: Ours, connection_url: str, webhooks: Sequence[Webhook], others: Collection[str] = ()
) -> list[Step]:
    """What has to change about the project's own webhooks, so that exactly one brings us everything.

    ``connection_url`` is that of our connection, ``others`` those of connections to somebody else's backends, whose
    webhooks are left alone. Webhooks of the organization are nobody's to change here.
    """
    mine = webhooks_here(ours, webhooks, others)
    wanted_url = webhook_of(connection_url)
    headers = {} if login_of(connection_url) is not None or ours.login is None else {"Authorization": basic(ours.login)}
    if not mine:
        made = Webhook(0, None, wanted_url, True, True, True, (), headers)
        return [Step("webhook made, with credentials and payload", webhook=made)]
    kept = min(mine, key=lambda one: (bare(one.url) != bare(wanted_url), not _is_right(ours, one, wanted_url), one.id))
    steps: list[Step] = []
    if wrong := list(_wrong(ours, kept, wanted_url)):
        # Where the credentials are taken from a header that works already, it stays.
        given = kept.headers if authorised(ours, replace(kept, url=wanted_url)) else _with(kept.headers, headers)
        right = replace(
            kept,
            url=wanted_url,
            active=True,
            send_payload=True,
            all_actions=kept.all_actions or not set(kept.actions) >= NEEDED,
            headers=given,
        )
        steps.append(Step(f"webhook {kept.id}: {', '.join(wrong)}", webhook=right))
    for one in mine:
        if one is not kept:
            why = "it brought every event twice" if bare(one.url) == bare(wanted_url) else "no connection leads there"
            steps.append(Step(f"webhook {one.id} at {without_login(one.url)} removed: {why}", remove=one))
    return steps


def webhooks_here(ours: Ours, webhooks: Iterable[Webhook], others: Collection[str] = ()) -> list[Webhook]:
    """The project's webhooks that lead to this backend, or once did."""
    theirs = {bare(one) for one in others}
    return [
        one
        for one in webhooks
        if one.project_id is not None and bare_of_webhook(one.url) not in theirs and _is_ours(ours, one)
    ]


def authorised(ours: Ours, webhook: Webhook) -> bool:
    """Whether this backend takes what the webhook sends: credentials in its URL or in a header."""
    if ours.login is None:
        return True
    if any(value == basic(ours.login) for name, value in webhook.headers.items() if name.lower() == "authorization"):
        return True
    secret = [value for name, value in webhook.headers.items() if name.lower() == SECRET_HEADER.lower()]
    return login_of(webhook.url) == ours.login or ours.login[1] in secret


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a webhook of ours: in words for when it is ``found``, and for after it was ``mended``."""

    found: str
    mended: str


def faults_of(ours: Ours, webhook: Webhook) -> list[Fault]:
    """Why events would not arrive, or would say too little, wherever it leads."""
    found: list[Fault] = []
    if not authorised(ours, webhook):
        found.append(Fault("carries no valid credentials: its events are refused", "credentials added"))
    if not webhook.active:
        found.append(Fault("is switched off", "switched on"))
    if not webhook.send_payload:
        found.append(Fault("sends no payload", "payload switched on"))
    missing = ", ".join([] if webhook.all_actions else sorted(NEEDED - set(webhook.actions)))
    if missing:
        found.append(Fault(f"leaves out {missing}", f"events added ({missing})"))
    return found


def stale_password(ours: Ours, webhooks: Iterable[Webhook]) -> bool:
    """Whether a webhook still has a password that is taken, but is not the present one: the connection has it too."""
    if ours.login is None:
        return False
    old = ours.passwords - {ours.login[1]}
    headers = {basic((ours.login[0], one)) for one in old}
    for one in webhooks:
        login = login_of(one.url)
        if (login is not None and login[1] in old) or any(value in headers for value in one.headers.values()):
            return True
    return False


def _with(headers: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    replaced = {name.lower() for name in given}
    return {**{name: value for name, value in headers.items() if name.lower() not in replaced}, **given}


def _differences(connection: Connection, wanted: WantedConnection) -> Iterable[str]:
    if connection.url != wanted.url:
        yield f"now at {without_login(wanted.url)}"
    if connection.basic_auth_user != (wanted.login and wanted.login[0]):
        yield "credentials set" if wanted.login is not None else "credentials removed"
    if (connection.extra_params or None) != (wanted.extra_params or None):
        yield "extra params set"


def _is_ours(ours: Ours, webhook: Webhook) -> bool:
    place = bare_of_webhook(webhook.url)
    if not place:
        return False
    login = login_of(webhook.url)
    known = {basic((ours.login[0], one)) for one in ours.passwords} if ours.login is not None else set()
    return (
        place in ours.places
        or (login is not None and login[1] in ours.passwords)
        or any(value in known or value in ours.passwords for value in webhook.headers.values())
    )


def _is_right(ours: Ours, webhook: Webhook, wanted_url: str) -> bool:
    return not list(_wrong(ours, webhook, wanted_url))


def _wrong(ours: Ours, webhook: Webhook, wanted_url: str) -> Iterable[str]:
    if bare(webhook.url) != bare(wanted_url):
        yield f"now at {without_login(wanted_url)}"
    yield from (one.mended for one in faults_of(ours, webhook))
