"""Published weights of timm models, from the local cache or a download from the Hugging Face hub or a URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import get_pretrained_cfg
from torch import Tensor

from distillkit.compute.reachable import is_reachable
from distillkit.errors import WeightsError
from distillkit.messages.text import first_line
from distillkit.models.timm_networks import check_architecture
from distillkit.models.weight_files import read_weights

FILE = "model.safetensors"


def published_weights(architecture: str, *, option: str) -> dict[str, Tensor]:
    """Published timm weights of an architecture, downloaded unless they are in the local cache.

    `option` is the command-line option for a weight file ("--teacher-weights"), for errors.
    Shapes: weights of any shape.
    Raises: WeightsError if there are no published weights, or they are unavailable now.
    """
    place, reason = _place(architecture), why_unavailable(architecture)
    if reason is not None:
        connect = ", or connect once so that they are cached" if place.server else ""
        raise WeightsError(f"{reason}; give a file with {option}{connect}")
    try:
        path = place.cached()
        if path is None and place.repository:
            path = Path(hf_hub_download(place.repository, FILE, revision=place.revision))
        if path is None:
            path = place.file
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(place.url, str(path))
        return read_weights(path)  # a download is untrusted, as any file
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"downloading the published weights of '{architecture}' failed ({first_line(error)}); "
            f"try again, or give a file with {option}"
        ) from error


def why_unavailable(architecture: str) -> str | None:
    """The reason why published weights are unavailable now; None if they are available.

    Takes a few seconds at most and downloads nothing.

    Raises: RecipeError for a name that timm does not know.
    """
    place = _place(architecture)
    if not place.server:
        return f"timm has no published weights of '{architecture}'"
    host = urlparse(place.server).hostname or ""
    if place.cached() is not None or is_reachable(place.server):
        return None
    return f"the published weights of '{architecture}' are not in the local cache and {host} cannot be reached"


@dataclass(frozen=True)
class WeightsLocation:
    """Location of published weights: a repository of the hub, else a URL."""

    repository: str
    revision: str | None
    url: str

    @property
    def server(self) -> str:
        """URL of the server that has the file; "" if there are no published weights."""
        return constants.ENDPOINT if self.repository else self.url

    def cached(self) -> Path | None:
        """The file in the local cache."""
        if self.repository:
            path = try_to_load_from_cache(self.repository, FILE, revision=self.revision)
            return Path(path) if isinstance(path, str) else None
        return self.file if self.file.is_file() else None

    @property
    def file(self) -> Path:
        """Where torch keeps the file of a URL."""
        return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlparse(self.url).path).name)


def _place(architecture: str) -> WeightsLocation:
    check_architecture(architecture)
    settings = get_pretrained_cfg(architecture)
    if settings is None:
        return WeightsLocation("", None, "")
    repository, _, revision = (settings.hf_hub_id or "").partition("@")
    return WeightsLocation(repository, revision or None, settings.url if isinstance(settings.url, str) else "")
