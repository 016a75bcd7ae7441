"""Becomes the demo's Label Studio: installed by uv where it is not yet, quiet, and told nothing meant for us."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NoReturn

from ml_backend.demo.place import EMAIL, RELEASE
from ml_backend.errors import RefitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ml_backend.demo.place import Place

_OURS = ("LABEL_STUDIO_", "DJANGO_", "ML_BACKEND_", "HEARTEX_")
_LEFT_OUT = {
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "PYTHONHOME",
    "REDIS_URL",
    "SECRET_KEY",
    "BASIC_AUTH_PASS",
    "BASIC_AUTH_USER",
    "PORT",
}


def become(place: Place, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by Label Studio. Raises `RefitError` without uv, or when uv cannot install it."""
    python = _interpreter(environment)
    place.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    arguments = ["start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(place.port)]
    # This very process, so that it ends when the process that started it does.
    os.execve(python, [python, "-m", "label_studio.server", *arguments], told(place, environment))  # noqa: S606 - no shell


def told(place: Place, environment: Mapping[str, str]) -> dict[str, str]:
    """Its environment: ours without what is ours, sending nothing anywhere, and reaching backends on this machine."""
    kept = {k: v for k, v in environment.items() if k not in _LEFT_OUT and not k.startswith(_OURS)}
    return {
        **kept,
        "LABEL_STUDIO_BASE_DATA_DIR": str(place.data),
        "LABEL_STUDIO_USERNAME": EMAIL,
        "LABEL_STUDIO_PASSWORD": place.password,
        "SSRF_PROTECTION_ENABLED": "false",
        "ML_BLOCK_LOCAL_IP": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
    }


def uv(environment: Mapping[str, str]) -> list[str]:
    """The command that runs tools. Raises `RefitError` where there is none."""
    if found := environment.get("UV"):  # set by uv in everything that it runs
        return [found, "tool", "run"]
    for name, arguments in (("uvx", []), ("uv", ["tool", "run"])):
        if found := shutil.which(name):
            return [found, *arguments]
    raise RefitError("uv is needed to run the demo's Label Studio: pip install uv")


def _interpreter(environment: Mapping[str, str]) -> str:
    """The Python of an environment that holds Label Studio; uv makes it once, in its cache."""
    asked = [
        *uv(environment),
        "--from",
        f"label-studio=={RELEASE}",
        "python",
        "-c",
        "import sys; print(sys.executable)",
    ]
    clean = {k: v for k, v in environment.items() if k not in _LEFT_OUT}
    done = subprocess.run(asked, env=clean, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RefitError(f"uv could not install label-studio {RELEASE}: see above")
    return done.stdout.strip()
