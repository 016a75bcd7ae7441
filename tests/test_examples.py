"""The examples in the docs: those whose libraries are here run, the others are read as Python reads them."""

from __future__ import annotations

import ast
import http.server
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from ml_backend.models import find_model
from ml_backend.testing import labelled, trained
from tests.wheel import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
GUIDE = EXAMPLES.parent / "models" / "guide.md"
TASKS = [{"id": 91, "data": {"text": "a lovely day"}}, {"id": 92, "data": {"text": "an awful mess"}}]
LABELLED = [("a lovely walk", "good"), ("lovely people", "good"), ("awful rain", "bad"), ("an awful noise", "bad")]


def choice(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [label]}}]


def annotated() -> list[Any]:
    return [labelled({"text": text}, choice(label)) for text, label in LABELLED]


def chosen(answers: list[Any]) -> list[str]:
    return [answer["result"][0]["value"]["choices"][0] for answer in answers]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_each_is_valid_python_with_one_model_that_is_whole(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    models = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "TrainingBackend" in {ast.unparse(base) for base in node.bases}
    ]
    assert len(models) == 1
    methods = {node.name for node in models[0].body if isinstance(node, ast.FunctionDef)}
    assert {"train", "load", "predict"} <= methods


def test_the_guide_names_every_example_and_no_other() -> None:
    named = set(re.findall(r"\.\./examples/(\w+\.py)", GUIDE.read_text(encoding="utf-8")))
    assert named == {path.name for path in EXAMPLES.glob("*.py")}


def test_the_guides_own_code_is_valid_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, str(GUIDE), "exec")


def test_scikit_learn(tmp_path: Path) -> None:
    model = trained(find_model(str(EXAMPLES / "sklearn_text.py")), CONFIG, annotated(), tmp_path, params={"C": 5})
    answers = model.predict(TASKS)
    assert chosen(answers) == ["good", "bad"]
    assert all(0 <= answer["score"] <= 1 for answer in answers)


class Foreign:
    """A type that nobody vouched for."""


def test_scikit_learn_reads_no_file_with_a_type_that_nobody_vouched_for(tmp_path: Path) -> None:
    model = trained(find_model(str(EXAMPLES / "sklearn_text.py")), CONFIG, annotated(), tmp_path)
    skops.io.dump(Foreign(), tmp_path / "pipeline.skops")
    with pytest.raises(UntrustedTypesFoundException, match="Foreign"):
        model.load(tmp_path)


class _Model(http.server.BaseHTTPRequestHandler):
    """A language model that answers like the example it has most words in common with."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        *shots, asked = re.findall(r"Text: (.*)\nLabel:(.*)", body["messages"][0]["content"])
        words = set(asked[0].split())
        best = max(shots, key=lambda shot: len(words & set(shot[0].split())))
        answer = json.dumps({"choices": [{"message": {"content": f"{best[1].strip().upper()}."}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def language_model() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Model) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
        server.shutdown()
        thread.join()


def test_a_prompt_trained_from_corrections(tmp_path: Path, language_model: str) -> None:
    found = find_model(str(EXAMPLES / "prompt.py"))
    params = {"url": language_model, "shots": 4}
    model = trained(found, CONFIG, annotated(), tmp_path, params=params)
    assert chosen(model.predict(TASKS)) == ["good", "bad"]
    prompt = (tmp_path / "prompt.txt").read_text(encoding="utf-8")
    assert prompt.startswith("Answer with exactly one of these labels: good, bad.")
    assert prompt.count("Text: ") == 4


# --- those whose libraries are not installed: `uv run --with spacy pytest tests/test_examples.py` ---------------------


@pytest.mark.parametrize("name", ["spacy_ner", "huggingface_text", "yolo_boxes"])
def test_each_says_how_to_run_it(name: str) -> None:
    described = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
    assert described is not None
    assert f"ml-backend start {name}.py" in described


LABELS = (
    '<View><Labels name="who" toName="text"><Label value="PER"/><Label value="LOC"/></Labels>'
    '<Text name="text" value="$text"/></View>'
)
BOXES = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    '<Label value="Airplane"/><Label value="Car"/></RectangleLabels></View>'
)


def spans(text: str, **found: str) -> list[dict[str, Any]]:
    places = [(label, text.index(words), text.index(words) + len(words)) for label, words in found.items()]
    values = [{"start": start, "end": end, "text": text[start:end], "labels": [label]} for label, start, end in places]
    return [{"from_name": "who", "to_name": "text", "type": "labels", "value": value} for value in values]


def test_spacy_learns_spans_and_goes_on_from_the_version_before(tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    found = find_model(str(EXAMPLES / "spacy_ner.py"))
    said = [(f"😀 {who} lives in {where}", who, where) for who in ("Ada", "José") for where in ("Oslo", "Zürich")]
    examples = [labelled({"text": text}, spans(text, PER=who, LOC=where)) for text, who, where in said]
    first = trained(found, LABELS, examples, tmp_path / "1", params={"epochs": 30})
    assert first.check(LABELS) is None
    again = trained(found, LABELS, examples, tmp_path / "2", previous=tmp_path / "1", params={"epochs": 1})
    text, who, where = said[2]
    for model in (first, again):
        (answer,) = model.predict([{"id": 1, "data": {"text": text}}])
        assert answer["result"] == spans(text, PER=who, LOC=where)


def test_hugging_face_fine_tunes_and_goes_on_from_the_version_before(tmp_path: Path) -> None:
    """From a model of one layer that knows ten words: no weights have to be fetched."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("torch")
    words = ["[PAD]", "[UNK]", "a", "an", "lovely", "awful", "people", "rain", "walk", "noise", "day", "mess"]
    known = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, "[UNK]"))
    known.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=known, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(words), **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
    found = find_model(str(EXAMPLES / "huggingface_text.py"))
    params = {"base": str(tmp_path / "base"), "epochs": 40, "learning_rate": 0.01}
    trained(found, CONFIG, annotated(), tmp_path / "1", params=params)
    warm = params | {"base": "no model of that name", "epochs": 1}
    model = trained(found, CONFIG, annotated(), tmp_path / "2", previous=tmp_path / "1", params=warm)
    assert chosen(model.predict(TASKS)) == ["good", "bad"]


def test_yolo_trains_from_a_description_without_weights_and_goes_on_from_the_version_before(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    import cv2
    import numpy as np

    found = find_model(str(EXAMPLES / "yolo_boxes.py"))
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8))
    place = {"x": 10, "y": 20, "width": 50, "height": 40, "rotation": 0, "rectanglelabels": ["Car"]}
    region = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": place}
    examples = [
        labelled({"image": "/data/upload/1/picture.png"}, [region] if number else [], fetch=lambda *_: path)
        for number in range(3)
    ]
    trained(found, BOXES, examples, tmp_path / "1", params={"base": "yolo11n.yaml", "epochs": 1})
    assert [file.name for file in (tmp_path / "1").iterdir()] == ["best.pt"]
    model = trained(found, BOXES, examples, tmp_path / "2", previous=tmp_path / "1", params={"epochs": 1})
    (answer,) = model.fetching(lambda *_: path).predict([{"id": 1, "data": {"image": "/data/upload/1/picture.png"}}])
    for one in answer["result"]:
        assert one["value"]["rectanglelabels"][0] in {"Airplane", "Car"}
        assert 0 <= one["value"]["x"] <= 100
