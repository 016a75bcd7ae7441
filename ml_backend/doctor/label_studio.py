"""Label Studio: its address, the key, its release, its clock, and proxies in between."""

from __future__ import annotations

import time
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ml_backend.doctor.finding import Finding, note, ok, problem
from ml_backend.doctor.redis import skew
from ml_backend.errors import LabelStudioError, LabelStudioUnreachable, SettingsError, WrongToken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_backend.bootstrap import Services

OLDEST_TESTED = (1, 23)


def check(services: Services) -> Iterator[Finding]:
    """Whether it can be asked, whose the key is, and which release it is."""
    settings = services.settings
    if missing := settings.missing_for_label_studio:
        yield problem(
            "label-studio.key" if "LABEL_STUDIO_API_KEY" in missing else "label-studio",
            f"{' and '.join(missing)} not set: only events are known, and nothing can be sent back",
            "set LABEL_STUDIO_URL, and LABEL_STUDIO_API_KEY to a personal access token",
        )
        return
    host = urlsplit(settings.label_studio_url or "").netloc.rpartition("@")[2]
    try:
        with services.label_studio(timeout_s=5.0, patience_s=0.0) as api:
            who = api.check()
            told_us = api.time_us
    except WrongToken as error:
        yield problem("label-studio.key", f"the key is refused: {error}", "create a personal access token")
        return
    except LabelStudioUnreachable as error:
        yield problem("label-studio", str(error), "start Label Studio, or correct LABEL_STUDIO_URL")
        return
    except (LabelStudioError, SettingsError) as error:
        yield problem("label-studio", str(error), "correct LABEL_STUDIO_URL")
        return
    release = tuple(int(part) for part in who.release.split(".")[:2] if part.isdigit())
    if release and release < OLDEST_TESTED:
        yield note("label-studio", f"{host} is release {who.release}; tested is 1.23.2", "upgrade Label Studio")
    else:
        yield ok("label-studio", f"{host} answers, release {who.release or 'not told'}")
    kind: str = who.token_kind
    if kind != "personal":
        yield note(
            "label-studio.key",
            f"a legacy token of {who.email}: an administrator can switch those off at any time",
            "create a personal access token",
        )
    else:
        yield ok("label-studio.key", f"a personal access token of {who.email}")
    if told_us is not None:
        yield skew("clock.label-studio", "Label Studio", time.time() - told_us / 1e6)


def proxy(services: Services) -> Iterator[Finding]:
    """Whether requests to Label Studio would go through a proxy of this machine's environment."""
    proxies, url = urllib.request.getproxies_environment(), services.settings.label_studio_url or ""
    parts = urlsplit(url)
    through = proxies.get(parts.scheme) or proxies.get("all")
    if not through or not parts.hostname:
        yield ok("proxy", "no proxy between this machine and Label Studio")
        return
    if urllib.request.proxy_bypass(parts.hostname):
        yield ok("proxy", f"NO_PROXY leaves {parts.hostname} alone")
        return
    where = urlsplit(through).netloc.rpartition("@")[2]
    yield problem(
        "proxy",
        f"requests to {parts.hostname} go through the proxy {where}",
        f"add {parts.hostname} to NO_PROXY, here and, with this backend's host, where Label Studio runs",
    )
