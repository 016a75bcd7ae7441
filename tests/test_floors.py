"""The house holds: rooms import downwards only, nothing goes round in circles, and the web process starts light.

The imports are read from the source, those under ``TYPE_CHECKING`` and inside functions included: a type that comes
from above is knowledge of what is above.
"""

from __future__ import annotations

import ast
import graphlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ml_backend", "model")

FLOORS: dict[str, frozenset[str]] = {
    "pure core": frozenset(
        {
            "counters",
            "errors",
            "events",
            "examples",
            "fields",
            "jsonable",
            "label_config",
            "left_out",
            "policy",
            "scores",
            "setting_names",
            "settings",
            "uids",
        }
    ),
    "what several parts share": frozenset(
        {
            "exit_status",
            "heap",
            "lifeline",
            "logs",
            "redis_address",
            "redis_errors",
            "scripting",
            "stepping_back",
            "turns",
            "unpacking",
        }
    ),
    "parts with I/O": frozenset(
        {"embedded", "jobs", "label_studio", "media", "plain_state", "registry", "runs", "state", "tally"}
    ),
    "use cases": frozenset(
        {
            "backend",
            "clock",
            "connecting",
            "event_way",
            "generations",
            "lease",
            "models",
            "overview",
            "pinning",
            "plain",
            "predictions",
            "promotion",
            "refresh",
            "sources",
            "stand_in",
            "sync",
            "testing",
            "training",
        }
    ),
    "faces": frozenset(
        {"bootstrap", "cli", "demo", "doctor", "processes", "secret_files", "supervisor", "web", "worker"}
    ),
    # What `import ml_backend` gives: it names what is below, and nothing below needs it.
    "public surface": frozenset({"__init__"}),
}
HEIGHT = {room: height for height, rooms in enumerate(FLOORS.values()) for room in rooms}
# A part that needs another part is a use case.
STRANGERS = FLOORS["parts with I/O"]

HEAVY = frozenset(
    {
        "PIL",
        "cv2",
        "label_studio_ml",
        "label_studio_sdk",
        "numpy",
        "pandas",
        "pycrfsuite",
        "rich",
        "rq",
        "scipy",
        "skops",
        "sklearn",
        "typer",
    }
)
# The one module that looks which generation of label-studio-ml there is: without its base class there is no backend.
MAY_IMPORT_LABEL_STUDIO_ML = "ml_backend.generations"


@dataclass(frozen=True)
class Import:
    """``name`` is a module, or a name in a module, as far as the statement tells. ``late``: not when it is imported."""

    name: str
    line: int
    late: bool


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """``state`` for all of ``ml_backend.state.*``, ``__init__`` for ``ml_backend`` itself."""
        return room_of(self.name)

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


def room_of(name: str) -> str:
    """The room of a module, or of a name in one; a name that is no room's is one of the public surface."""
    return next((part for part in name.split(".")[1:2] if part in HEIGHT), "__init__")


@cache
def modules() -> dict[str, Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "skeleton" in path.parts:
                continue  # a text that `ml-backend new` copies; nothing imports it
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path, tuple(_imports(name, path)))
    return found


def _imports(module: str, path: Path) -> list[Import]:
    found: list[Import] = []
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, *, late: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(inside.split(".")[: len(inside.split(".")) + 1 - node.level]) if node.level else ""
            base = ".".join(part for part in (start, node.module) if part)
            found.extend(Import(f"{base}.{alias.name}", node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, late=True)
            for child in node.orelse:
                visit(child, late=late)
        else:
            within = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for inner in ast.iter_child_nodes(node):
                visit(inner, late=within)

    visit(ast.parse(path.read_text(), filename=str(path)), late=False)
    return found


def target(name: str) -> str | None:
    """The module of ours that an imported name is, or is in; None for everybody else's."""
    while name:
        if name in modules():
            return name
        name = name.rpartition(".")[0]
    return None


def dependencies(module: Module, *, late: bool) -> set[str]:
    """The modules of ours that a module imports; ``late``: those under TYPE_CHECKING and in functions too."""
    found = {target(one.name) for one in module.imports if late or not one.late}
    return {name for name in found if name is not None and name != module.name}


def ours(package: str) -> list[Module]:
    return [module for module in modules().values() if module.name.split(".")[0] == package]


def test_the_imports_of_this_test_are_read_like_python_reads_them(tmp_path: Path) -> None:
    source = tmp_path / "here.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nimport a.b as c\nfrom . import near\nfrom ..up import thing\n"
        "if TYPE_CHECKING:\n    import typed\nelse:\n    import real\n"
        "try:\n    import tried\nexcept ImportError:\n    pass\n"
        "class C:\n    import inner\n    def f(self):\n        from late import x\n"
    )
    found = {one.name: one.late for one in _imports("pack.room.here", source)}
    assert found == {
        "typing.TYPE_CHECKING": False,
        "a.b": False,
        "pack.room.near": False,
        "pack.up.thing": False,
        "typed": True,
        "real": False,
        "tried": False,
        "inner": False,
        "late.x": True,
    }


def test_every_room_has_a_floor() -> None:
    rooms = {module.name.split(".")[1] for module in ours("ml_backend") if module.name != "ml_backend"}
    assert rooms - HEIGHT.keys() == set()


def test_no_room_stands_on_two_floors() -> None:
    assert sum(len(rooms) for rooms in FLOORS.values()) == len(HEIGHT)


@pytest.mark.parametrize("module", ours("ml_backend"), ids=lambda module: module.name)
def test_a_room_imports_only_from_its_own_floor_and_from_floors_below(module: Module) -> None:
    wrong = [
        f"{module.at(one.line)} imports {one.name} from above"
        for one in module.imports
        if one.name.split(".")[0] == "ml_backend"
        and one.name != "ml_backend.__version__"
        and HEIGHT[room_of(one.name)] > HEIGHT[module.room]
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ours("ml_backend"), ids=lambda module: module.name)
def test_parts_with_io_do_not_know_each_other(module: Module) -> None:
    wrong = [
        f"{module.at(one.line)} imports {one.name}, which is another part"
        for one in module.imports
        if module.room in STRANGERS
        and one.name.split(".")[0] == "ml_backend"
        and room_of(one.name) in STRANGERS - {module.room}
    ]
    assert wrong == []


def test_rooms_do_not_import_each_other_in_circles() -> None:
    graph: dict[str, set[str]] = {}
    for module in ours("ml_backend"):
        rooms = {room_of(name) for name in dependencies(module, late=True) if name != "ml_backend"}
        graph.setdefault(module.room, set()).update(rooms - {module.room})
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_modules_do_not_import_each_other_in_circles() -> None:
    # Types of one room may know each other; what Python runs may not wait for itself.
    graph = {name: dependencies(module, late=False) for name, module in modules().items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", ours("model"), ids=lambda module: module.name)
def test_shipped_models_import_only_the_public_names(module: Module) -> None:
    public = {f"ml_backend.{name}" for name in public_names()}
    wrong = [
        f"{module.at(one.line)} imports {one.name}"
        for one in module.imports
        if one.name.split(".")[0] == "ml_backend" and one.name not in public
    ]
    assert wrong == []


def public_names() -> set[str]:
    tree = ast.parse((ROOT / "ml_backend" / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError("ml_backend has no __all__")


def test_nothing_in_the_backend_imports_a_shipped_model() -> None:
    wrong = [
        module.at(one.line)
        for module in ours("ml_backend")
        for one in module.imports
        if one.name.split(".")[0] == "model"
    ]
    assert wrong == []


def test_what_the_web_process_imports_is_light() -> None:
    waiting = [name for name in modules() if room_of(name) in {"web", "bootstrap", "processes"}]
    assert waiting
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += dependencies(modules()[name], late=False)
    wrong = [
        f"{modules()[name].at(one.line)} imports {one.name} when it is imported"
        for name in sorted(reached)
        for one in modules()[name].imports
        if not one.late
        and one.name.split(".")[0] in HEAVY
        and not (name == MAY_IMPORT_LABEL_STUDIO_ML and one.name.startswith("label_studio_ml."))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module", [module for module in modules().values() if HEIGHT.get(module.room) == 0], ids=lambda module: module.name
)
def test_the_core_does_no_io_and_asks_no_clock(module: Module) -> None:
    forbidden = {"asyncio", "httpx", "os", "random", "redis", "requests", "socket", "subprocess", "threading", "time"}
    wrong = [
        f"{module.at(one.line)} imports {one.name}" for one in module.imports if one.name.split(".")[0] in forbidden
    ]
    assert wrong == []
