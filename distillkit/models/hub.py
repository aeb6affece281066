"""Published weights: from the local cache, else from the hub that timm names."""

from __future__ import annotations

import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import get_pretrained_cfg
from torch import Tensor

from distillkit.errors import WeightsError
from distillkit.messages.text import first_line
from distillkit.models.timm_networks import check_architecture
from distillkit.models.weight_files import read_weights

FILE = "model.safetensors"
REACH_SECONDS = 3.0
"""How long a host may take to answer. The hub's own client tries for 47 s before it says that there is no network."""


def published_weights(architecture: str, *, option: str) -> dict[str, Tensor]:
    """The weights that timm names for this architecture, downloaded unless they are in the local cache.

    `option` is what the user types instead ("--teacher-weights"); the error offers it.
    Raises: WeightsError where there are none, or where they cannot be had now.
    """
    reason = why_unavailable(architecture)
    if reason is not None:
        raise WeightsError(f"{reason}; give a file with {option}, or connect once so that they are kept")
    place = _place(architecture)
    try:
        path = place.cached()
        if path is None and place.repository:
            path = Path(hf_hub_download(place.repository, FILE, revision=place.revision))
        if path is not None:
            return read_weights(path)
        return dict(torch.hub.load_state_dict_from_url(place.url, map_location="cpu", weights_only=True))
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"downloading the published weights of '{architecture}' failed ({first_line(error)}); "
            f"try again, or give a file with {option}"
        ) from error


def why_unavailable(architecture: str) -> str | None:
    """Why the published weights cannot be had now, None where they can. Answers within seconds, downloads nothing.

    Raises: RecipeError for a name that timm does not know.
    """
    place = _place(architecture)
    if not place.repository and not place.url:
        return f"timm knows no published weights of '{architecture}'"
    host = urlparse(place.server).hostname or ""
    if place.cached() is not None or _is_reachable(place.server):
        return None
    return f"the published weights of '{architecture}' are not in the local cache and {host} cannot be reached"


@dataclass(frozen=True)
class WeightsLocation:
    """Where published weights are: a repository of the hub, or else a plain address."""

    repository: str
    revision: str | None
    url: str

    @property
    def server(self) -> str:
        """An address on the machine that has the file."""
        return constants.ENDPOINT if self.repository else self.url

    def cached(self) -> Path | None:
        """The file in the local cache."""
        if self.repository:
            path = try_to_load_from_cache(self.repository, FILE, revision=self.revision)
            return Path(path) if isinstance(path, str) else None
        file = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlparse(self.url).path).name)
        return file if file.is_file() else None


def _place(architecture: str) -> WeightsLocation:
    check_architecture(architecture)
    settings = get_pretrained_cfg(architecture)
    if settings is None:
        return WeightsLocation("", None, "")
    repository, _, revision = (settings.hf_hub_id or "").partition("@")
    return WeightsLocation(repository, revision or None, settings.url if isinstance(settings.url, str) else "")


def _is_reachable(server: str) -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():  # the proxy resolves names, this machine need not be able to
        return True
    try:
        address = urlparse(server)
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=REACH_SECONDS).close()
    except OSError:
        return False
    return True
