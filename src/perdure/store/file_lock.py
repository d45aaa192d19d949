"""A lock that two processes cannot hold at once and that dies with its holder."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    # Windows refuses reads of a locked byte, so the lock sits far behind the text that says who holds it.
    _LOCK_OFFSET = 1 << 30

    def _lock(handle: int) -> None:
        os.lseek(handle, _LOCK_OFFSET, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        # flock and not lockf: it also keeps two stores of one process apart, and closing another handle of the file does not drop it.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLockedError(Exception):
    """Somebody else holds the lock. holder: the process id it left in the file, "" if it left none."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class FileLock:
    """Held from construction until :meth:`release`, or until the process ends in whatever way.

    The file stays when the lock is released: to remove it would let a third process lock a file that has no name any more.
    Raises FileLockedError, or OSError when the file cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._handle)
        except OSError as error:
            holder = os.pread(self._handle, 20, 0) if sys.platform != "win32" else os.read(self._handle, 20)
            os.close(self._handle)
            raise FileLockedError(holder.decode("ascii", "replace").strip()) from error
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have it; harmless when repeated."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
