"""Logs: one record a line, with the fields that the code attached."""

from __future__ import annotations

import json
import logging
import sys

from perdure.cli.logs import LEVELS, JsonFormatter, TextFormatter


def record(level: int, message: str, **fields: object) -> logging.LogRecord:
    return logging.getLogger("perdure.test").makeRecord("perdure.test", level, "file", 1, message, (), None, extra=fields)


def test_json_has_the_official_names_and_the_fields() -> None:
    entry = json.loads(JsonFormatter().format(record(logging.WARNING, "slow commit", namespace="orders", rows=3, path=ValueError("x"))))
    assert entry.pop("ts").endswith("Z")
    assert entry == {"level": "warn", "msg": "slow commit", "logger": "perdure.test", "namespace": "orders", "rows": 3, "path": "x"}


def test_text_quotes_what_needs_it() -> None:
    line = TextFormatter().format(record(logging.INFO, "started", queue="a b", empty="", port=7233))
    assert line.endswith(' info  started queue="a b" empty="" port=7233')


def test_an_exception_is_shown() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        failed = record(logging.ERROR, "failed")
        failed.exc_info = sys.exc_info()
    assert "ValueError: broken" in json.loads(JsonFormatter().format(failed))["error"]
    assert TextFormatter().format(failed).endswith("ValueError: broken")


def test_never_is_above_everything() -> None:
    assert LEVELS["never"] > LEVELS["fatal"] > LEVELS["error"] > LEVELS["warn"] > LEVELS["info"] > LEVELS["debug"]
