"""The shipped span tagger on WNUT-17, beside spaCy's blank entity recognizer trained on the same data for as long.

Usage: python -m benchmarks.wnut17 [--json] [--short] [--rounds N]
spaCy is installed apart, through `uv run --with spacy`; where it cannot be, its column stays empty and says why.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.banking77 import BINS, ListedExamples, PlainRun
from benchmarks.common import Options, Row, folder, options, report
from ml_backend.examples import Example, LabelledAnnotation
from model.span_tagger import SpanTagger

DATA = Path(__file__).parent / "data" / "wnut17"
LABELS = ("corporation", "creative-work", "group", "location", "person", "product")
CONFIG = (
    '<View><Labels name="label" toName="text">'
    + "".join(f'<Label value="{label}"/>' for label in LABELS)
    + '</Labels><Text name="text" value="$text"/></View>'
)


@dataclass(frozen=True)
class Quality:
    """Exact entities: place, length and label."""

    right: int
    guessed: int
    given: int

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.guessed + self.given)


def sentences(name: str) -> list[Example]:
    """Each sentence as a task whose text has one space between words, with one annotation."""
    lines = gzip.decompress((DATA / f"{name}.conll.gz").read_bytes()).decode().split("\n")
    blocks = [list(block) for words, block in groupby(lines, lambda line: bool(line.strip())) if words]
    return [_example(number, block) for number, block in enumerate(blocks)]


def _example(number: int, lines: list[str]) -> Example:
    text, spans = "", []
    for word, tag in (line.split("\t") for line in lines):
        start = len(text) + bool(text)
        text = f"{text} {word}" if text else word
        if tag.startswith("B-"):
            spans.append({"start": start, "end": len(text), "labels": [tag[2:]]})
        elif tag.startswith("I-"):
            spans[-1]["end"] = len(text)
    regions = [{"from_name": "label", "to_name": "text", "type": "labels", "value": one} for one in spans]
    return Example({"id": number, "data": {"text": text}}, (LabelledAnnotation(number, regions, 0, 0),))


def learnt(examples: list[Example], where: Path, seed: int) -> tuple[SpanTagger, float, dict[str, float]]:
    """A version trained and loaded as the backend does it; the seconds, calibration and files included; its metrics."""
    model = SpanTagger(label_config=CONFIG)
    began = time.monotonic()
    metrics = model.train(ListedExamples(CONFIG, examples), PlainRun(where, seed))
    took = time.monotonic() - began
    model.load(where)
    return model, took, metrics


def tested(model: SpanTagger, examples: list[Example]) -> tuple[Quality, float]:
    """The quality on these, and how far confidence is from it (expected calibration error, 15 bins)."""
    right = guessed = given = 0
    sure: list[tuple[float, bool]] = []
    answers = model.predict([example.task for example in examples])
    for example, answer in zip(examples, answers, strict=True):
        truth = {_place(region) for region in example.results("label")}
        said = {_place(region): region["score"] for region in answer["result"]} if answer else {}
        right, guessed, given = right + len(truth & said.keys()), guessed + len(said), given + len(truth)
        sure += [(score, place in truth) for place, score in said.items()]
    scores, hits = np.array([score for score, _ in sure]), np.array([hit for _, hit in sure])
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    shares = [bins == number for number in range(BINS)]
    error = sum(share.mean() * abs(scores[share].mean() - hits[share].mean()) for share in shares if share.any())
    return Quality(right, guessed, given), float(error)


def _place(region: dict[str, Any]) -> tuple[int, int, str]:
    return region["value"]["start"], region["value"]["end"], region["value"]["labels"][0]


def spacys(seconds: float, seed: int) -> tuple[Quality | None, str]:
    """spaCy's quality after that many seconds of training, and a note: how far it came, or why there is none."""
    program = Path(__file__).with_name("spacy_ner.py")
    files = [str(DATA / f"{name}.conll.gz") for name in ("train", "dev")]
    command = ["uv", "run", "--quiet", "--no-project", "--with", "spacy", "python", "-P", str(program), *files]
    try:
        done = subprocess.run(
            [*command, str(seconds), str(seed)], capture_output=True, text=True, timeout=1_800, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return None, f"no spaCy: {said[-1] if said else type(error).__name__}"
    found = json.loads(done.stdout)
    quality = Quality(found["right"], found["guessed"], found["given"])
    return quality, f"spaCy: {found['passes']:.1f} passes in {found['seconds']:.0f} s"


def measure(chosen: Options) -> list[Row]:
    """One row of F1 for each seed (spaCy's order of examples depends on it), and what it took."""
    train, test = sentences("train"), sentences("dev")
    if chosen.short:
        train, test = train[:300], test[:100]
    rows: list[Row] = []
    for seed in range(chosen.rounds):
        with folder() as where, threadpool_limits(1):
            model, took, metrics = learnt(train, where, seed)
            size = sum(file.stat().st_size for file in where.iterdir()) / 1e6
        ours, error = tested(model, test)
        peer, note = (None, "not in the short form") if chosen.short else spacys(took, seed)
        f1 = peer.f1 if peer else None
        ratio = ours.f1 / f1 if f1 else None
        rows.append(Row(f"entity F1, seed {seed}", ours.f1, "", f1, ratio, ">= peer", ours.f1 >= (f1 or 0), note))
        if seed == 0:
            began = time.monotonic()
            model.predict([example.task for example in test])
            speed = len(test) / (time.monotonic() - began)
            rows += [
                Row("  precision", ours.right / max(ours.guessed, 1), "", peer and peer.right / max(peer.guessed, 1)),
                Row("  recall", ours.right / ours.given, "", peer and peer.right / peer.given),
                Row("  error of its confidence (ECE)", error, ""),
                Row("  training, calibration and files", took, "s"),
                Row("  size of a version", size, "MB"),
                Row("  predicting", speed, "tasks/s"),
                Row("  what the version says of itself (cv_span_f1)", metrics["cv_span_f1"], ""),
            ]
    return rows


def main() -> None:
    chosen = options(__doc__, rounds=3)
    report("WNUT-17: trained on train, tested on dev", measure(chosen), chosen)


if __name__ == "__main__":
    main()
