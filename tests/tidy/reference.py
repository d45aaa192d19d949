"""Writes the pages of docs/reference from the code: ``python -m tests.tidy.reference``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from perdure.cli.config import toml_value
from perdure.cli.server import FLAGS
from perdure.core import limits
from perdure.core.limits import Limits, keys_of
from perdure.observability.metrics import Registry
from perdure.observability.rpc_metrics import RpcMetrics
from perdure.observability.server_metrics import ServerMetrics
from perdure.settings import ENVIRONMENT_PREFIX, KEYS, MEANING, ServerSettings
from tests.tidy.source import ROOT

NOTICE = "<!-- Written by `make reference` from the code; a test compares. -->"


def pages() -> Mapping[str, str]:
    """File name → text."""
    return {"settings.md": "\n".join(_settings()) + "\n", "metrics.md": "\n".join(_metrics()) + "\n"}


def _settings() -> Iterator[str]:
    yield from ("# Settings", "", NOTICE, "")
    yield "What `perdure server start` can be told, by a key in a TOML file (`--config`), an environment variable, or a flag. A flag wins"
    yield "over the environment, that over the file. The environment variable of `grpc_port` is"
    yield f"`{ENVIRONMENT_PREFIX}GRPC_PORT`, and so on. What holds, and where it came from: `perdure config show --origin`."
    yield from ("", "| Key | Default | Flag | Meaning |", "|---|---|---|---|")
    defaults = ServerSettings()
    hints = get_type_hints(ServerSettings)
    for key in KEYS:
        choices = [choice for choice in get_args(hints[key]) if isinstance(choice, str)]
        meaning = MEANING[key] + (f" One of {', '.join(choices)}." if choices else "")
        flag = f"`{FLAGS[key]}`" if key in FLAGS else ""
        yield f"| `{key}` | `{toml_value(key, getattr(defaults, key))}` | {flag} | {meaning} |"
    yield from ("", "## Limits", "")
    yield "Changed by entries of `dynamic_config` under the official server's keys, whose case does not matter. Without a key: fixed."
    yield from ("", "| Key | Default | Limit | Why |", "|---|---|---|---|")
    reasons = _reasons()
    for limit in dataclasses.fields(Limits):
        keys = ", ".join(f"`{key}`" for key in keys_of(limit.name)) or "(fixed)"
        default: Any = getattr(limits.Limits(), limit.name)
        shown = dataclasses.asdict(default) if dataclasses.is_dataclass(default) and not isinstance(default, type) else default
        yield f"| {keys} | `{toml_value(limit.name, shown)}` | {limit.name} | {reasons.get(limit.name, '')} |"


def _reasons() -> dict[str, str]:
    """Field → the comment before it; fields that follow without one share it."""
    reasons: dict[str, str] = {}
    comment: list[str] = []
    is_open = False
    for line in inspect.getsource(Limits).splitlines():
        if (found := re.match(r"    # (?!--)(.*)", line)) is not None:
            comment = [*comment, found[1]] if is_open else [found[1]]
            is_open = True
            continue
        is_open = False
        if (field := re.match(r"    (\w+): .* = ", line)) is not None:
            reasons[field[1]] = " ".join(comment)
        else:
            comment = []
    return reasons


def _metrics() -> Iterator[str]:
    registry = Registry()
    RpcMetrics(registry)
    ServerMetrics(registry)
    yield from ("# Metrics", "", NOTICE, "")
    yield "What `http://…:<metrics_port>/metrics` shows, in Prometheus' text format. The names and labels are the official server's,"
    yield "so that its dashboards work; metrics that it does not have begin with `perdure_`. Times are seconds. A metric is shown once it"
    yield "has a value."
    yield from ("", "| Name | Kind | Labels | Meaning |", "|---|---|---|---|")
    for family in registry.families:
        labels = ", ".join(f"`{name}`" for name in family.all_label_names)
        yield f"| `{family.name}` | {family.kind} | {labels} | {family.help_text} |"


if __name__ == "__main__":
    folder = ROOT / "docs" / "reference"
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
