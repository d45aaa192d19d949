"""Files and functions stay small enough to read. Known exceptions stand in ``long.toml`` and may only shrink."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.source import ROOT, parse, python_files

FILE_LINES = 500
FUNCTION_LINES = 70
FOLDERS = ("src", "tests", "apps")


def test_files_are_short() -> None:
    lengths = {str(file): len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in python_files(*FOLDERS)}
    assert not _complaints(lengths, _exceptions("files"), FILE_LINES)


def test_functions_are_short() -> None:
    lengths = dict(length for file in python_files(*FOLDERS) for length in _function_lengths(file))
    assert not _complaints(lengths, _exceptions("functions"), FUNCTION_LINES)


def test_exceptions_only_shrink() -> None:
    assert _complaints({"a": 501}, {}, 500) == ["a has 501 lines, at most 500: split it"]
    assert _complaints({"a": 600}, {"a": 600}, 500) == []
    assert _complaints({"a": 601}, {"a": 600}, 500) == ["a has 601 lines, at most 600: split it"]
    assert _complaints({"a": 550}, {"a": 600}, 500) == ["a has shrunk to 550 lines: say so in long.toml (600)"]
    assert _complaints({"a": 500}, {"a": 600}, 500) == ["a is no exception any more: take it out of long.toml"]
    assert _complaints({}, {"a": 600}, 500) == ["a is no exception any more: take it out of long.toml"]


def _complaints(lengths: dict[str, int], exceptions: dict[str, int], limit: int) -> list[str]:
    complaints = [
        f"{name} has {length} lines, at most {exceptions.get(name, limit)}: split it"
        for name, length in lengths.items()
        if length > exceptions.get(name, limit)
    ]
    for name, allowed in exceptions.items():
        length = lengths.get(name, 0)
        if length <= limit:
            complaints.append(f"{name} is no exception any more: take it out of long.toml")
        elif length < allowed:
            complaints.append(f"{name} has shrunk to {length} lines: say so in long.toml ({allowed})")
    return complaints


def _exceptions(kind: str) -> dict[str, int]:
    return tomllib.loads((Path(__file__).parent / "long.toml").read_text(encoding="utf-8"))[kind]


def _function_lengths(file: Path) -> Iterator[tuple[str, int]]:
    """(file:Class.function, lines) of every function; a nested one counts for itself and for the one around it."""

    def visit(node: ast.AST, path: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{path}.{child.name}" if path else child.name
                if not isinstance(child, ast.ClassDef):
                    assert child.end_lineno is not None
                    yield f"{file}:{name}", child.end_lineno - child.lineno + 1
                yield from visit(child, name)
            else:
                yield from visit(child, path)

    yield from visit(parse(file), "")
