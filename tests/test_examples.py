"""The examples in the docs: those whose libraries are here run, the others are read as Python reads them."""

from __future__ import annotations

import ast
import http.server
import importlib.util
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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


@pytest.mark.parametrize("name", ["spacy_ner", "huggingface_text", "yolo_boxes"])
def test_those_whose_libraries_are_not_here_say_how_to_run_them(name: str) -> None:
    described = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
    assert described is not None
    assert f"ml-backend start {name}.py" in described
    assert importlib.util.find_spec("ml_backend") is not None
