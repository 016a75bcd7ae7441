"""What models answered about tasks that they were trained without: how small projects compare two versions. Pure.

A project with fewer than 150 tasks holds none out, and of the tasks that have answers its versions have seen all. But a
model that validates itself trains a few times without some of them: what it then says about these saw no answer
either. Kept with the version and judged by the answers as they are now, it stands for the version.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from ml_backend import scores
from ml_backend.errors import VersionCorrupt
from ml_backend.examples import labels_of
from ml_backend.jsonable import jsonable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ml_backend.examples import Example, JsonObject
    from ml_backend.label_config import Control

Reported = Mapping[int, Mapping[str, "Sequence[JsonObject]"]]
"""By task, and then by control tag: the regions that a model answered which was trained without that task."""

LARGEST = 1000
"""Tasks that a version learned from, at most: larger projects hold enough out, and this would make manifests long."""

_DECODED_LIMIT = 16 * 1024 * 1024  # bytes; more is damage, not data
# Where a region lies, without any of the user's own text.
_PLACE = ("start", "end", "startOffset", "endOffset", "globalOffsets", "x", "y", "width", "height")


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered about one task. ``data`` is a digest of the task's data, ``controls`` the tags asked about."""

    data: str
    controls: tuple[str, ...]
    regions: tuple[JsonObject, ...]


def collected(examples: Iterable[Example], reported: Reported) -> dict[int, Answered]:
    """What a model reported, as it is kept with its version: places and labels alone; of tasks in ``examples`` only."""
    found: dict[int, Answered] = {}
    for example in examples:
        answers = reported.get(example.id)
        if not answers:
            continue
        regions = tuple(_trimmed(name, region) for name, some in answers.items() for region in jsonable(list(some)))
        found[example.id] = Answered(_digest(example), tuple(sorted(answers)), regions)
    return found


def compare(
    controls: Sequence[Control],
    examples: Iterable[Example],
    candidate: Mapping[int, Answered],
    incumbent: Mapping[int, Answered],
) -> scores.Comparison | None:
    """Compare two versions on the tasks that both have such an answer about, judged by the examples as they are now.

    None when there are none, or nothing that a scorer is shipped for. A task whose data changed does not count.
    """
    shared: list[Example] = []
    for example in examples:
        new, old = candidate.get(example.id), incumbent.get(example.id)
        if new is None or old is None or new.controls != old.controls or new.data != old.data:
            continue
        if _digest(example) == new.data:
            shared.append(example)
    asked = {name for example in shared for name in candidate[example.id].controls}
    tags = [control for control in controls if control.name in asked]
    new_scores = scores.score(tags, shared, [candidate[one.id].regions for one in shared])
    old_scores = scores.score(tags, shared, [incumbent[one.id].regions for one in shared])
    if new_scores is None or old_scores is None:
        return None
    return replace(scores.compare(new_scores, old_scores), left_out=True)


def encode(answered: Mapping[int, Answered]) -> str:
    """Compact text for a manifest; empty for nothing."""
    if not answered:
        return ""
    rows = [[task, one.data, one.controls, one.regions] for task, one in sorted(answered.items())]
    return base64.b64encode(zlib.compress(orjson.dumps(rows), 9)).decode()


def decode(text: str) -> dict[int, Answered]:
    """What `encode` wrote. Raises `VersionCorrupt` when the text is not of its making."""
    if not text:
        return {}
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(base64.b64decode(text, validate=True), _DECODED_LIMIT)
        if not unpacker.eof:
            raise VersionCorrupt("the answers about tasks that were left out are cut short or far too long")
        return dict(_row(row) for row in orjson.loads(plain))
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise VersionCorrupt(f"the answers about tasks that were left out cannot be read: {error}") from error


def _row(row: Any) -> tuple[int, Answered]:  # noqa: ANN401 - JSON
    task, data, controls, regions = row
    if not isinstance(task, int) or not isinstance(data, str) or not all(isinstance(one, dict) for one in regions):
        raise ValueError(f"{row!r:.80}")
    return task, Answered(data, tuple(str(name) for name in controls), tuple(regions))


def _trimmed(control: str, region: JsonObject) -> JsonObject:
    kind, value = region.get("type"), region.get("value")
    if not isinstance(value, Mapping):
        value = {}
    kept: JsonObject = {name: value[name] for name in _PLACE if name in value}
    # What `labels_of` reads.
    named = "labels" if kind == "labels" else str(kind)
    kept[named] = list(labels_of(region))
    found: JsonObject = {"from_name": control, "type": kind, "value": kept}
    if "item_index" in region:  # which of several pictures
        found["item_index"] = region["item_index"]
    return found


def _digest(example: Example) -> str:
    task = example.task
    what = [task.get("created_at_us"), task.get("data")]  # ids are used again (fact 5)
    return hashlib.blake2b(orjson.dumps(what, option=orjson.OPT_SORT_KEYS), digest_size=6).hexdigest()
