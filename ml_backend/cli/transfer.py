"""export and import: a project's state as JSON lines, for backups and for moving house."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend import __version__
from ml_backend.cli.show import find_uid, open_services
from ml_backend.cli.terminal import Console
from ml_backend.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ml_backend.settings import Settings

_STREAM = "-"


def export_state(settings: Settings, project: str | None, to: str) -> None:
    """Write the export to a file, whole or not at all and readable by its owner only; ``-`` is standard output."""
    services = open_services(settings)
    uid = find_uid(services, project)
    lines = services.transfer().lines(uid, release=__version__, now=time.time())
    if to == _STREAM:
        _write(sys.stdout.buffer, lines)
        return
    target = Path(to)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                count = _write(file, lines)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput("--to", f"{target} cannot be written: {error.strerror}") from error
    _say(f"exported project {uid} to {target}, {count} lines. Versions lie in {services.settings.store_url}")


def import_state(settings: Settings, source: str, *, replace: bool) -> None:
    """Read an export; raises what `Transfer.take_in` raises."""
    services = open_services(settings)
    with ExitStack() as opened:
        try:
            file = sys.stdin.buffer if source == _STREAM else opened.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise BadInput("file", f"{source} cannot be read: {error.strerror}") from error
        uid = services.transfer().take_in(file, now=time.time(), replace=replace)
    _say(f"imported project {uid}; it is compared with Label Studio when that can be asked")


def _write(file: BinaryIO, lines: Iterator[bytes]) -> int:
    count = 0
    for line in lines:
        file.write(line + b"\n")
        count += 1
    return count


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, highlight=False, markup=False)
