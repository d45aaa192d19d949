"""What can be set on a server: one typed schema for file, environment and flags.

A flag wins over the environment, the environment over the file, the file over the default. Lists are replaced as a whole; tables
(``sqlite_pragmas``, ``search_attributes``, ``dynamic_config``) are merged entry by entry. An unknown key is an error that names the
nearest known one: a typing error must not become a default in silence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import msgspec

from perdure.core import limits as limits_module
from perdure.core.clock import DAY, SECOND
from perdure.core.limits import LimitError, Limits, format_duration, parse_duration
from perdure.core.poison_policy import parse_poison_policy

ENVIRONMENT_PREFIX = "PERDURE_"
CONFIG_FILE_VARIABLE = "PERDURE_CONFIG_FILE"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
LogLevel = Literal["debug", "info", "warn", "error", "never", "fatal"]
SynchronousCommit = Literal["on", "remote_apply", "remote_write", "local", "off"]
LogFormat = Literal["text", "json", "pretty"]

LONGEST_INDEXED_ID = 2_500
"""Bytes. A key of an index in PostgreSQL has at most 2,704; ids share theirs with a namespace's id, a kind and a run id."""

SEARCH_ATTRIBUTE_TYPES = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")


class SettingsError(ValueError):
    """A setting that cannot be used; the message says which, where it was given, what is wrong and what to do."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a server is started with: MEANING says what each field is. Durations are nanoseconds here.

    limits: what follows from dynamic_config; never given directly.
    """

    ip: str = "127.0.0.1"
    grpc_port: Port = 7233
    metrics_port: Port | None = 9090
    database: str = "perdure.db"
    sqlite_pragmas: dict[str, str] = {}
    postgresql_synchronous_commit: SynchronousCommit = "on"
    namespaces: tuple[str, ...] = ("default",)
    namespace_retention: int = DAY
    search_attributes: dict[str, str] = {}
    dynamic_config: dict[str, Any] = {}
    limits: Limits = Limits()
    cache_size_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 64 << 20
    drain_timeout: int = 5 * SECOND
    partitions: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    standby: bool = False
    allow_no_auth: bool = False
    poison_policy: str = ""
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    @property
    def is_postgresql(self) -> bool:
        return self.database.startswith(("postgresql://", "postgres://"))

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        return self.ip == "::1" or self.ip.startswith("127.")


KEYS: tuple[str, ...] = tuple(name for name in ServerSettings.__struct_fields__ if name != "limits")
"""What a file, the environment and flags may set."""

MEANING: Mapping[str, str] = {
    "ip": "The address that gRPC, metrics and health listen on.",
    "grpc_port": "The port for gRPC; 0 takes any free one.",
    "metrics_port": "The port for `/metrics`, `/healthz` and `/readyz`; 0 takes any free one, `off` none.",
    "database": "A `postgresql://` URL, or the path of a SQLite file; empty for memory.",
    "sqlite_pragmas": "SQLite's own settings, name → value, on top of the server's.",
    "postgresql_synchronous_commit": "When PostgreSQL counts a commit as done, in its words, whatever the database or the role has for a "
    "default. With `off` a crash of the database can lose what was acknowledged.",
    "namespaces": "Created at the start where they are missing.",
    "namespace_retention": "So long the namespaces that this start creates keep what has ended.",
    "search_attributes": "Name → type, of those namespaces: " + ", ".join(SEARCH_ATTRIBUTE_TYPES) + ".",
    "dynamic_config": "Limits by the official server's keys, see below; a key that means nothing here is ignored.",
    "cache_size_bytes": "Memory for loaded executions.",
    "drain_timeout": "How long calls in progress may take at a stop.",
    "partitions": "Engines in this process, each with a writer of its own; may change from one start to the next.",
    "standby": "While another server uses the database, wait, and take over when it ends, instead of refusing to start.",
    "allow_no_auth": "Listen beyond this machine although nobody has to identify themselves.",
    "poison_policy": "What becomes of workflows whose tasks fail again and again, for namespaces without a policy of their own: "
    "see [poison policy](../how-to/poison-policy.md). Empty: they are retried.",
    "log_level": "What is logged on standard error.",
    "log_format": "One line of text or one JSON object for each record.",
}
"""Of each of KEYS, for people."""

DURATION_KEYS = frozenset({"namespace_retention", "drain_timeout"})
"""Keys that people give as a duration ("24h") and the server holds in nanoseconds."""

_TYPES: Mapping[str, Any] = get_type_hints(ServerSettings, include_extras=True)
_TABLES = frozenset({"sqlite_pragmas", "search_attributes", "dynamic_config"})


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it came from: "default", "file …", "environment variable …" or "flag …"."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings with the origin of each: key → origin, and ``table.entry`` → origin for entries of tables."""

    settings: ServerSettings
    origins: Mapping[str, str]


def load_settings(
    *,
    flags: Mapping[str, Given] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    defaults: ServerSettings | None = None,
) -> LoadedSettings:
    """Merge what was given, the strongest first: flags (key → value), environment (all variables of the process), a TOML file.

    defaults: what holds where nothing was given. Raises SettingsError.
    """
    sources: list[Mapping[str, Given]] = []
    if file is not None:
        sources.append(_read_file(file))
    sources.append(_read_environment(environment or {}))
    sources.append(flags or {})

    settings = defaults or ServerSettings()
    merged: dict[str, Any] = {key: getattr(settings, key) for key in KEYS}
    origins = dict.fromkeys(KEYS, "default")
    for source in sources:
        for key, given in source.items():
            value = _checked(key, given)
            if key in _TABLES:
                merged[key] = {**merged[key], **value}
                origins.update({f"{key}.{entry}": given.origin for entry in value})
            else:
                merged[key] = value
            origins[key] = given.origin
    try:
        merged["limits"] = Limits.from_dynamic_config(merged["dynamic_config"])
    except LimitError as error:
        raise SettingsError(str(error)) from None
    loaded = LoadedSettings(ServerSettings(**merged), origins)
    _check_together(loaded)
    return loaded


def _check_together(loaded: LoadedSettings) -> None:
    """What a value must be given the others. Raises SettingsError."""
    settings, limits = loaded.settings, loaded.settings.limits
    if settings.namespace_retention < limits.namespace_retention_minimum_ns:
        raise SettingsError(
            f"namespace_retention ({loaded.origins['namespace_retention']}): wants at least "
            f"{format_duration(limits.namespace_retention_minimum_ns)} (dynamic config value system.namespaceMinRetentionLocal), "
            f"got {format_duration(settings.namespace_retention)}"
        )
    if settings.is_postgresql and limits.max_id_length > LONGEST_INDEXED_ID:
        raise SettingsError(
            f"dynamic config value limit.maxIDLength: wants at most {LONGEST_INDEXED_ID} with PostgreSQL, "
            f"whose indexes hold no longer keys, got {limits.max_id_length}"
        )


def search_attribute_type(name: str, given: str) -> str:
    """The official spelling of a search attribute's type, given in any case. Raises SettingsError for an unknown one."""
    for known in SEARCH_ATTRIBUTE_TYPES:
        if known.lower() == given.lower():
            return known
    raise SettingsError(f"search attribute {name}: unknown type {given!r}; the types are {', '.join(SEARCH_ATTRIBUTE_TYPES)}")


def nearest(given: str, known: Sequence[str]) -> str:
    """``; did you mean …?`` or the list of what is known."""
    matches = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else f"; known are {', '.join(known)}"


def _read_file(file: Path) -> Mapping[str, Given]:
    import tomllib

    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"the configuration file {file} is not valid TOML: {error}") from None
    for key in content:
        if key not in KEYS:
            raise SettingsError(f"{file}: unknown key {key}{nearest(key, KEYS)}")
    return {key: Given(value, f"file {file}") for key, value in content.items()}


def _read_environment(environment: Mapping[str, str]) -> Mapping[str, Given]:
    known = {ENVIRONMENT_PREFIX + key.upper(): key for key in KEYS}
    given: dict[str, Given] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_FILE_VARIABLE or _is_service_link(variable, text):
            continue
        if variable not in known:
            raise SettingsError(f"unknown environment variable {variable}{nearest(variable, list(known))}")
        key = known[variable]
        given[key] = Given(_from_text(key, variable, text), f"environment variable {variable}")
    return given


def _is_service_link(variable: str, text: str) -> bool:
    """Whether Kubernetes made this variable: it announces a Service called "perdure" to every pod of its namespace."""
    return re.fullmatch(r"PERDURE_(SERVICE_(HOST|PORT)\w*|PORT_\d+_\w+)", variable) is not None or (
        variable == "PERDURE_PORT" and text.startswith("tcp://")
    )


def _from_text(key: str, variable: str, text: str) -> Any:
    """An environment variable's text as a value: tables are JSON, lists are JSON or separated by commas, numbers are read leniently."""
    if key in _TABLES or (key == "namespaces" and text.lstrip().startswith("[")):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise SettingsError(f"environment variable {variable}: not valid JSON: {error}") from None
    if key == "namespaces":
        return [part.strip() for part in text.split(",") if part.strip()]
    if key in DURATION_KEYS or text == "off":
        return text
    try:
        return cast(object, msgspec.convert(text, _TYPES[key], strict=False))
    except msgspec.ValidationError as error:
        raise SettingsError(f"{key} (environment variable {variable}): {_wanted(key, error)}, got {text!r}") from None


def _checked(key: str, given: Given) -> Any:
    """The value in its own type. Raises SettingsError with its origin."""
    try:
        if key in DURATION_KEYS:
            return parse_duration(given.value)
        if key == "metrics_port" and given.value == "off":
            return None
        value: Any = msgspec.convert(given.value, _TYPES[key])
        return _CHECKS[key](value) if key in _CHECKS else value
    except msgspec.ValidationError as error:
        raise SettingsError(f"{key} ({given.origin}): {_wanted(key, error)}, got {given.value!r}") from None
    except SettingsError as error:
        raise SettingsError(f"{key} ({given.origin}): {error}") from None
    except ValueError as wanted:
        raise SettingsError(f"{key} ({given.origin}): wants {wanted}, got {given.value!r}") from None


def _wanted(key: str, error: msgspec.ValidationError) -> str:
    """What a value of this key must be, for people."""
    if key in _TABLES:
        return "wants a table"
    if get_origin(_TYPES[key]) is Literal:
        return f"wants one of {', '.join(get_args(_TYPES[key]))}"
    # "Expected `int` <= 65535", or "Expected `int`, got `str`": what it got follows in its own form.
    wanted = str(error).partition(" - at")[0].partition(", got")[0].replace("`", "")
    for technical, plain in (
        ("Expected", "wants"),
        ("int", "a whole number"),
        ("bool", "true or false"),
        ("str", "text"),
        ("| null", 'or "off"'),
    ):
        wanted = wanted.replace(technical, plain)
    return wanted


def _check_database(database: str) -> str:
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", database, re.IGNORECASE)
    if scheme is not None and scheme[1] not in ("postgresql", "postgres"):
        raise SettingsError(
            f"cannot use a database of the kind {scheme[1]}://; give the path of a SQLite file or postgresql://user@host:5432/database"
        )
    if scheme is not None:
        from urllib.parse import urlsplit

        try:
            _ = urlsplit(database).port
        except ValueError as error:
            # The URL itself is not shown: it may hold a password.
            raise SettingsError(f"not a valid URL: {error}; it must look like postgresql://user@host:5432/database") from None
    return database


def _check_namespaces(namespaces: tuple[str, ...]) -> tuple[str, ...]:
    if not all(namespaces):
        raise SettingsError("a namespace needs a name")
    for name in namespaces:
        # No database keeps U+0000 in text, and half a surrogate pair is no text.
        if "\0" in name or not name.isprintable():
            raise SettingsError(f"a namespace cannot have the name {name!r}: use printable characters")
        if len(name.encode()) > LONGEST_INDEXED_ID:
            raise SettingsError(f"the name of a namespace has at most {LONGEST_INDEXED_ID} bytes, got {name[:50]!r}…")
    return namespaces


def _check_ip(ip: str) -> str:
    import ipaddress

    if ip == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(ip))
    except ValueError:
        raise SettingsError(f"{ip!r} is not an IP address; use 127.0.0.1 for this machine only, 0.0.0.0 for every network") from None


def _check_search_attributes(attributes: dict[str, str]) -> dict[str, str]:
    return {name: search_attribute_type(name, given) for name, given in attributes.items()}


def _check_dynamic_config(values: dict[str, Any]) -> dict[str, Any]:
    """One level deep, known keys in the official spelling, whatever way a file nested or wrote them."""
    checked = {_official_spelling(key): value for key, value in _flattened(values)}
    try:
        Limits.from_dynamic_config(checked)
    except LimitError as error:
        raise SettingsError(str(error)) from None
    return checked


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """TOML reads ``limit.maxIDLength = 5`` as tables in tables; a key whose value is itself an object stays whole."""
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict) and key.lower() not in limits_module.known_keys():
            yield from _flattened(cast("dict[str, Any]", value), key + ".")
        else:
            yield key, value


def _official_spelling(key: str) -> str:
    name = limits_module.known_keys().get(key.lower())
    if name is None:
        return key
    return next(official for official in limits_module.keys_of(name) if official.lower() == key.lower())


def _check_poison_policy(text: str) -> str:
    try:
        parse_poison_policy(text)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return text


_CHECKS: Mapping[str, Any] = {
    "database": _check_database,
    "ip": _check_ip,
    "namespaces": _check_namespaces,
    "search_attributes": _check_search_attributes,
    "dynamic_config": _check_dynamic_config,
    "poison_policy": _check_poison_policy,
}
