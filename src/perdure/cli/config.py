"""``perdure config show``."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from typing import Any, TextIO

import msgspec

from perdure.core.limits import format_duration, keys_of
from perdure.settings import DURATION_KEYS, KEYS, LoadedSettings


def show(arguments: argparse.Namespace) -> int:
    """Print the settings that `server start` would run with; returns the exit code."""
    from perdure.cli.server import start_settings

    write_settings(start_settings(arguments), sys.stdout, with_origin=arguments.origin)
    return 0


def write_settings(loaded: LoadedSettings, output: TextIO, *, with_origin: bool) -> None:
    """Every setting in the form of a configuration file, then every limit as a comment with its official key."""
    lines = [(f"{key} = {toml_value(key, getattr(loaded.settings, key))}", loaded.origins[key]) for key in KEYS]
    width = min(max(len(text) for text, _ in lines), 60) if with_origin else 0
    for text, origin in lines:
        print(f"{text:{width}}  # {origin}" if with_origin else text, file=output)
    print("\n# Limits: changed by entries of dynamic_config", file=output)
    for limit in dataclasses.fields(loaded.settings.limits):
        keys = keys_of(limit.name)
        origins = [loaded.origins[f"dynamic_config.{key}"] for key in keys if f"dynamic_config.{key}" in loaded.origins]
        text = f"# {limit.name} = {toml_value(limit.name, getattr(loaded.settings.limits, limit.name))} ({' or '.join(keys) or 'fixed'})"
        print(f"{text}  # {origins[-1] if origins else 'default'}" if with_origin else text, file=output)


def toml_value(name: str, value: Any) -> str:
    """A setting or limit of that name as a configuration file has it."""
    if name in DURATION_KEYS or name.endswith("_ns"):
        return f'"{format_duration(value)}"'
    return _toml(value)


def _toml(value: Any) -> str:
    """As TOML writes it, as far as it can: a table in one line; nothing set is off. Passwords in URLs are not shown."""
    if value is None:
        return '"off"'
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {_toml(entry)}' for name, entry in value.items()) + "}"  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str):
        value = re.sub(r"(://[^/:@]*):[^@/]*@", r"\1:…@", value)
    return msgspec.json.encode(value).decode()
