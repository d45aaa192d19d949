"""The flags of both ways to start a server, as settings; every mistake is one line that says what to do."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest

from perdure.cli.main import build_parser, main
from perdure.cli.parser import CommandError
from perdure.cli.server import start, start_dev_notices, start_dev_settings, start_settings
from perdure.settings import ServerSettings

# What the official SDKs' test environments call the executable with, and every other flag of the official development server.
SDK_FLAGS = shlex.split("""--port 7999 --namespace default --ip 127.0.0.1 --log-format pretty --log-level warn
    --dynamic-config-value frontend.enableServerVersionCheck=false
    --dynamic-config-value frontend.enableUpdateWorkflowExecution=true
    --dynamic-config-value frontend.enableUpdateWorkflowExecutionAsyncAccepted=true
    --db-filename my.db --ui-port 8999 --search-attribute K=Keyword D=Datetime KL=KeywordList F=Double T=Text B=Bool I=Int
    --dynamic-config-value limit.historyCount.suggestContinueAsNew=50
    --dynamic-config-value system.system.refreshNexusEndpointsMinWait='"0s"'
""")
OTHER_FLAGS = shlex.split("""--http-port 7243 --metrics-port 9091 --headless --ui-ip 127.0.0.1 --ui-public-path /ui --ui-asset-path assets
    --ui-codec-endpoint http://localhost:8081 --ui-disable-news-fetch --sqlite-pragma journal_mode=wal --sqlite-pragma synchronous=2
    --log-config -n orders
""")


def dev_settings(*flags: str) -> ServerSettings:
    return start_dev_settings(build_parser().parse_args(["server", "start-dev", *flags])).settings


def test_every_flag_of_the_official_development_server_is_taken() -> None:
    settings = dev_settings(*SDK_FLAGS, *OTHER_FLAGS)
    assert (settings.ip, settings.grpc_port, settings.metrics_port, settings.database) == ("127.0.0.1", 7999, 9091, "my.db")
    assert settings.namespaces == ("default", "orders")
    assert settings.search_attributes == {
        "K": "Keyword", "D": "Datetime", "KL": "KeywordList", "F": "Double", "T": "Text", "B": "Bool", "I": "Int",
    }  # fmt: skip
    assert settings.sqlite_pragmas == {"journal_mode": "wal", "synchronous": "2"}
    assert settings.limits.history_count_suggest_continue_as_new == 50
    assert settings.dynamic_config["system.system.refreshNexusEndpointsMinWait"] == "0s"
    assert (settings.log_level, settings.log_format) == ("warn", "pretty")


def test_development_defaults() -> None:
    settings = dev_settings()
    assert (settings.ip, settings.grpc_port, settings.metrics_port, settings.database) == ("127.0.0.1", 7233, 0, "")
    assert settings.namespaces == ("default",)
    assert settings.log_level == "warn"
    assert dev_settings("--log-level", "fatal").log_level == "fatal"
    assert not build_parser().parse_args(["server", "start-dev", "--headless=false"]).headless


def test_flags_without_effect_say_so_unless_an_sdk_gave_them() -> None:
    def notices(*flags: str) -> list[tuple[int, str]]:
        arguments = build_parser().parse_args(["server", "start-dev", *flags])
        return start_dev_notices(arguments, start_dev_settings(arguments).settings)

    assert notices() == notices("--headless") == []
    assert [level for level, _ in notices(*SDK_FLAGS)] == [logging.INFO]
    assert notices("--http-port", "7243") == [(logging.WARNING, "--http-port has no effect: the HTTP API is not built yet")]
    ((level, line),) = notices("--ui-ip", "127.0.0.1", "--ui-disable-news-fetch")
    assert level == logging.WARNING
    assert "--ui-ip, --ui-disable-news-fetch" in line
    assert "everyone who reaches this machine" in notices("--ip", "0.0.0.0")[0][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prot", "1"], "unknown flag --prot; did you mean --port?"),
        (["--port", "many"], "argument -p/--port: invalid int value: 'many'"),
        (["--port", "65536"], "grpc_port (flag --port): wants a whole number <= 65535, got 65536"),
        (["stray"], "unexpected argument 'stray'"),
        (["--headless=perhaps"], "wants true or false, got 'perhaps'"),
        (["--dynamic-config-value", "a.b=0s"], "0s is not JSON; text needs quotes of its own, such as a.b='\"0s\"'"),
        (["--dynamic-config-value", "a.b"], "--dynamic-config-value 'a.b': must look like NAME=VALUE"),
        (["--dynamic-config-value", 'limit.maxIDLength="x"'], "limit.maxIDLength: wants a whole number, 0 or more, got 'x'"),
        (["--search-attribute", "City=String"], "search attribute City: unknown type 'String'; the types are Text, Keyword, Int"),
        (["--search-attribute", "City"], "--search-attribute 'City': must look like NAME=VALUE"),
        (["--log-level", "loud"], "log_level (flag --log-level): wants one of debug, info, warn, error, never, fatal, got 'loud'"),
        (["--ip", "nowhere"], "'nowhere' is not an IP address"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["server", "start-dev", *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_database_file_needs_its_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["server", "start-dev", "--db-filename", str(tmp_path / "none" / "my.db")]) == 1
    assert "none does not exist; create it first" in capsys.readouterr().err


def test_start_reads_flags_environment_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "perdure.toml"
    file.write_text('database = "/data/perdure.db"\nlog_format = "json"\nmetrics_port = "off"\n', encoding="utf-8")
    monkeypatch.setenv("PERDURE_CONFIG_FILE", str(file))
    monkeypatch.setenv("PERDURE_DATABASE", "postgresql://localhost/perdure")
    arguments = build_parser().parse_args(["server", "start", "--port", "7999", "--retention", "72h"])
    loaded = start_settings(arguments)
    assert loaded.settings.database == "postgresql://localhost/perdure"
    assert loaded.settings.log_format == "json"
    assert loaded.settings.metrics_port is None
    assert loaded.settings.grpc_port == 7999
    assert loaded.origins["namespace_retention"] == "flag --retention"


def test_start_refuses_to_serve_everyone_unless_told_to() -> None:
    arguments = build_parser().parse_args(["server", "start", "--ip", "0.0.0.0"])
    with pytest.raises(CommandError, match=r"refusing to listen on 0.0.0.0: .* listen on 127.0.0.1, or accept that with --allow-no-auth"):
        start(arguments)


def test_config_show_says_where_each_value_came_from(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PERDURE_LOG_LEVEL", "debug")
    flags = ["--database", "postgresql://me:secret@db/x", "--dynamic-config-value", "limit.maxidlength=255"]
    assert run(["config", "show", "--origin", *flags]) == 0
    lines = {line.split(" = ")[0].lstrip("# "): line for line in capsys.readouterr().out.splitlines()}
    assert lines["log_level"].endswith("# environment variable PERDURE_LOG_LEVEL")
    assert lines["grpc_port"].endswith("# default")
    assert lines["max_id_length"].endswith("255 (limit.maxIDLength)  # flag --dynamic-config-value")
    assert "secret" not in lines["database"]


def test_the_test_server_mode_is_reserved(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["7233", "--enable-time-skipping"]) == 2
    assert "time-skipping test server, which is not built yet" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["server"], ["config"]])
def test_a_group_alone_shows_its_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "commands:" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert capsys.readouterr().out.startswith("perdure 0.")


def run(arguments: list[str]) -> int:
    """The exit code, however the command ends."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))
