"""Rendezvous of the processes of `--nproc` on the loopback address, out of reach of other machines.

torch's own rendezvous backends listen on every address of the machine, and its c10d backend unpickles what it finds in
the store. Neither torch's store nor gloo asks a client who it is: another user of the same machine can read the store,
end the processes or change the numbers they exchange, but nothing that they read there is executed.
"""

from __future__ import annotations

import os
import socket
import sys

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch does not export them
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND, ADDRESS = "distillkit-loopback", "127.0.0.1"


class Loopback(RendezvousHandler):
    """A rendezvous for one launcher and its own processes, in a store that the launcher holds."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        listener = socket.create_server((ADDRESS, 0))
        self._port = listener.getsockname()[1]
        self._store = TCPStore(
            ADDRESS, self._port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(ADDRESS, self._port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Do nothing: no other launcher ever joins."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def stay_on_loopback() -> None:
    """Register `BACKEND` with torch, and make gloo and nccl use the loopback interface."""
    if BACKEND not in _known():
        rendezvous_handler_registry.register(BACKEND, _create)
    if sys.platform == "linux":
        # An interface that the user has set stays.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    return Loopback(parameters.run_id)


def _known() -> set[str]:
    return set(rendezvous_handler_registry._registry)  # noqa: SLF001 - torch has no public name for it
