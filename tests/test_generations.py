"""Which generation of label-studio-ml a source was written for, and the stand-ins for what is not installed."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend import generations, stand_in
from tests.loopback import Answer, Loopback, Received
from tests.test_label_studio_client import REFRESH, access_token, personal_token
from tests.wheel import CONFIG

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SECOND = "from label_studio_ml.response import ModelResponse\nfrom label_studio_ml.model import LabelStudioMLBase\n"


@pytest.mark.parametrize(
    ("source", "generation"),
    [
        (SECOND, 2),
        ("from label_studio_ml.model import LabelStudioMLBase, predict_fn", 2),
        ("class A(B):\n    def fit(self, event, data, **kwargs): ...", 2),
        ("class A(B):\n    def setup(self):\n        self.set('model_version', 'x')", 2),
        ("class A(B):\n    def predict(self, tasks, context=None): self.label_interface", 2),
        ("class A(B):\n    def fit(self, tasks, workdir=None, **kwargs): ...", 1),
        ("class A(B):\n    def __init__(self, **kwargs): self.x = self.train_output", 1),
        ("class A(B):\n    def predict(self, tasks, **kwargs): ...", 2),
    ],
)
def test_the_generation_is_told_by_what_a_source_uses(source: str, generation: int) -> None:
    assert generations.generation_of(ast.parse(source)) == generation


def of_the_second(values: MutableMapping[tuple[str, str], str]) -> Any:
    """The modules that a class of the second generation finds where label-studio-ml 2.x is not installed."""
    return stand_in.modules(2, values)


class TestTheStandIn:
    def test_of_the_second_generation_has_its_interface(self) -> None:
        values = Kept()
        behaves_as_the_second_generation(of_the_second(values)["label_studio_ml.model"].LabelStudioMLBase)
        assert values["7", "label_config"] == CONFIG

    def test_raises_the_middle_number_of_a_version(self) -> None:
        made = of_the_second(Kept())["label_studio_ml.model"].LabelStudioMLBase("7", CONFIG)
        assert (made.model_version, made.bump_model_version(), made.model_version) == ("0.0.1", "0.1.0", "0.1.0")

    def test_of_the_second_generation_answers_with_a_model_response(self) -> None:
        response = of_the_second(Kept())["label_studio_ml.response"].ModelResponse
        answers_as_the_second_generation(response)
        with pytest.raises(ValueError, match="result"):
            response(predictions=[{"score": 1}])

    def test_has_the_helpers_that_classes_of_the_second_generation_import(self) -> None:
        helpers_of_the_second_generation(of_the_second(Kept())["label_studio_ml.utils"])

    def test_exchanges_a_personal_access_token_for_what_label_studio_takes_beside_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        access = access_token()

        def answer(request: Received) -> Answer:
            if request.path == REFRESH:
                return Answer({"access": access})
            allowed = request.headers.get("Authorization") == f"Bearer {access}"
            return Answer(b"what it says", status=200 if allowed else 401)

        with Loopback(answer) as server:
            monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
            monkeypatch.setenv("LABEL_STUDIO_API_KEY", personal_token())
            made = of_the_second(Kept())["label_studio_ml.model"].LabelStudioMLBase("7", CONFIG)
            for name in ("a.txt", "b.txt"):
                path = made.get_local_path(f"/data/upload/7/{name}", task_id=1, cache_dir=str(tmp_path))
                assert Path(path).read_text() == "what it says"
        asked = [one.path.partition("?")[0] for one in server.received]
        assert asked.count(REFRESH) == 1, asked

    def test_of_the_first_generation_has_its_interface(self) -> None:
        base = stand_in.modules(1, {})["label_studio_ml.model"].LabelStudioMLBase
        made = base(label_config=CONFIG, train_output={"a": 1}, hostname="http://x", access_token="t")
        assert (made.train_output, made.hostname) == ({"a": 1}, "http://x")
        assert stand_in.get_single_tag_keys(made.parsed_label_config, "Choices", "Text") == (
            "mood",
            "text",
            "text",
            ["good", "bad"],
        )
        assert made.fit([]) == {}


class Kept(dict[tuple[str, str], str]):
    """Values in memory; a missing one is None, as both generations have it, and none but a text is taken."""

    def __missing__(self, key: tuple[str, str]) -> None:
        return None

    def __setitem__(self, key: tuple[str, str], value: str) -> None:
        if not isinstance(value, str):
            raise ValueError("Value must be a string")  # noqa: TRY004 - what both have
        super().__setitem__(key, value)


def behaves_as_the_second_generation(base: Any) -> None:
    class Mine(base):  # type: ignore[misc]
        def setup(self) -> None:
            self.set("model_version", "0.3.1")

    made = Mine(project_id="7", label_config=CONFIG)
    assert made.get_first_tag_occurence("Choices", "Text") == ("mood", "text", "text")
    assert made.get_first_tag_occurence("Choices", ("Text", "Image"), lambda name: name == "mood")[0] == "mood"
    assert made.label_interface.get_tag("mood").labels == ["good", "bad"]
    assert made.parsed_label_config["mood"]["labels"] == ["good", "bad"]
    assert (made.has("nothing"), made.get("nothing"), made.extra_params) == (False, None, {})
    made.set_extra_params('{"a": 1}')
    assert (made.label_config, made.extra_params, str(made.model_version)) == (CONFIG, {"a": 1}, "0.3.1")
    assert Mine("7").label_config == CONFIG, "what is set outlives the instance"
    assert Mine("8").label_config is None, "and is one project's"
    task = {"id": 1, "data": {"text": "plain words", "many": ["a", "b"]}}
    assert made.preload_task_data(task, task["data"]) == task["data"]
    assert made.build_label_map("mood", ["Good", "bad"]) == {"good": "good", "bad": "bad"}
    assert made.process_event("PROJECT_UPDATED", {}, "job", {}) is None
    assert made.fit("ANNOTATION_CREATED", {}) is None
    with pytest.raises(ValueError, match="must be a string"):
        made.set("threshold", 0.5)


def answers_as_the_second_generation(response: Any) -> None:
    made = response(predictions=[{"result": [], "score": 0.5}, [{"result": [], "model_version": "mine"}], []])
    assert not made.has_model_version()
    made.set_version("x")
    one, (two,), none = made.predictions
    assert (one.score, one.model_version, two.model_version, none) == (0.5, "x", "mine", [])
    assert made.model_dump()["predictions"][0] == {"model_version": "x", "score": 0.5, "result": []}


def helpers_of_the_second_generation(utils: Any) -> None:
    assert utils.DATA_UNDEFINED_NAME == "$undefined$"
    assert utils.match_labels("goood\nbat", ["bad", "good"]) == ["good", "bad"]
    kept = utils.InMemoryLRUDictCache(2)
    for name in "ab":
        kept.put(name, name.upper())
    assert kept.get("a") == "A"
    kept.put("c", "C")
    assert ("a" in kept, "b" in kept, kept.get("b")) == (True, False, None)


@pytest.mark.filterwarnings("ignore:Support for class-based `config`")  # theirs
@pytest.mark.skipif(
    generations.installed() != 2,
    reason="label-studio-ml 2.x lies in its repository only: install it from a clone (pip install --no-deps PATH, "
    "colorama and semver) in place of 1.0.9, then these run, and tests/test_plain.py with the real base class",
)
class TestTheRealSecondGeneration:
    """The same as of the stand-in, so that one is as good as the other."""

    @pytest.fixture
    def real(self) -> Any:
        generations.provide(2, Kept())
        return importlib.import_module

    def test_has_the_interface(self, real: Any) -> None:
        behaves_as_the_second_generation(real("label_studio_ml.model").LabelStudioMLBase)

    def test_answers_with_a_model_response(self, real: Any) -> None:
        answers_as_the_second_generation(real("label_studio_ml.response").ModelResponse)

    def test_has_the_helpers(self, real: Any) -> None:
        helpers_of_the_second_generation(real("label_studio_ml.utils"))

    def test_has_the_methods_of_the_stand_in_and_no_other_that_take_the_same(self, real: Any) -> None:
        theirs = real("label_studio_ml.model").LabelStudioMLBase

        def public(base: type) -> dict[str, list[str]]:
            return {
                name: [
                    one
                    for one in inspect.signature(held).parameters
                    if one not in {"args", "kwargs", "additional_params"}
                ]
                for name, held in vars(base).items()
                if inspect.isfunction(held) and not name.startswith("_")
            }

        assert public(stand_in.SecondBase) == public(theirs)
        assert list(inspect.signature(stand_in.SecondBase).parameters) == list(inspect.signature(theirs).parameters)
