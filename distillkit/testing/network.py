"""Notice a plugin that opens a network connection where it must not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuse every connection to a host inside the block; the list that it gives holds the hosts asked for."""
    asked: list[str] = []
    connect = socket.socket.connect

    def refuse(host: object) -> OSError:
        asked.append(str(host))
        return OSError(f"no network during this check: {host}")

    def look_up(host: object, *_: Any, **__: Any) -> Any:
        raise refuse(host)

    def connect_locally(own: socket.socket, address: Any) -> None:
        # Sockets of the file system have a path for an address; torch's own workers may use them.
        if isinstance(address, tuple):
            raise refuse(address[0])
        connect(own, address)

    with (
        mock.patch.object(socket, "getaddrinfo", look_up),
        mock.patch.object(socket.socket, "connect", connect_locally),
    ):
        yield asked
