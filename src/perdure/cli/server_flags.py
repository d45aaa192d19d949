"""The flags of ``perdure server start-dev`` (those of the official development server) and of ``perdure server start``."""

from __future__ import annotations

from perdure.cli.parser import Parser, add_switch

_LOG_LEVELS = "debug, info, warn, error, never"


def add_start_dev_flags(parser: Parser) -> None:
    """Every flag of the official development server, and its names for them."""
    parser.add_argument("-f", "--db-filename", default="", metavar="FILE", help="SQLite file, made if missing; without it all is in memory")
    parser.add_argument("-p", "--port", type=int, default=7233, help="gRPC port (default 7233)")
    parser.add_argument("--ip", default="localhost", help="address to listen on (default localhost)")
    parser.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="port of /metrics (default: any free port)")
    _add_shared_flags(parser)
    add_switch(parser, "--log-config", help="print the configuration on standard error")
    _add_log_flags(parser, level="warn")

    later = parser.add_argument_group("accepted for parts that are not built yet")
    add_switch(later, "--headless", help="no web UI (there is none yet)")
    later.add_argument("--ui-port", type=int, metavar="PORT", help="web UI port")
    later.add_argument("--ui-ip", metavar="IP", help="web UI address")
    later.add_argument("--ui-public-path", metavar="PATH", help="web UI base path")
    later.add_argument("--ui-asset-path", metavar="PATH", help="web UI assets")
    later.add_argument("--ui-codec-endpoint", metavar="URL", help="payload codec of the web UI")
    add_switch(later, "--ui-disable-news-fetch", help="no news in the web UI")
    later.add_argument("--http-port", type=int, metavar="PORT", help="HTTP API port")


def add_start_flags(parser: Parser) -> None:
    """The flags of ``server start``: what is not given stays None, so that environment and file can speak."""
    parser.add_argument("--config", metavar="FILE", help="configuration file (TOML)")
    parser.add_argument(
        "--database", metavar="DATABASE", help="SQLite file or postgresql:// URL (default perdure.db in the working directory)"
    )
    parser.add_argument("-p", "--port", type=int, help="gRPC port (default 7233)")
    parser.add_argument("--ip", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--metrics-port", metavar="PORT", help="port of /metrics, or off (default 9090)")
    add_switch(parser, "--allow-no-auth", help="listen beyond this machine although callers do not have to identify themselves")
    parser.add_argument("--retention", metavar="DURATION", help="of the namespaces that this start creates (default 24h)")
    parser.add_argument("--partitions", type=int, metavar="NUMBER", help="engines with a writer of their own in this process (default 1)")
    add_switch(parser, "--standby", help="while another server uses the database, wait, and take over when it ends")
    parser.add_argument("--cache-size", type=int, metavar="BYTES", help="memory for loaded executions (default 64 MiB)")
    parser.add_argument("--drain-timeout", metavar="DURATION", help="how long calls in progress may take at a stop (default 5s)")
    _add_shared_flags(parser)
    _add_log_flags(parser, level=None)


def _add_shared_flags(parser: Parser) -> None:
    parser.add_argument("-n", "--namespace", action="append", default=[], metavar="NAME", help="namespace to create; repeat for more")
    parser.add_argument(
        "--search-attribute",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=TYPE",
        help="such as Region=Keyword; repeat",
    )
    parser.add_argument("--sqlite-pragma", action="append", default=[], metavar="NAME=VALUE", help="such as synchronous=1; repeat")
    parser.add_argument(
        "--dynamic-config-value",
        action="append",
        default=[],
        metavar="KEY=JSON",
        help="such as limit.maxIDLength=255; repeat",
    )


def _add_log_flags(parser: Parser, level: str | None) -> None:
    # The choices are checked with all other settings, so that flag, variable and file get the same answer.
    parser.add_argument("--log-level", default=level, metavar="LEVEL", help=f"{_LOG_LEVELS} (default {level or 'info'})")
    parser.add_argument("--log-format", metavar="FORMAT", help="text or json (default text)")
