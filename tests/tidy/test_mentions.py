"""What a docstring or a comment refers to is there: other files by their name, and names of this project."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tidy.source import ROOT, project_files, python_files

FILE = re.compile(r"``([\w/]+\.py)``")
NAME = re.compile(r":(?:mod|class|func|meth|attr|data):`~?(perdure\.[\w.]+)`")
FOREIGN = "temporalio/"


def test_files_that_are_mentioned_exist() -> None:
    """A bare name is a file beside this one; with a folder before it, a file anywhere."""
    paths = {f"/{file.as_posix()}" for file in project_files()}
    missing = [
        f"{file}: {mentioned}"
        for file in python_files("src", "tests")
        for mentioned in FILE.findall((ROOT / file).read_text(encoding="utf-8"))
        if not mentioned.startswith(FOREIGN) and not _is_file(file, mentioned, paths)
    ]
    assert not missing, "\n".join(missing)


def _is_file(file: Path, mentioned: str, paths: set[str]) -> bool:
    if "/" not in mentioned:
        return (ROOT / file).with_name(mentioned).is_file()
    return any(path.endswith(f"/{mentioned}") for path in paths)


def test_names_that_are_mentioned_exist() -> None:
    missing = [
        f"{file}: {mentioned}"
        for file in python_files("src", "tests")
        for mentioned in NAME.findall((ROOT / file).read_text(encoding="utf-8"))
        if not _is_name(mentioned)
    ]
    assert not missing, "\n".join(missing)


def _is_name(mentioned: str) -> bool:
    """Whether it is a module, or a word in one (and each further part a word there too)."""
    folder = ROOT / "src"
    parts = mentioned.split(".")
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    module = folder / f"{parts[0]}.py" if parts else folder / "__init__.py"
    if parts and module.is_file():
        parts.pop(0)
    elif parts:
        module = folder / "__init__.py"
    text = module.read_text(encoding="utf-8")
    return all(re.search(rf"\b{part}\b", text) for part in parts)
