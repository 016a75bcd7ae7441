"""Bringing a model of one's own: what MODEL may be, what is said when it is not there, the skeleton to begin from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ml_backend.cli.new import class_name
from ml_backend.errors import ModelNotFound, SettingsError
from ml_backend.models import find_model
from ml_backend.sources import locate
from tests.running import RunningBackend, wait_until
from tests.wheel import CONFIG, UID, annotated

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent

MODEL = """
from ml_backend import TrainingBackend

class {name}(TrainingBackend):
    pass
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def found_by(name: str, folder: Path, also: str = "") -> str:
    """What a fresh process of the product finds, started in that folder as its processes are."""
    code = f"from ml_backend.models import find_model\nprint(find_model({name!r}).__name__)\n{also}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def cli(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "ml_backend.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


class TestWhatModelMayBe:
    def test_a_file(self, tmp_path: Path) -> None:
        assert find_model(str(write(tmp_path / "mood.py", MODEL.format(name="Mood")))).__name__ == "Mood"

    def test_a_folder_with_model_py(self, tmp_path: Path) -> None:
        write(tmp_path / "mine" / "model.py", MODEL.format(name="Mood"))
        assert find_model(str(tmp_path / "mine")).__name__ == "Mood"

    def test_a_class_in_a_file_that_holds_several(self, tmp_path: Path) -> None:
        path = write(tmp_path / "two.py", MODEL.format(name="One") + MODEL.format(name="Two"))
        assert find_model(f"{path}:Two").__name__ == "Two"

    def test_a_class_that_others_build_on_is_no_second_model(self, tmp_path: Path) -> None:
        path = write(tmp_path / "steps.py", MODEL.format(name="Step") + "\nclass Last(Step):\n    pass\n")
        assert find_model(str(path)).__name__ == "Last"

    def test_a_module_in_the_current_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "pack" / "__init__.py", "")
        write(tmp_path / "pack" / "mine.py", MODEL.format(name="Mood"))
        assert found_by("pack.mine:Mood", tmp_path) == "Mood"

    def test_a_users_model_py_with_neighbours_beside_our_package_of_that_name(self, tmp_path: Path) -> None:
        write(tmp_path / "utils.py", "NAME = 'neighbour'")
        write(tmp_path / "model.py", "import utils\n" + MODEL.format(name="Mood") + "    said = utils.NAME\n")
        ours = "import model.auto; print(model.auto.AutoModel.__name__)"
        assert found_by("model.py", tmp_path, also=ours).split() == ["Mood", "AutoModel"]

    def test_a_neighbour_wins_over_an_installed_package_but_not_over_pythons_own(self, tmp_path: Path) -> None:
        write(tmp_path / "tenacity.py", "HERE = True")
        write(tmp_path / "json.py", "HERE = True")
        code = "import json, tenacity\nassert tenacity.HERE and not hasattr(json, 'HERE')\n"
        write(tmp_path / "near.py", code + MODEL.format(name="Mood"))
        assert found_by("near.py", tmp_path) == "Mood"


class TestWhatIsSaidWhenItIsNotThere:
    def test_a_file(self, tmp_path: Path) -> None:
        write(tmp_path / "mood.py", "")
        with pytest.raises(ModelNotFound, match=r"no file .*/mod\.py; in that folder there is mood\.py"):
            locate(str(tmp_path / "mod.py"))

    def test_a_folder_without_model_py(self, tmp_path: Path) -> None:
        write(tmp_path / "mood.py", "")
        with pytest.raises(ModelNotFound, match=r"has no model\.py; in that folder there is mood\.py"):
            locate(str(tmp_path))

    def test_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelNotFound, match=f"neither a file nor a folder in {tmp_path}, nor a module"):
            find_model("nowhere.models:Mood")

    def test_something_that_cannot_be_a_name(self) -> None:
        with pytest.raises(ModelNotFound, match="is no model: give a file, a folder"):
            locate("my model")

    def test_a_class(self, tmp_path: Path) -> None:
        path = write(tmp_path / "mood.py", MODEL.format(name="Mood"))
        with pytest.raises(ModelNotFound, match=r"has no class Moon; it has Mood"):
            find_model(f"{path}:Moon")

    def test_a_class_of_another_kind(self, tmp_path: Path) -> None:
        path = write(tmp_path / "mood.py", "class Mood:\n    pass\n")
        with pytest.raises(ModelNotFound, match="Mood is not a subclass of TrainingBackend"):
            find_model(f"{path}:Mood")

    def test_one_of_several(self, tmp_path: Path) -> None:
        path = write(tmp_path / "two.py", MODEL.format(name="One") + MODEL.format(name="Two"))
        with pytest.raises(ModelNotFound, match=r"several models \(One, Two\): name one, as in .*two\.py:One"):
            find_model(str(path))

    def test_a_package_that_it_needs(self, tmp_path: Path) -> None:
        path = write(tmp_path / "ner.py", "import spacyless")
        with pytest.raises(
            ModelNotFound, match="No module named 'spacyless'; install it, or run `uv run --with spacyl"
        ):
            find_model(str(path))

    def test_an_error_in_it(self, tmp_path: Path) -> None:
        path = write(tmp_path / "broken.py", "x = (")
        with pytest.raises(ModelNotFound, match=r"SyntaxError: .*broken\.py, line 1"):
            find_model(str(path))

    def test_our_own_package_of_that_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelNotFound, match=r"for a file of yours say model\.py"):
            find_model("model:Mine")


def test_start_ends_with_one_line_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = cli("start", "mod.py", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no file ")
    assert "Traceback" not in done.stderr


def test_start_ends_with_the_reason_when_a_model_cannot_be_imported(tmp_path: Path) -> None:
    write(tmp_path / "ner.py", "import spacyless")
    done = cli("start", "ner.py", "--port", "0", "--data-dir", "data", folder=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "No module named 'spacyless'" in said
    assert "Traceback" not in said


class TestTheSkeleton:
    def test_its_own_test_passes_as_it_is(self, tmp_path: Path) -> None:
        assert cli("new", "my_model", folder=tmp_path).returncode == 0
        argv = [sys.executable, "-m", "pytest", "-q", "my_model", "-p", "no:cacheprovider"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert "2 passed" in done.stdout, done.stdout

    def test_it_trains_and_predicts_as_it_is_started_in_its_own_folder_with_a_neighbour(self, tmp_path: Path) -> None:
        folder = tmp_path / "my_model"
        assert cli("new", "my_model", folder=tmp_path).returncode == 0
        # The worst place to start from: a model.py in the current folder, beside a module that it needs.
        write(folder / "utils.py", "GREETING = 'hello from the neighbour'")
        path = folder / "model.py"
        path.write_text(path.read_text().replace("import json\n", "import json\n\nimport utils\n", 1))
        with RunningBackend(folder / "data", arguments=["model.py"], environment=QUICK) as backend:
            assert predicted_after_training(backend) == [["good"], ["bad"]]
            assert backend.get("/health")[1]["model_class"] == "MyModel"
            # It judges label configs by the model that was started, unless it is told otherwise.
            found = cli("doctor", "--json", "--data-dir", "data", folder=folder)
            assert [one["found"] for one in json.loads(found.stdout) if one["check"] == "model"] == [
                "refit_model:MyModel"
            ]

    def test_what_is_there_already_is_left_as_it_is(self, tmp_path: Path) -> None:
        write(tmp_path / "mine" / "model.py", "# precious")
        done = cli("new", "mine", folder=tmp_path)
        assert done.returncode == 1
        assert "is there already" in done.stderr
        assert (tmp_path / "mine" / "model.py").read_text() == "# precious"

    @pytest.mark.parametrize(("folder", "name"), [("my_model", "MyModel"), ("über-ner 2", "ÜberNer2"), ("x", "X")])
    def test_its_class_is_called_like_the_folder(self, folder: str, name: str) -> None:
        assert class_name(folder) == name

    def test_a_folder_that_is_no_name_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="begin it with a letter"):
            class_name("2nd")


QUICK = {
    "WORKERS": "1",
    "ML_BACKEND_RETRAIN_QUIET": "0.2",
    "ML_BACKEND_RETRAIN_MIN_ANNOTATIONS": "4",
    "ML_BACKEND_TICK": "0.1",
}


def predicted_after_training(backend: RunningBackend) -> Sequence[object]:
    """Four annotations, a version by itself, and what it says."""
    for number in range(1, 5):
        backend.posted("/webhook", annotated(number))
    tasks = [{"id": 91, "data": {"text": "a good one"}}, {"id": 92, "data": {"text": "a bad one"}}]
    body = {"project": UID, "label_config": CONFIG, "tasks": tasks, "params": {}}

    def results() -> Sequence[Sequence[dict[str, object]]]:
        status, answer = backend.post("/predict", body)
        assert status == 200
        return answer["results"] if all(answer["results"]) else ()

    made = wait_until(results, 60, "predictions of the first version", every_s=0.2)
    return [one[0]["result"][0]["value"]["choices"] for one in made]  # type: ignore[index]


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_a_package_that_uv_run_adds_is_there_in_every_process(tmp_path: Path) -> None:
    wheel = tmp_path / "tinylib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinylib.py", "ANSWER = 42")
        archive.writestr("tinylib-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinylib\nVersion: 1.0\n")
        archive.writestr(
            "tinylib-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinylib-1.0.dist-info/RECORD", "")
    assert cli("new", "needy", folder=tmp_path).returncode == 0
    path = tmp_path / "needy" / "model.py"
    path.write_text(path.read_text().replace("import json\n", "import json\n\nimport tinylib\n", 1))
    uv = ["uv", "run", "--project", str(ROOT), "--no-sync", "--offline", "--with", str(wheel), "ml-backend"]
    with RunningBackend(tmp_path / "data", command=uv, arguments=["needy"], environment=QUICK) as backend:
        assert predicted_after_training(backend) == [["good"], ["bad"]]
