"""The file of one version of the box detector: plain arrays, the names among them; it cannot run code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from model.box_finding import WIDTH, Finder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAMES, _ARRAYS, _FORMAT = "box_detector.json", "box_detector.npz", 1
_PLAIN = ("labels", "slope", "shift", "threshold")
_LEARNT = ("sizes", "weights", "bias", "moves")


def write(directory: Path, finders: Mapping[str, Finder]) -> None:
    """Write a version's files into ``directory``. Raises `OSError`."""
    heads = [
        {"control": control, **{name: getattr(finder, name) for name in _PLAIN}} for control, finder in finders.items()
    ]
    arrays: dict[str, Any] = {
        f"{name}.{at}": getattr(finder, name) for at, finder in enumerate(finders.values()) for name in _LEARNT
    }
    (directory / _NAMES).write_text(json.dumps({"format": _FORMAT, "heads": heads}), encoding="ascii")
    np.savez(directory / _ARRAYS, **arrays)


def read(directory: Path) -> dict[str, Finder]:
    """Read them. Raises `OSError`, `KeyError` or `ValueError` when they are not a version's files."""
    names = json.loads((directory / _NAMES).read_text(encoding="ascii"))
    if names["format"] != _FORMAT:
        raise ValueError(f"{_NAMES} has format {names['format']}, and {_FORMAT} is what can be read: train again")
    finders: dict[str, Finder] = {}
    with np.load(directory / _ARRAYS, allow_pickle=False) as arrays:
        for at, one in enumerate(names["heads"]):
            labels, learnt = tuple(one["labels"]), {name: arrays[f"{name}.{at}"] for name in _LEARNT}
            shapes = (WIDTH, len(labels)), (len(labels),), (WIDTH + 1, 4)
            if tuple(learnt[name].shape for name in _LEARNT[1:]) != shapes or learnt["sizes"].shape[1:] != (2,):
                raise ValueError(f"{_ARRAYS} and {_NAMES} do not belong together")
            plain = {name: one[name] for name in _PLAIN if name != "labels"}
            finders[one["control"]] = Finder(labels=labels, **plain, **learnt)
    return finders
