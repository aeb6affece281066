import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg

from distillkit.errors import RecipeError, WeightsError
from distillkit.models import TimmModel, load_weights, published_weights, why_unavailable
from distillkit.models.hub import WeightsLocation

RESNET = "resnet10t.c3_in1k"
NOT_THERE = (
    "the published weights of 'resnet10t.c3_in1k' are not in the local cache and the-hub.invalid cannot be reached"
)


def use_hub(monkeypatch, address):
    """Set what the environment variable HF_ENDPOINT sets: the hub's client reads it at import."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """An empty cache, and a hub whose name cannot be resolved (RFC 2606)."""
    use_hub(monkeypatch, "https://the-hub.invalid")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def keep_in_cache(tmp_path, repository, weights):
    """Write a file into the cache in the layout of the hub's client."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd", encoding="utf-8")
    save_file(weights, snapshot / "model.safetensors")


def test_without_network_and_cache_the_error_comes_within_seconds(monkeypatch):
    """After one attempt of 3 s, without the hub's client, which would retry for 47 s."""
    timeouts = []

    def unreachable(address, timeout):
        timeouts.append(timeout)
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("distillkit.models.hub.hf_hub_download", None)
    with pytest.raises(WeightsError) as error:
        published_weights(RESNET, option="--teacher-weights")
    assert timeouts == [3.0]
    assert str(error.value) == (
        f"{NOT_THERE}; give a file with --teacher-weights, or connect once so that they are cached"
    )
    assert why_unavailable(RESNET) == NOT_THERE


def test_offline_mode_does_not_contact_the_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert why_unavailable(RESNET) == NOT_THERE


def test_cached_weights_need_no_network(tmp_path):
    torch.manual_seed(0)
    source = TimmModel.create(RESNET, name="source")
    keep_in_cache(tmp_path, "timm/resnet10t.c3_in1k", source.network.state_dict())
    assert why_unavailable(RESNET) is None
    model = TimmModel.create(RESNET, name="model")
    load_weights(model, published_weights(RESNET, option="--teacher-weights"), source="hub", fit="nothing")
    assert torch.equal(model.network.fc.weight, source.network.fc.weight)


def test_weights_at_a_plain_url(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    architecture = "gcvit_xxtiny.in1k"
    assert why_unavailable(architecture) == (
        "the published weights of 'gcvit_xxtiny.in1k' are not in the local cache and github.com cannot be reached"
    )
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({"norm.bias": torch.ones(2)}, cache / get_pretrained_cfg(architecture).url.rpartition("/")[2])
    assert why_unavailable(architecture) is None
    assert published_weights(architecture, option="--teacher-weights")["norm.bias"].tolist() == [1.0, 1.0]


def test_a_download_is_checked_like_any_file(tmp_path, monkeypatch):
    """Promise: Memory and time are bounded by the size of a weight file.

    Attempt: A server that sends a `.pth` with an expanded tensor in place of published weights.
    """
    architecture = "vit_small_patch16_224.dino"
    url = get_pretrained_cfg(architecture).url

    def downloaded(given, path):
        assert given == url
        torch.save({"norm.bias": torch.ones(1).expand(10**9, 100)}, path)

    place = WeightsLocation("", None, url)
    monkeypatch.setattr("distillkit.models.hub._place", lambda _: place)
    monkeypatch.setattr("distillkit.models.hub.why_unavailable", lambda _: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", downloaded)
    with pytest.raises(WeightsError, match=r"has a tensor 'norm.bias' of \[1000000000, 100\]"):
        published_weights(architecture, option="--weights")


class NotFound(BaseHTTPRequestHandler):
    """A hub without files."""

    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *arguments):
        pass


def test_hub_that_does_not_have_the_file(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), NotFound) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        use_hub(monkeypatch, f"http://127.0.0.1:{hub.server_port}")
        assert why_unavailable(RESNET) is None
        with pytest.raises(WeightsError) as error:
            published_weights(RESNET, option="--student-weights")
        hub.shutdown()
    assert re.fullmatch(
        r"downloading the published weights of 'resnet10t\.c3_in1k' failed \(.+\); "
        r"try again, or give a file with --student-weights",
        str(error.value),
    )


def test_architecture_without_published_weights():
    with pytest.raises(WeightsError) as error:
        published_weights("botnet50ts_256.untrained", option="--teacher-weights")
    assert str(error.value) == (
        "timm has no published weights of 'botnet50ts_256.untrained'; give a file with --teacher-weights"
    )


def test_unknown_architecture():
    with pytest.raises(RecipeError) as error:
        why_unavailable("resnet81")
    assert str(error.value) == f"timm {timm.__version__} has no model 'resnet81'; did you mean 'resnet18'?"


def test_no_name_is_suggested_if_none_is_similar():
    with pytest.raises(RecipeError) as error:
        why_unavailable("nosuchnet")
    assert str(error.value) == (
        f"timm {timm.__version__} has no model 'nosuchnet'; `timm.list_models()` lists its models"
    )
