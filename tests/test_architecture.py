"""The house keeps its directions: who may import whom, no cycle, nothing heavy at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Every room, and the rooms it may import from; a room may always import from itself.
MAY_IMPORT = {
    "nowcast.errors": set(),
    "nowcast.config": {"nowcast.errors"},
    "nowcast.data": {"nowcast.errors"},
    "nowcast.nn": set(),
    "nowcast.models": {"nowcast.nn", "nowcast.data", "nowcast.config", "nowcast.errors"},
    "nowcast.training": {"nowcast.models", "nowcast.nn", "nowcast.data", "nowcast.config", "nowcast.errors"},
    "nowcast.prediction": {"nowcast.models", "nowcast.data", "nowcast.errors"},
    "nowcast.verification": {"nowcast.data", "nowcast.errors"},
    "nowcast.report": {"nowcast.verification", "nowcast.data", "nowcast.errors"},
    "data_prep": {"nowcast.data", "nowcast.errors", "nowcast.training"},
}
NO_TORCH = ("nowcast.data", "nowcast.verification", "nowcast.report", "nowcast.config", "nowcast.errors")


def modules() -> dict[str, Path]:
    paths = [path for top in ("nowcast", "cli", "data_prep") for path in (ROOT / top).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(path: Path, *, at_import: bool = False) -> set[str]:
    """Names of the modules a file imports; with `at_import` only those it imports when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _outside_functions(tree) if at_import else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _outside_functions(node: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not typing_only:
            found += [child, *_outside_functions(child)]
    return found


def room_of(module: str) -> str | None:
    return next((room for room in MAY_IMPORT if module == room or module.startswith(room + ".")), None)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_from_the_rooms_below_it(room: str) -> None:
    for module, path in modules().items():
        if room_of(module) == room:
            used = {room_of(name) for name in imports(path)} - {None, room}
            assert used <= MAY_IMPORT[room], f"{module} imports {used - MAY_IMPORT[room]}"


def test_the_library_imports_neither_the_commands_nor_the_ingest() -> None:
    for module, path in modules().items():
        outside = {name.split(".")[0] for name in imports(path)}
        if module.startswith("nowcast"):
            assert not outside & {"cli", "data_prep", "click", "tests"}, module
        if module.startswith("data_prep"):
            assert not outside & {"cli", "click", "tests"}, module


@pytest.mark.parametrize("room", NO_TORCH)
def test_data_and_verification_know_no_torch(room: str) -> None:
    for module, path in modules().items():
        if room_of(module) == room:
            assert not {"torch", "lightning"} & {name.split(".")[0] for name in imports(path)}, module


def test_nn_stands_alone() -> None:
    for module, path in modules().items():
        if room_of(module) == "nowcast.nn":
            tops = {name.split(".")[0] for name in imports(path)}
            assert tops <= {"nowcast", "torch", *sys.stdlib_module_names}, f"{module} imports {tops}"


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    graph = {
        module: {name for name in imports(path, at_import=True) if name in known} for module, path in known.items()
    }
    for module, used in graph.items():
        used.discard(module)
        # A package's own __init__ is imported with any of its modules: that is no cycle of ideas.
        graph[module] = {name for name in used if not module.startswith(name + ".")}
    list(TopologicalSorter(graph).static_order())


def test_importing_the_package_is_light() -> None:
    code = "import sys, nowcast, cli.main; print(sorted({'torch', 'numpy', 'xarray'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_library_does_not_print() -> None:
    for module, path in modules().items():
        if module.startswith("nowcast"):
            calls = [
                node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
            ]
            assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], module
