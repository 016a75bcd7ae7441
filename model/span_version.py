"""The files of one version of the span tagger: names as JSON, numbers as plain arrays; neither can run code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model.span_crf import Field
from model.span_features import Features

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAMES, _ARRAYS, _FORMAT = "span_tagger.json", "span_tagger.npz", 1


@dataclass(frozen=True, slots=True)
class Head:
    """What one control learnt."""

    features: Features
    model: Field


def write(directory: Path, heads: Mapping[str, Head]) -> None:
    """Write a version's files into ``directory``. Raises `OSError`."""
    names: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for at, (control, head) in enumerate(heads.items()):
        arrays |= {f"weights.{at}": head.model.weights, f"steps.{at}": head.model.steps}
        names.append(
            {
                "control": control,
                "labels": head.model.labels,
                "bold": head.model.bold,
                "slope": head.model.slope,
                "shift": head.model.shift,
                "features": list(head.features.numbers),
                "small": sorted(head.features.small),
            }
        )
    (directory / _NAMES).write_text(json.dumps({"format": _FORMAT, "heads": names}), encoding="ascii")
    np.savez(directory / _ARRAYS, **arrays)


def read(directory: Path) -> dict[str, Head]:
    """Read them. Raises `OSError`, `KeyError` or `ValueError` when they are not a version's files."""
    names = json.loads((directory / _NAMES).read_text(encoding="ascii"))
    if names["format"] != _FORMAT:
        raise ValueError(f"{_NAMES} has format {names['format']}, and {_FORMAT} is what can be read: train again")
    heads: dict[str, Head] = {}
    with np.load(directory / _ARRAYS, allow_pickle=False) as arrays:
        for at, one in enumerate(names["heads"]):
            numbers = {name: number for number, name in enumerate(one["features"])}
            weights, steps, labels = arrays[f"weights.{at}"], arrays[f"steps.{at}"], tuple(one["labels"])
            size = 2 * len(labels) + 1
            if weights.shape != (len(numbers), size) or steps.shape != (size, size):
                raise ValueError(f"{_ARRAYS} and {_NAMES} do not belong together")
            model = Field(labels, weights, steps, one["bold"], one["slope"], one["shift"])
            heads[one["control"]] = Head(Features(numbers, frozenset(one["small"])), model)
    return heads
