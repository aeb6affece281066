"""Detect plugins that open a network connection during a check."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Context that refuses network connections; yields the list of hosts that were requested."""
    hosts: list[str] = []
    connect = socket.socket.connect

    def refuse(host: object) -> OSError:
        hosts.append(str(host))
        return OSError(f"no network during this check: {host}")

    def look_up(host: object, *_: Any, **__: Any) -> Any:
        raise refuse(host)

    def connect_locally(this: socket.socket, address: Any) -> None:
        # Unix sockets have a path as their address; torch's worker processes may use them.
        if isinstance(address, tuple):
            raise refuse(address[0])
        connect(this, address)

    with (
        mock.patch.object(socket, "getaddrinfo", look_up),
        mock.patch.object(socket.socket, "connect", connect_locally),
    ):
        yield hosts
