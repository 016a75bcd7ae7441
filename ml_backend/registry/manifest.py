"""What a version says of itself: the manifest, its JSON, the names in it, and task ids written compactly."""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Iterable, Iterator  # noqa: TC003 - pydantic reads the annotations of this module
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from ml_backend.errors import ModelError, RegistryError, VersionCorrupt
from ml_backend.uids import is_uid

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"

_NAME = re.compile(r"v(\d{1,18})-\d{8}-\d{4}", re.ASCII)
_PLAIN_IDS_LIMIT = 4096  # characters; longer lists are compressed
_IDS_LIMIT = 256 * 1024 * 1024  # bytes after decompression: more is damage, not data
_MOST_IDS = 20_000_000

Status = Literal["serving", "standby", "kept aside"]
"""Serving: the alias names it. Standby: good enough when it was compared, not serving now. Kept aside: it was not."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version; ``sha256`` as 64 hex digits, ``size`` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """Whether a version was found good enough to serve when it was made, and why: one sentence for people."""

    promoted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Metrics:
    """Scores by name, of the version and of the one that served then, on ``compared_on`` examples new to both.

    In small projects: new to the models that answered about them, made as the versions were (see `left_out`).

    ``information`` holds what decided nothing, such as a cross-validated score.
    """

    candidate: dict[str, float] = field(default_factory=dict)
    incumbent: dict[str, float] = field(default_factory=dict)
    compared_on: int = 0
    information: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything known of one version. `Registry.publish` fills in number, name, files and time.

    ``created_at`` is seconds since the epoch, ``durations`` seconds, ``trained_on`` task ids (see `encode_ids`),
    ``parent`` the number of the version it started from and was compared with, ``sizes`` counts such as examples,
    ``seq`` how far the project's changes were in the training set (None in versions of older releases), ``left_out``
    what its model answered about tasks that it was trained without (see `left_out.encode`; empty in older ones).
    """

    number: int = 0
    name: str = ""
    created_at: float = 0.0
    files: dict[str, FileEntry] = field(default_factory=dict)
    trained_on: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    promotion: Promotion = field(default_factory=lambda: Promotion(promoted=True, reason=""))
    counters: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    label_config_hash: str = ""
    label_config: str | None = None
    trigger: str = ""
    reason: str = ""
    run: str = ""
    seq: int | None = None
    durations: dict[str, float] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    parent: int | None = None
    seed: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    left_out: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def trained_on_ids(self) -> frozenset[int]:
        """Ids of the tasks it was trained on. Raises `VersionCorrupt` when they cannot be read."""
        return decode_ids(self.trained_on)


@dataclass(frozen=True, slots=True)
class Version:
    """One published version of one project."""

    uid: str
    manifest: Manifest
    status: Status

    @property
    def number(self) -> int:
        """Its number, never used twice within the project."""
        return self.manifest.number

    @property
    def name(self) -> str:
        """The name that Label Studio sees: ``v12-20261122-0755``."""
        return self.manifest.name


_ADAPTER = TypeAdapter(Manifest)


def version_name(number: int, now: float) -> str:
    """The unique, readable name of version ``number`` published at ``now``: ``v12-20261122-0755`` (UTC)."""
    return f"v{number}-{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M}"


def version_number(name: str) -> int | None:
    """The number in a version's name, ours or a plain class's own with the number behind it (``mine-v0.1-12``)."""
    ours = _NAME.fullmatch(name)
    number = ours[1] if ours else name.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) <= 18 else None


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON; scores that are not finite are left out, since JSON has no word for them."""
    metrics = Metrics(
        candidate=_finite(manifest.metrics.candidate),
        incumbent=_finite(manifest.metrics.incumbent),
        compared_on=manifest.metrics.compared_on,
        information=_finite(manifest.metrics.information),
    )
    clean = replace(manifest, metrics=metrics, durations=_finite(manifest.durations))
    return orjson.dumps(clean, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)


def decode(data: bytes) -> Manifest:
    """Read a manifest.

    Raises `VersionCorrupt` when it is not one or names a file outside its folder, `RegistryError` when a newer
    release of this program wrote it.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise VersionCorrupt(f"{MANIFEST} is not JSON: {error}") from error
    schema = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(schema, int):
        raise VersionCorrupt(f"{MANIFEST} has no schema_version")
    if schema > SCHEMA_VERSION:
        raise RegistryError(
            f"this version was written by a newer release (manifest schema {schema}, this one reads {SCHEMA_VERSION}): "
            "upgrade ml-backend here too"
        )
    try:
        manifest = _ADAPTER.validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VersionCorrupt(f"{MANIFEST}: {where}: {first['msg']}") from error
    for name in manifest.files:
        if (why := unsafe(name)) is not None:
            raise VersionCorrupt(f"{MANIFEST} names the file {name!r}, which {why}")
    return manifest


def unsafe(name: str) -> str | None:
    """Why ``name`` cannot be a file of a version (relative, ``/`` between parts); None when it can."""
    parts = name.split("/")
    if name.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        return "leads out of the version's folder"
    if "\\" in name or not name.isprintable() or len(name.encode("utf-8", "replace")) > 1024:
        return "holds a character that not every store can keep, or is too long"
    if name == MANIFEST:
        return "is the registry's own"
    return None


def check_file_name(name: str) -> str:
    """``name`` itself, for a file that a model wrote. Raises `ModelError` when a version cannot hold such a file."""
    if (why := unsafe(name)) is not None:
        raise ModelError(f"the model wrote the file {name!r}, which {why}")
    return name


def check_uid(uid: str) -> str:
    """``uid`` itself. Raises `RegistryError` when it is not ``<project id>.<created_at in whole seconds>``."""
    if not is_uid(uid):
        raise RegistryError(f"{uid!r} is not a project uid")
    return uid


def encode_ids(ids: Iterable[int]) -> str:
    """Task ids as ranges (``1-100,103``); long lists compressed (``z:`` and base64), since a manifest is read often."""
    plain = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in _ranges(sorted(set(ids))))
    if len(plain) <= _PLAIN_IDS_LIMIT:
        return plain
    return "z:" + base64.b64encode(zlib.compress(plain.encode(), 9)).decode()


def decode_ids(text: str) -> frozenset[int]:
    """The ids of `encode_ids`. Raises `VersionCorrupt` when the text is not of its making."""
    try:
        if text.startswith("z:"):
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(base64.b64decode(text[2:], validate=True), _IDS_LIMIT).decode()
            if not unpacker.eof:
                raise VersionCorrupt("the list of task ids is cut short or far too long")
        else:
            plain = text
        found: set[int] = set()
        for part in plain.split(",") if plain else ():
            low, _, high = part.partition("-")
            span = range(int(low), int(high or low) + 1)
            if len(span) + len(found) > _MOST_IDS:
                raise VersionCorrupt("the list of task ids is far too long")
            found.update(span)
    except (ValueError, zlib.error) as error:
        raise VersionCorrupt(f"the list of task ids cannot be read: {error}") from error
    return frozenset(found)


def _ranges(ids: list[int]) -> Iterator[tuple[int, int]]:
    start = previous = None
    for number in ids:
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None and previous is not None:
            yield start, previous
        start = previous = number
    if start is not None and previous is not None:
        yield start, previous


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
