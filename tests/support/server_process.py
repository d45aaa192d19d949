"""A server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

START_SECONDS = 30


class ServerProcess:
    """``with ServerProcess(database) as server``: listens on a free port; is stopped, by its own process id, on leaving.

    database: "" for memory, a path, or a ``postgresql://`` URL.
    """

    def __init__(self, database: str, *flags: str, port: int = 0) -> None:
        self.database = database
        self.flags = flags
        self.port = port
        self.address = ""
        self.process: subprocess.Popen[str] | None = None
        #: Lines, until it answers.
        self.printed: list[str] = []
        #: All that it printed after that, once it has been stopped.
        self.said = ""

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it answers. Raises RuntimeError with what it printed when it does not."""
        command = [sys.executable, "-m", "perdure", "server", "start", "--port", str(self.port), "--metrics-port", "off"]
        command += ["--log-level", "warn", "--database", self.database or ":memory:", *self.flags]
        # What the person who runs the tests has set for servers of their own is not meant for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path.cwd(), env=environment
        )
        assert self.process.stdout is not None
        self.printed.clear()
        for line in self.process.stdout:
            self.printed.append(line)
            found = re.match(r"Temporal Server:\s+localhost:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                self.address = f"127.0.0.1:{self.port}"
                return
        raise RuntimeError("the server did not start: " + "".join(self.printed))

    def kill(self) -> None:
        """Kill it the hard way, and wait until it is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(START_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> int:
        """End it kindly; returns the exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        if process.stdout is None or process.stdout.closed:
            return process.wait(START_SECONDS)
        self.said, _ = process.communicate(timeout=START_SECONDS)
        return process.returncode
