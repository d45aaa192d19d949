"""``perdure server start-dev`` and ``perdure server start``: flags to settings, then run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perdure.cli.config import write_settings
from perdure.cli.parser import USAGE_ERROR, CommandError, split_pairs
from perdure.core.limits import known_keys
from perdure.settings import (
    CONFIG_FILE_VARIABLE,
    Given,
    LoadedSettings,
    ServerSettings,
    SettingsError,
    load_settings,
)

_log = logging.getLogger("perdure.server")

# Gone when it stops, and no port but its own taken for sure: as the official development server.
_DEV_DEFAULTS = ServerSettings(database="", metrics_port=0)


def start_dev(arguments: argparse.Namespace) -> int:
    """``perdure server start-dev``; returns the exit code."""
    loaded = start_dev_settings(arguments)
    if arguments.log_config:
        write_settings(loaded, sys.stderr, with_origin=False)
    return _run(loaded.settings, start_dev_notices(arguments, loaded.settings))


def start(arguments: argparse.Namespace) -> int:
    """``perdure server start``; returns the exit code."""
    settings = start_settings(arguments).settings
    if not settings.is_loopback and not settings.allow_no_auth:
        raise CommandError(
            f"refusing to listen on {settings.ip}: everyone who reaches it could read and change everything, as callers do not have to "
            "identify themselves; listen on 127.0.0.1, or accept that with --allow-no-auth"
        )
    return _run(settings, [])


def start_dev_settings(arguments: argparse.Namespace) -> LoadedSettings:
    """Settings from the flags alone. Raises CommandError."""
    flags = _shared_flags(arguments)
    flags["ip"] = Given(arguments.ip, "flag --ip")
    flags["grpc_port"] = Given(arguments.port, "flag --port")
    flags["metrics_port"] = Given(arguments.metrics_port, "flag --metrics-port")
    flags["database"] = Given(_development_file(arguments.db_filename), "flag --db-filename")
    # "default" is always there, whatever else is asked for.
    flags["namespaces"] = Given(list(dict.fromkeys(["default", *arguments.namespace])), "flag --namespace")
    try:
        return load_settings(flags=flags, defaults=_DEV_DEFAULTS)
    except SettingsError as error:
        raise CommandError(str(error), USAGE_ERROR) from None


def start_settings(arguments: argparse.Namespace) -> LoadedSettings:
    """Settings from flags, environment and file. Raises CommandError."""
    flags = _shared_flags(arguments)
    for name, key in _START_FLAGS.items():
        value = getattr(arguments, name)
        if value is not None:
            flags[key] = Given(_port_number(value) if key == "metrics_port" else value, f"flag {FLAGS[key]}")
    for key in ("standby", "allow_no_auth"):
        if getattr(arguments, key):
            flags[key] = Given(True, f"flag {FLAGS[key]}")
    if arguments.namespace:
        flags["namespaces"] = Given(arguments.namespace, f"flag {FLAGS['namespaces']}")
    file = arguments.config or os.environ.get(CONFIG_FILE_VARIABLE)
    try:
        return load_settings(flags=flags, environment=os.environ, file=Path(file) if file else None)
    except SettingsError as error:
        raise CommandError(str(error), USAGE_ERROR) from None


_START_FLAGS = {
    "database": "database",
    "ip": "ip",
    "port": "grpc_port",
    "metrics_port": "metrics_port",
    "retention": "namespace_retention",
    "cache_size": "cache_size_bytes",
    "partitions": "partitions",
    "drain_timeout": "drain_timeout",
}
"""What argparse calls it → the setting."""

FLAGS: Mapping[str, str] = {
    **{key: f"--{name.replace('_', '-')}" for name, key in _START_FLAGS.items()},
    "standby": "--standby",
    "allow_no_auth": "--allow-no-auth",
    "namespaces": "--namespace",
    "sqlite_pragmas": "--sqlite-pragma",
    "search_attributes": "--search-attribute",
    "dynamic_config": "--dynamic-config-value",
    "log_level": "--log-level",
    "log_format": "--log-format",
}
"""Setting → the flag of `server start` for it; a setting without one is given by the file or the environment."""


def _shared_flags(arguments: argparse.Namespace) -> dict[str, Given]:
    flags: dict[str, Given] = {}
    for key, pairs in (("sqlite_pragmas", arguments.sqlite_pragma), ("search_attributes", arguments.search_attribute)):
        if pairs:
            flags[key] = Given(split_pairs(FLAGS[key], pairs), f"flag {FLAGS[key]}")
    if arguments.dynamic_config_value:
        flags["dynamic_config"] = Given(_dynamic_config(arguments.dynamic_config_value), f"flag {FLAGS['dynamic_config']}")
    for key in ("log_level", "log_format"):
        if getattr(arguments, key) is not None:
            flags[key] = Given(getattr(arguments, key), f"flag {FLAGS[key]}")
    return flags


def _dynamic_config(pairs: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, text in split_pairs("--dynamic-config-value", pairs).items():
        try:
            values[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            raise CommandError(
                f"--dynamic-config-value {key}: {text} is not JSON; text needs quotes of its own, such as {key}='\"{text}\"'", USAGE_ERROR
            ) from None
    return values


def _development_file(name: str) -> str:
    """The path as given; the official server makes the file but not its directory."""
    if name and "://" not in name and not Path(name).absolute().parent.is_dir():
        raise CommandError(f"cannot open {name}: the directory {Path(name).parent} does not exist; create it first")
    return name


def _port_number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def start_dev_notices(arguments: argparse.Namespace, settings: ServerSettings) -> list[tuple[int, str]]:
    """What a person should know about the flags given: (log level, line)."""
    notices: list[tuple[int, str]] = []
    if arguments.ui_port is not None:
        # SDKs always give it; at their level (warn) this stays silent.
        notices.append((logging.INFO, "--ui-port has no effect: the web UI is not built yet"))
    ui_flags = ("ui_ip", "ui_public_path", "ui_asset_path", "ui_codec_endpoint", "ui_disable_news_fetch")
    if given := [f"--{name.replace('_', '-')}" for name in ui_flags if getattr(arguments, name)]:
        notices.append((logging.WARNING, f"no effect of {', '.join(given)}: the web UI is not built yet"))
    if arguments.http_port is not None:
        notices.append((logging.WARNING, "--http-port has no effect: the HTTP API is not built yet"))
    if not settings.is_loopback:
        notices.append((logging.WARNING, f"listening on {settings.ip}: everyone who reaches this machine can use the server without a key"))
    return notices


def _run(settings: ServerSettings, notices: Sequence[tuple[int, str]]) -> int:
    # Before anything imports the API's messages: the server does not need the SDK around them, and starts faster without.
    from perdure.core.lean_import import defer_sdk

    defer_sdk()

    from perdure.cli.logs import configure_logs
    from perdure.cli.run import run_server

    configure_logs(settings.log_level, settings.log_format)
    for level, line in notices:
        _log.log(level, line)
    # Accepted in silence, as by the official server: most keys configure parts that do not exist here.
    for key in settings.dynamic_config:
        if key.lower() not in known_keys():
            _log.debug("dynamic config value has no effect", extra={"key": key})
    return run_server(settings)
