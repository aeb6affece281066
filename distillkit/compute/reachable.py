"""Whether a server can be reached, with a short timeout."""

from __future__ import annotations

import socket
import urllib.request
from urllib.parse import urlparse

REACH_SECONDS = 3.0
"""Timeout. The Hugging Face hub's client retries for 47 s before it reports that there is no network."""


def is_reachable(server: str) -> bool:
    """Whether the server of a URL accepts connections; the Hugging Face hub in offline mode does not count as one."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE and server.startswith(constants.ENDPOINT):
        return False
    # Behind a proxy, this machine may be unable to resolve the host: the proxy does that.
    if urllib.request.getproxies():
        return True
    try:
        address = urlparse(server)
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=REACH_SECONDS).close()
    except OSError:
        return False
    return True
