"""Every module of the package says what it is for."""

from __future__ import annotations

import ast

from tests.tidy.source import parse, python_files


def test_every_module_has_a_docstring() -> None:
    missing = [str(file) for file in python_files("src") if not (ast.get_docstring(parse(file)) or "").strip()]
    assert not missing, "modules without a docstring: " + ", ".join(missing)


def test_nothing_prints_but_the_command_line() -> None:
    """The server talks through its log."""
    printing = [
        f"{file}:{node.lineno}"
        for file in python_files("src")
        if file.parts[2] not in ("cli", "testing")
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing, "print() in " + ", ".join(printing)
