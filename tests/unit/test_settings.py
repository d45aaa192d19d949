"""Settings: flag over environment over file over default; what is wrong is named with where it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.core.clock import DAY, HOUR, SECOND
from perdure.settings import LONGEST_INDEXED_ID, Given, ServerSettings, SettingsError, load_settings


def write(folder: Path, text: str) -> Path:
    file = folder / "perdure.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_strongest_source_wins(tmp_path: Path) -> None:
    file = write(tmp_path, 'grpc_port = 1111\nip = "127.0.0.2"\nlog_level = "warn"\nnamespace_retention = "2h"')
    loaded = load_settings(
        file=file,
        environment={"PERDURE_GRPC_PORT": "2222", "PERDURE_IP": "127.0.0.3", "HOME": "/"},
        flags={"grpc_port": Given(3333, "flag --port")},
    )
    settings = loaded.settings
    assert (settings.grpc_port, settings.ip, settings.log_level, settings.namespace_retention) == (3333, "127.0.0.3", "warn", 2 * HOUR)
    assert loaded.origins["grpc_port"] == "flag --port"
    assert loaded.origins["ip"] == "environment variable PERDURE_IP"
    assert loaded.origins["log_level"] == f"file {file}"
    assert loaded.origins["database"] == "default"


def test_nothing_given_gives_the_defaults() -> None:
    assert load_settings().settings == ServerSettings()
    assert ServerSettings().namespace_retention == DAY


def test_tables_are_merged_entry_by_entry(tmp_path: Path) -> None:
    file = write(tmp_path, '[dynamic_config]\nlimit.maxIDLength = 255\n"limit.blobSize.error" = 10\n[search_attributes]\nCity = "keyword"')
    loaded = load_settings(file=file, flags={"dynamic_config": Given({"LIMIT.maxidlength": 99}, "flag --dynamic-config-value")})
    assert loaded.settings.dynamic_config == {"limit.maxIDLength": 99, "limit.blobSize.error": 10}
    assert loaded.settings.limits.max_id_length == 99
    assert loaded.settings.limits.blob_size_error_bytes == 10
    assert loaded.settings.search_attributes == {"City": "Keyword"}
    assert loaded.origins["dynamic_config.limit.maxIDLength"] == "flag --dynamic-config-value"
    assert loaded.origins["dynamic_config.limit.blobSize.error"] == f"file {file}"


def test_structured_dynamic_config_stays_whole(tmp_path: Path) -> None:
    file = write(tmp_path, "[dynamic_config.history.defaultActivityRetryPolicy]\nMaximumAttempts = 7")
    assert load_settings(file=file).settings.limits.default_activity_retry.maximum_attempts == 7


def test_environment_reads_lists_tables_and_switches() -> None:
    settings = load_settings(
        environment={
            "PERDURE_NAMESPACES": "orders, payments",
            "PERDURE_DYNAMIC_CONFIG": '{"limit.maxIDLength": 5}',
            "PERDURE_METRICS_PORT": "off",
            "PERDURE_ALLOW_NO_AUTH": "true",
            "PERDURE_DRAIN_TIMEOUT": "30",
        }
    ).settings
    assert settings.namespaces == ("orders", "payments")
    assert settings.limits.max_id_length == 5
    assert settings.metrics_port is None
    assert settings.allow_no_auth
    assert settings.drain_timeout == 30 * SECOND


def test_variables_that_kubernetes_makes_are_no_settings() -> None:
    address = "tcp://192.0.2.1:7233"
    links = {
        "PERDURE_SERVICE_HOST": "192.0.2.1",
        "PERDURE_PORT": address,
        "PERDURE_PORT_7233_TCP": address,
        "PERDURE_SERVICE_PORT_GRPC": "1",
    }
    assert load_settings(environment=links).settings == ServerSettings()
    with pytest.raises(SettingsError, match="unknown environment variable PERDURE_PORT"):
        load_settings(environment={"PERDURE_PORT": "7233"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PERDURE_GRPC_PROT": "1"}, "unknown environment variable PERDURE_GRPC_PROT; did you mean PERDURE_GRPC_PORT?"),
        ({"PERDURE_GRPC_PORT": "x"}, "grpc_port (environment variable PERDURE_GRPC_PORT): wants a whole number, got 'x'"),
        ({"PERDURE_GRPC_PORT": "65536"}, "grpc_port (environment variable PERDURE_GRPC_PORT): wants a whole number <= 65535, got '65536'"),
        ({"PERDURE_DYNAMIC_CONFIG": "{"}, "environment variable PERDURE_DYNAMIC_CONFIG: not valid JSON"),
        (
            {"PERDURE_LOG_LEVEL": "loud"},
            "log_level (environment variable PERDURE_LOG_LEVEL): wants one of debug, info, warn, error, never, fatal, got 'loud'",
        ),
        ({"PERDURE_DRAIN_TIMEOUT": "soon"}, 'drain_timeout (environment variable PERDURE_DRAIN_TIMEOUT): wants a duration such as "10s"'),
    ],
)
def test_bad_environment(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment=environment)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown key prot; known are ip, grpc_port"),
        ("grpc_prot = 1", "unknown key grpc_prot; did you mean grpc_port?"),
        ("limits = {}", "unknown key limits"),
        ("grpc_port = 'x'", "wants a whole number, got 'x'"),
        ("grpc_port = ", "is not valid TOML"),
        ("[dynamic_config]\nlimit.maxIDLength = 'x'", "limit.maxIDLength: wants a whole number"),
        ("database = 'mysql://h/d'", "cannot use a database of the kind mysql://; give the path of a SQLite file or postgresql://"),
        ("database = 'postgresql://[h/d'", "not a valid URL: Invalid IPv6 URL; it must look like postgresql://user@host:5432/database"),
        ("database = 'postgresql://h:x/d'", "not a valid URL: "),
        ("namespaces = ['a', '']", "a namespace needs a name"),
        ('namespaces = ["a\\u0000b"]', r"cannot have the name 'a\x00b'"),
        (f"namespaces = ['{'x' * 2501}']", "the name of a namespace has at most 2500 bytes"),
        ("namespace_retention = '100000d'", "wants a duration of at most 36500d (a hundred years), got '100000d'"),
        ("namespace_retention = '1m'", "wants at least 1h (dynamic config value system.namespaceMinRetentionLocal), got 1m"),
        ("ip = 'here'", "'here' is not an IP address; use 127.0.0.1"),
        ("[search_attributes]\nCity = 'String'", "search attribute City: unknown type 'String'; the types are Text, Keyword"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(file=write(tmp_path, text))
    assert message in str(refused.value)
    assert "perdure.toml" in str(refused.value)


def test_ids_that_postgresql_could_not_index() -> None:
    values = {"dynamic_config": Given({"limit.maxIDLength": LONGEST_INDEXED_ID + 1}, "flag")}
    assert load_settings(flags=values).settings.limits.max_id_length == LONGEST_INDEXED_ID + 1
    with pytest.raises(SettingsError, match=r"limit\.maxIDLength: wants at most 2500 with PostgreSQL, .* got 2501"):
        load_settings(flags={**values, "database": Given("postgresql://h/d", "flag")})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the configuration file .*: No such file or directory"):
        load_settings(file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("ip", "is_loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)]
)
def test_what_only_this_machine_reaches(ip: str, is_loopback: bool) -> None:
    assert load_settings(flags={"ip": Given(ip, "flag --ip")}).settings.is_loopback is is_loopback
