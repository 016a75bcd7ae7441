"""spaCy's blank entity recognizer on CoNLL files, for so many seconds; a program by itself, since spaCy lives apart.

Usage: uv run --no-project --with spacy python spacy_ner.py TRAIN.conll.gz TEST.conll.gz SECONDS SEED
Prints JSON: right, guessed, given, passes (over the training data) and seconds (of training, initialization apart).
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from itertools import groupby
from pathlib import Path

import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import compounding, fix_random_seed, minibatch


def documents(nlp, path):
    """Each sentence with its own words, so that its entities can be hit exactly."""
    lines = gzip.decompress(Path(path).read_bytes()).decode().split("\n")
    for words, block in groupby(lines, lambda line: bool(line.strip())):
        if not words:
            continue
        rows = [line.split("\t") for line in block]
        doc = Doc(nlp.vocab, words=[word for word, _ in rows])
        entities, first = [], 0
        while first < len(rows):
            last = first + 1
            if rows[first][1] != "O":
                while last < len(rows) and rows[last][1] == f"I-{rows[first][1][2:]}":
                    last += 1
                entities.append(Span(doc, first, last, label=rows[first][1][2:]))
            first = last
        doc.ents = entities
        yield doc


def main(train, test, seconds, seed):
    """Train in spaCy's usual way: growing batches, dropout of 0.2, as many passes as there is time for."""
    fix_random_seed(seed)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner")
    examples = [Example(Doc(nlp.vocab, words=[word.text for word in doc]), doc) for doc in documents(nlp, train)]
    optimizer = nlp.initialize(lambda: examples)
    order, batches, trained, passes = random.Random(seed), compounding(4.0, 32.0, 1.001), 0, 0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        order.shuffle(examples)
        for batch in minibatch(examples, size=batches):
            nlp.update(batch, sgd=optimizer, drop=0.2)
            trained += len(batch)
            if time.monotonic() - began >= seconds:
                break
    took, passes = time.monotonic() - began, trained / len(examples)
    right = guessed = given = 0
    with nlp.use_params(optimizer.averages):
        for doc in documents(nlp, test):
            found = nlp(Doc(nlp.vocab, words=[word.text for word in doc]))
            truth = {(one.start, one.end, one.label_) for one in doc.ents}
            said = {(one.start, one.end, one.label_) for one in found.ents}
            right, guessed, given = right + len(truth & said), guessed + len(said), given + len(truth)
    print(json.dumps({"right": right, "guessed": guessed, "given": given, "passes": passes, "seconds": took}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
