"""The files of one version of the text classifier: names as JSON, numbers as plain arrays.

Neither can run code when it is read. skops would do that too, but a pipeline with vocabularies of this size takes it
more than a hundred times as long to load, and eight times the room; measured in ``benchmarks/README.md``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from model.calibrated import Calibrated
from model.text_ngrams import NGrams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_NAMES, _ARRAYS, _FORMAT = "text_classifier.json", "text_classifier.npz", 1
_NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Head:
    """One trained control: its place among the vocabularies, and its classifier."""

    ngrams: int
    classifier: Calibrated


def write(directory: Path, vocabularies: Sequence[NGrams], heads: Mapping[str, Head]) -> None:
    """Write a version's files into ``directory``. Raises `OSError`."""
    names: dict[str, Any] = {"format": _FORMAT, "vocabularies": [], "heads": []}
    arrays: dict[str, Any] = {}
    for at, ngrams in enumerate(vocabularies):
        names["vocabularies"].append({"words": list(ngrams.words), "runs": list(ngrams.runs)})
        arrays |= {f"pairs.{at}": ngrams.pairs, f"idf.{at}": ngrams.idf}
    for at, (control, head) in enumerate(heads.items()):
        arrays |= {f"weights.{at}": head.classifier.weights, f"bias.{at}": head.classifier.bias}
        plain = asdict(replace(head.classifier, weights=_NOTHING, bias=_NOTHING))
        del plain["weights"], plain["bias"]
        names["heads"].append({"control": control, "ngrams": head.ngrams, **plain})
    (directory / _NAMES).write_text(json.dumps(names), encoding="ascii")
    np.savez(directory / _ARRAYS, **arrays)


def read(directory: Path) -> tuple[list[NGrams], dict[str, Head]]:
    """Read them. Raises `OSError`, `KeyError` or `ValueError` when they are not a version's files."""
    names = json.loads((directory / _NAMES).read_text(encoding="ascii"))
    if names["format"] != _FORMAT:
        raise ValueError(f"{_NAMES} has format {names['format']}, and {_FORMAT} is what can be read: train again")
    heads: dict[str, Head] = {}
    with np.load(directory / _ARRAYS, allow_pickle=False) as arrays:
        vocabularies = [
            NGrams(_numbered(one["words"]), arrays[f"pairs.{at}"], _numbered(one["runs"]), arrays[f"idf.{at}"])
            for at, one in enumerate(names["vocabularies"])
        ]
        for at, one in enumerate(names["heads"]):
            control, ngrams, labels = one.pop("control"), one.pop("ngrams"), tuple(one.pop("labels"))
            weights, bias = arrays[f"weights.{at}"], arrays[f"bias.{at}"]
            if weights.shape != (vocabularies[ngrams].width, len(labels)) or bias.shape != (len(labels),):
                raise ValueError(f"{_ARRAYS} and {_NAMES} do not belong together")
            heads[control] = Head(ngrams, Calibrated(labels=labels, weights=weights, bias=bias, **one))
    return vocabularies, heads


def _numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}
