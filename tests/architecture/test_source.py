"""Rules for each module and function of the package."""

import ast
import re

from tests.architecture.repository import PACKAGE, ROOT, modules, name_of, tree

MODULE_LINES = 400
FUNCTION_LINES = 60
# The package itself exports its version and makes checkpoints strict; everything else is read in one place.
READERS_OF_THE_ENVIRONMENT = {"__init__.py", "cli/environment.py"}
EDGE = re.compile(r"#\s*noqa:\s*BLE001\s*--\s*\S+")


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        name_of(path): lines
        for folder in (PACKAGE, ROOT / "tests")
        for path in modules(folder)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MODULE_LINES
    }
    assert long == {}


def test_no_function_is_longer_than_60_lines() -> None:
    long = {
        f"{name_of(path)}:{node.name}": lines
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


def test_every_package_but_the_root_holds_only_a_docstring() -> None:
    offenders = [
        name_of(path)
        for path in modules()
        if path.name == "__init__.py" and path.parent != PACKAGE and not _is_only_a_docstring(tree(path))
    ]
    assert offenders == []


def test_every_module_says_what_it_is() -> None:
    assert [name_of(path) for path in modules() if ast.get_docstring(tree(path)) is None] == []


def test_every_import_is_absolute() -> None:
    relative = [
        f"{name_of(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


def test_every_broad_except_gives_its_reason() -> None:
    silent: list[str] = []
    for path in modules():
        lines = path.read_text(encoding="utf-8").splitlines()
        silent += [
            f"{name_of(path)}:{node.lineno}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not EDGE.search(lines[node.lineno - 1])
        ]
    assert silent == []


def test_the_environment_is_read_in_one_place() -> None:
    readers = {name_of(path) for path in modules() if _touches_the_environment(tree(path))}
    assert readers == READERS_OF_THE_ENVIRONMENT


def _is_only_a_docstring(module: ast.Module) -> bool:
    return len(module.body) == 1 and ast.get_docstring(module) is not None


def _is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it swallows everything: a bare ``except`` or ``except Exception`` that raises nothing."""
    if handler.type is not None and not (
        isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    ):
        return False
    return not any(isinstance(node, ast.Raise) for statement in handler.body for node in ast.walk(statement))


def _touches_the_environment(module: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv", "putenv", "environb")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        for node in ast.walk(module)
    )
