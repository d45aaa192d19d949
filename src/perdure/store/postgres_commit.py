"""A commit as one PostgreSQL statement, so that it costs one round trip and is a transaction without being told so.

The statement is a chain of WITH parts. The first is the fence: it updates the partition's lease; every other part joins it, so nothing is
written when the fence has no row. All parts see the database as it was before the statement, and PostgreSQL is free to run them in any
order; where the order matters (a run must give up its place as the current one, or be deleted, before its successor is inserted) the later
part reads a count of what the earlier one returned, which makes the earlier one run to its end first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from perdure.store import sql
from perdure.store.sql import CommitRows, Table

_FENCE_ARGUMENTS = 3
_SIDE_KEYS = Table("side", {"uid": "bigint", "name": "text"}, key=("uid", "name"))


def commit_statement(fence: tuple[int, int, int], rows: CommitRows) -> tuple[str, list[Any]]:
    """The statement's text and arguments. It answers one row when the fence held, none when the lease is lost.

    fence: partition, epoch, commit number.
    """
    arguments: list[Any] = [*fence]
    for uids in (rows.removed, rows.superseded):
        if uids:
            arguments.append(uids)
    for part in (rows.journal, rows.headers, rows.side, rows.side_removed, rows.snapshots):
        if len(part) == 1:
            arguments.extend(part[0])
        elif part:
            arguments.extend(zip(*part, strict=True))
    # How many rows there are counts only as none, one or several.
    sizes = [min(len(part), 2) for part in (rows.journal, rows.headers, rows.side, rows.side_removed, rows.snapshots)]
    return _text(bool(rows.removed), bool(rows.superseded), *sizes), arguments


@cache
def _text(removed: bool, superseded: bool, journal: int, headers: int, side: int, side_removed: int, snapshots: int) -> str:
    """The text for a commit that has these parts: a few shapes are all that ever come, so each is prepared once per connection."""
    builder = _Builder()
    earlier: list[str] = []
    if removed:
        uids = builder.argument("bigint[]")
        for table in sql.EXECUTION_TABLES:
            builder.part(f"removed_{table.name}", f"DELETE FROM {table.name} USING fence WHERE uid = ANY({uids}) RETURNING uid")
        earlier.append("removed_headers")
    if superseded:
        uids = builder.argument("bigint[]")
        builder.part("superseded", f"UPDATE headers SET is_current = FALSE FROM fence WHERE uid = ANY({uids}) RETURNING uid")
        earlier.append("superseded")
    if journal:
        builder.insert(sql.JOURNAL, "", journal)
    if headers:
        builder.insert(sql.HEADERS, sql.HEADERS.upsert, headers, earlier)
    if side:
        builder.insert(sql.SIDE, sql.SIDE.upsert, side)
    if side_removed:
        keys = builder.new(_SIDE_KEYS, side_removed)
        builder.part("removed_side_rows", f"DELETE FROM side USING fence, {keys} WHERE side.uid = new.uid AND side.name = new.name")
    if snapshots:
        builder.insert(sql.SNAPSHOTS, sql.SNAPSHOTS.upsert, snapshots)
    return builder.text()


class _Builder:
    def __init__(self) -> None:
        self._arguments = _FENCE_ARGUMENTS
        self._parts = [f"WITH fence AS ({sql.FENCE} RETURNING partition)"]

    def argument(self, kind: str) -> str:
        self._arguments += 1
        return f"${self._arguments}::{kind}"

    def new(self, table: Table, size: int) -> str:
        """The table's new rows, as `new`: one from plain arguments, which costs less, or several from one array per column."""
        if size == 1:
            return f"(SELECT {', '.join(self.argument(kind) for kind in table.columns.values())}) AS new ({table.names})"
        return f"unnest({', '.join(self.argument(f'{kind}[]') for kind in table.columns.values())}) AS new ({table.names})"

    def insert(self, table: Table, ending: str, size: int, earlier: Sequence[str] = ()) -> None:
        source = ", ".join(["fence", *(f"(SELECT COUNT(*) FROM {name}) AS after_{name}" for name in earlier), self.new(table, size)])
        values = ", ".join(f"new.{name}" for name in table.columns)
        self.part(f"new_{table.name}", f"INSERT INTO {table.name} ({table.names}) SELECT {values} FROM {source}{ending}")

    def part(self, name: str, statement: str) -> None:
        self._parts.append(f"{name} AS ({statement})")

    def text(self) -> str:
        return ",\n".join(self._parts) + "\nSELECT partition FROM fence"
