"""Time, ids and randomness are injected, and tests wait for conditions, not for time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.source import parse, python_files, used_names

# Their namesakes in core/clock.py and core/ids.py are what everything else is given.
AMBIENT = {
    "time.time",
    "time.time_ns",
    "time.localtime",
    "time.gmtime",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
    "uuid.uuid1",
    "uuid.uuid4",
    "os.urandom",
}
AMBIENT_MODULES = {"random", "secrets"}
MAY_BE_AMBIENT = ("src/perdure/core/clock.py", "src/perdure/core/ids.py", "src/perdure/cli/", "src/perdure/testing/")

SLEEPS = {"time.sleep", "asyncio.sleep", "anyio.sleep"}


def test_time_ids_and_randomness_are_injected() -> None:
    wrong = [
        f"{file}:{line}: {name}"
        for file in python_files("src")
        if not str(file).startswith(MAY_BE_AMBIENT)
        for line, name in _ambient(parse(file))
    ]
    assert not wrong, "take these from the clock or the id source that was injected:\n" + "\n".join(wrong)


def test_tests_wait_for_conditions() -> None:
    wrong = [f"{file}:{line}: {name}" for file in python_files("tests") if not _is_support(file) for line, name in _sleeps(parse(file))]
    assert not wrong, "wait for a condition (tests/support) instead of a time:\n" + "\n".join(wrong)


def test_the_rules_themselves() -> None:
    ambient = (
        "import time as t\nfrom datetime import datetime\nfrom uuid import uuid4 as new\nt.time()\ndatetime.now()\nnew()\nt.perf_counter()"
    )
    assert [name for _, name in _ambient(ast.parse(ambient))] == ["time.time", "datetime.datetime.now", "uuid.uuid4"]
    assert [name for _, name in _ambient(ast.parse("import random\nrandom.Random(1)"))] == ["random.Random"]
    sleeping = "import asyncio\nasync def f():\n  await asyncio.sleep(1)"
    assert len(list(_sleeps(ast.parse(sleeping)))) == 1
    assert not list(_sleeps(ast.parse(sleeping.replace("(1)", "(0)"))))
    timer = "import asyncio\nfrom temporalio import workflow\n@workflow.defn\nclass W:\n  async def f(self):\n    await asyncio.sleep(1)"
    assert not list(_sleeps(ast.parse(timer)))
    assert len(list(_sleeps(ast.parse(timer.replace("@workflow.defn\n", ""))))) == 1


def _ambient(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node, name in used_names(tree):
        module = name.partition(".")[0]
        if name in AMBIENT or (module in AMBIENT_MODULES and name != module):
            yield getattr(node, "lineno", 0), name


def _sleeps(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Sleeps, except for no time at all (a turn of the event loop) and in workflows, where a sleep is a durable timer."""
    excused = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_zero(node.args)}
    for workflow in ast.walk(tree):
        if isinstance(workflow, ast.ClassDef) and any("workflow.defn" in ast.unparse(decorator) for decorator in workflow.decorator_list):
            excused.update(id(node) for node in ast.walk(workflow))
    for node, name in used_names(tree):
        if name in SLEEPS and id(node) not in excused:
            yield getattr(node, "lineno", 0), name


def _is_zero(arguments: list[ast.expr]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and arguments[0].value == 0


def _is_support(file: Path) -> bool:
    return file.parts[1] == "support"
