"""Imports go down only (ARCHITECTURE.md, "The house")."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.tidy.source import imported_names, module_name, parse, project_files, python_files

# From the top to the bottom; packages of one layer do not know each other.
LAYERS = (
    {"__main__"},
    {"cli", "testing"},
    {"app"},
    {"rpc", "web"},
    {"features"},
    {"engine"},
    {"matching", "visibility", "outbound", "access"},
    {"store", "settings", "observability"},
    {"core"},
)
HEIGHT = {package: len(LAYERS) - index for index, layer in enumerate(LAYERS) for package in layer}

# `perdure demo` and `perdure bench` run what is shipped for testing.
SIDEWAYS = {("cli", "testing")}

# These stand beside the server: `contract` knows temporalio and pydantic, the applications in `apps/` know `contract`.
BESIDE = {"contract"}


def test_every_package_has_its_layer() -> None:
    unknown = {_package(module_name(file)) for file in python_files("src")} - set(HEIGHT) - BESIDE - {""}
    assert not unknown, f"packages without a layer in {__file__}: {sorted(unknown)}"


def test_imports_go_down_only() -> None:
    wrong: list[str] = []
    for file in python_files("src"):
        package = _package(module_name(file))
        for line, name in [*imported_names(parse(file)), *_modules_named_in_text(parse(file))]:
            target = _package(name)
            if name.split(".")[0] == "perdure" and not _may_import(package, target):
                wrong.append(f"{file}:{line}: {package or 'perdure'} must not import {name}")
    assert not wrong, "\n".join(wrong)


def test_applications_know_only_contracts() -> None:
    wrong = [
        f"{file}:{line}: an application must not import {name}"
        for file in _application_files()
        for line, name in imported_names(parse(file))
        if name.split(".")[0] == "perdure" and _package(name) != "contract"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rules_themselves() -> None:
    assert _may_import("features", "core")
    assert not _may_import("core", "features")
    assert not _may_import("rpc", "web")
    assert not _may_import("engine", "contract")
    assert not _may_import("contract", "core")
    assert [name for _, name in imported_names(ast.parse("def f():\n  from perdure.store import protocol"))] == ["perdure.store.protocol"]
    assert [name for _, name in _modules_named_in_text(ast.parse("import_module('perdure.app')"))] == ["perdure.app"]


def _application_files() -> list[Path]:
    return [file for file in project_files() if file.parts[0] == "apps" and file.suffix == ".py"]


def _package(name: str) -> str:
    """``perdure.core.ids`` → ``core``; "" for the package itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def _may_import(package: str, target: str) -> bool:
    if target == "__version__" or package == target:
        return True
    if package in BESIDE or target in BESIDE or package == "":
        return False
    return HEIGHT[package] > HEIGHT.get(target, 0) or (package, target) in SIDEWAYS


def _modules_named_in_text(tree: ast.AST) -> list[tuple[int, str]]:
    """Modules imported by name, such as ``import_module("perdure.app")``: any text that is nothing but a module's name."""
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"perdure(\.[a-z_]+)+", node.value)
    ]
