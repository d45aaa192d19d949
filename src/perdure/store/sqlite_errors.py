"""What SQLite's errors mean: whether a commit may have happened nevertheless, and what people can do."""

from __future__ import annotations

import sqlite3

IN_DOUBT = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM})
"""At the end of a transaction: part of it, or all, may be on the disk. The other errors are found before anything is written."""

_ADVICE = {
    sqlite3.SQLITE_FULL: "Free some space on the disk of the database file.",
    sqlite3.SQLITE_BUSY: "Another program is writing to the database file; end that program, or its transaction.",
    sqlite3.SQLITE_READONLY: "Allow this user to write to the database file and its folder; the disk may be mounted read-only.",
    sqlite3.SQLITE_CANTOPEN: "Allow this user to read and write the database file and its folder.",
    sqlite3.SQLITE_PERM: "Allow this user to read and write the database file and its folder.",
    sqlite3.SQLITE_IOERR: "The disk of the database file refuses: look at the system's log, at quotas and at limits on the size of files.",
    sqlite3.SQLITE_CORRUPT: "The database file is damaged: stop the server and restore a backup.",
    sqlite3.SQLITE_NOTADB: "The file is no SQLite file, or it is encrypted or damaged; give another path or restore a backup.",
}


def primary_code(error: sqlite3.Error) -> int:
    """The kind of an error: one of SQLite's primary result codes; SQLITE_MISUSE for an error of the driver itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return sqlite3.SQLITE_MISUSE if code is None else code & 0xFF


def advice(error: sqlite3.Error) -> str:
    """What people can do about it, in a sentence."""
    return _ADVICE.get(primary_code(error), "Look at the database file, its folder and the free space.")
