"""The files of the project, as git sees them: tracked, or new and not ignored."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def project_files() -> tuple[Path, ...]:
    """Every file, relative to the root. Fails outside a git work tree rather than find nothing."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = (Path(name) for name in listing.stdout.split("\0") if name)
    return tuple(sorted(file for file in files if (ROOT / file).is_file()))


def python_files(*folders: str) -> list[Path]:
    """The Python files in these folders. Fails when there is none: a test that reads nothing proves nothing."""
    found = [file for file in project_files() if file.suffix == ".py" and file.parts[0] in folders]
    assert found, f"no Python file in {folders}"
    return found


@functools.cache
def parse(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=str(file))


def module_name(file: Path) -> str:
    """``src/perdure/core/ids.py`` → ``perdure.core.ids``."""
    parts = file.with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in the file, inside functions too; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def used_names(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(node, full dotted name) of every use of an imported name: after ``import time as t``, ``t.time`` is ``time.time``."""
    origin: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origin[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                origin[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        dotted = _dotted(node)
        if dotted is not None:
            first, dot, rest = dotted.partition(".")
            if first in origin:
                yield node, origin[first] + dot + rest


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None
