"""The command ``perdure``: finds the command that was asked for and turns its failure into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from perdure.cli.parser import USAGE_ERROR, CommandError, Parser
from perdure.cli.server_flags import add_start_dev_flags, add_start_flags
from perdure.cli.workflow_resume import add_resume_flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1, or 2 for a usage error. argv: without the program's name; default: the process's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except CommandError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python must not meet the closed pipe again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0].isdigit():
        # SDKs start a test server as `<executable> <port>`.
        raise CommandError(
            "a port as the first argument asks for the time-skipping test server, which is not built yet; use: perdure server start-dev",
            USAGE_ERROR,
        )
    if arguments and arguments[0] in _DELEGATED:
        module = importlib.import_module(_DELEGATED[arguments[0]])
        return module.main(arguments[1:])
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if "command" not in parsed:
        # Only a group was named: show what is in it.
        parsed.group.print_help(sys.stderr)
        return USAGE_ERROR
    module_name, function_name = parsed.command
    return getattr(importlib.import_module(module_name), function_name)(parsed)


# Commands with flags of their own, which they parse themselves: `main(arguments) -> exit code`.
_DELEGATED = {"demo": "perdure.testing.demo", "bench": "perdure.testing.bench"}


def build_parser() -> Parser:
    """All commands and their flags; each leaf says in `command` which function runs it."""
    parser = Parser(prog="perdure", description="Durable execution: a server that speaks the Temporal API, in one process.")
    parser.add_argument("--version", action="version", version=f"perdure {_version()}")
    parser.set_defaults(group=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    server = commands.add_parser("server", help="run the server", description="Run the server.")
    server.set_defaults(group=server)
    server_commands = server.add_subparsers(title="commands", metavar="COMMAND")
    start_dev = server_commands.add_parser(
        "start-dev", help="a server for development: in memory unless told otherwise", description=_START_DEV, epilog=_START_DEV_EXAMPLES
    )
    add_start_dev_flags(start_dev)
    start_dev.set_defaults(command=("perdure.cli.server", "start_dev"))
    start = server_commands.add_parser(
        "start", help="a server that keeps its data: SQLite file or PostgreSQL", description=_START, epilog=_START_EXAMPLES
    )
    add_start_flags(start)
    start.set_defaults(command=("perdure.cli.server", "start"))

    config = commands.add_parser("config", help="look at the configuration", description="Look at the configuration.")
    config.set_defaults(group=config)
    config_commands = config.add_subparsers(title="commands", metavar="COMMAND")
    show = config_commands.add_parser(
        "show",
        help="print every setting and limit as `server start` would use it",
        description="Print every setting and limit as `perdure server start` would use it with the same flags, environment and file.",
    )
    show.add_argument("--origin", action="store_true", help="say where each value came from")
    add_start_flags(show)
    show.set_defaults(command=("perdure.cli.config", "show"))

    workflow = commands.add_parser("workflow", help="act upon workflow runs", description="Act upon workflow runs.")
    workflow.set_defaults(group=workflow)
    workflow_commands = workflow.add_subparsers(title="commands", metavar="COMMAND")
    resume = workflow_commands.add_parser(
        "resume", help="run a failed step again, with everything before it done", description=_RESUME, epilog=_RESUME_EXAMPLES
    )
    add_resume_flags(resume)
    resume.set_defaults(command=("perdure.cli.workflow_resume", "resume"))

    commands.add_parser("demo", help="start a server with a demo workflow and show what happened", add_help=False)
    commands.add_parser("bench", help="measure a server: throughput, latency, CPU, memory", add_help=False)
    version = commands.add_parser("version", help="print the versions of Perdure and of the API it speaks")
    version.set_defaults(command=("perdure.cli.main", "show_version"))
    return parser


def show_version(_: argparse.Namespace) -> int:
    """``perdure version``."""
    import platform
    from importlib.metadata import version

    print(f"perdure {_version()} (Temporal API of temporalio {version('temporalio')}, Python {platform.python_version()})")
    return 0


def _version() -> str:
    from perdure import __version__

    return __version__


_START_DEV = """A server for development. Takes the flags of the official development server; listens on this machine only unless --ip
says otherwise."""
_START_DEV_EXAMPLES = """examples:
  perdure server start-dev
  perdure server start-dev --db-filename dev.db --namespace orders --search-attribute CustomerId=Keyword
  perdure server start-dev --dynamic-config-value limit.maxIDLength=255
"""
_START = """A server that keeps its data. Settings come from flags, then PERDURE_… environment variables, then the file given by --config or
PERDURE_CONFIG_FILE (TOML), then defaults; `perdure config show --origin` prints the result."""
_START_EXAMPLES = """examples:
  perdure server start                                   SQLite file perdure.db in this directory
  perdure server start --database postgresql://perdure@db.example/perdure
  PERDURE_LOG_FORMAT=json perdure server start --config perdure.toml
"""
_RESUME = """Reset a run to just before the activity, child workflow or Nexus operation that made it fail. Steps that were completed before
stay completed; the failed step runs again, and what came after it. Works with any server of the Temporal API."""
_RESUME_EXAMPLES = """examples:
  perdure workflow resume --workflow-id order-17 --dry-run     show what would run again
  perdure workflow resume --workflow-id order-17 --reason "payment service is back"
  perdure workflow resume --workflow-id order-17 --activity-id 5
"""
