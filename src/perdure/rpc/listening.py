"""Taking a port of this machine, and saying why that is not possible."""

from __future__ import annotations

import errno
import socket

BACKLOG = 1024


class ListenError(Exception):
    """The server cannot listen on the address it was given; the message says which, why, and what to do."""


def listen(host: str, port: int, *, purpose: str = "", flag: str = "--port") -> socket.socket:
    """A listening socket on host and port (0: a free one). Two servers on one port would each answer about half of the calls: a port is
    never shared.

    purpose: what for, as people call it; flag: by which they choose another port. Raises ListenError.
    """
    what = f" for {purpose}" if purpose else ""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ListenError(f"cannot listen on {host!r}{what}: this host name has no address ({error.strerror}).") from error
    listener = socket.socket(family, kind, protocol)
    # A port whose last connections are still winding down is free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {host}:{port}{what}: {_reason(error, host, port, flag)}") from error
    listener.setblocking(False)
    return listener


def check_free(host: str, port: int) -> None:
    """Raise ListenError with the reason when nothing can listen on the address."""
    listen(host, port).close()


def _reason(error: OSError, host: str, port: int, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken by another process on {host}. Stop that process, or choose another port with {flag}."
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}. Choose a port above 1023 with {flag}."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine. Use 127.0.0.1, 0.0.0.0 or one of its own addresses."
    return error.strerror or str(error)
