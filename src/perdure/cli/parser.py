"""What all commands share: errors in one line, values of repeated flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

USAGE_ERROR = 2


class CommandError(Exception):
    """A command cannot do what was asked: what, why, what to do, in one line. exit_code: 1, or 2 for a usage error."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose errors are one line that names the nearest known flag."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    # A flag that this command does not know is refused here, where the flags it does know are at hand.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._describe_unknown(unknown[0]))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)

    def _describe_unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument {argument!r}"
        import difflib

        flag = argument.partition("=")[0]
        matches = difflib.get_close_matches(flag, list(self._option_string_actions), n=1)
        return f"unknown flag {flag}" + (f"; did you mean {matches[0]}?" if matches else "")


def add_switch(parser: argparse._ActionsContainer, *flags: str, help: str) -> None:  # pyright: ignore[reportPrivateUsage]  # groups, too
    """A flag that is on when named; ``--flag=false`` is understood, as the official command line does."""
    parser.add_argument(*flags, nargs="?", const=True, default=False, type=_switch, metavar="BOOL", help=help)


def split_pairs(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    """``["K=V", …]`` as a dict. Raises CommandError for one without a name or an equals sign."""
    result: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise CommandError(f"{flag} {pair!r}: must look like NAME=VALUE", USAGE_ERROR)
        result[name] = value
    return result


def _switch(text: str) -> bool:
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise argparse.ArgumentTypeError(f"wants true or false, got {text!r}")
