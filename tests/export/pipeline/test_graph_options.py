"""Options of the exported graph: image size, dynamic size, softmax, uint8 input."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from distillkit.contracts.exporter import ExportRequest, parse_image_size
from distillkit.contracts.model import ModelRequest, Signal
from distillkit.errors import UserError
from distillkit.models import resize_position_embedding, sincos_position_embedding
from distillkit_export.export_options import ExportOptions
from distillkit_export.from_torch.graph import frozen_scores
from distillkit_export.images.gate_images import ExportImages, ImageSet, as_file_input, as_pixels, normalised
from distillkit_export.onnx.session import OnnxSession
from distillkit_export.pipeline.export import export_onnx, few_images_note
from distillkit_plugins.students.deit import Deit
from tests.export.small_student import small_student


def exported(model, folder, **options):
    result = export_onnx(model, folder / "export", ExportRequest(**options))
    return result, OnnxSession(result.directory / "model.onnx")


def random_images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def shape_of(result):
    (entry,) = onnx.load(result.directory / "model.onnx").graph.input
    return [each.dim_param or each.dim_value for each in entry.type.tensor_type.shape.dim]


@torch.inference_mode()
def torch_output(network, images):
    return network.eval()(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("192x256", (192, 256)), (None, None)])
def test_image_size_is_parsed(text, size):
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "0", "1x2x3", "-4", "12.5", "³"])
def test_invalid_image_size_is_refused(text):
    with pytest.raises(UserError) as error:
        parse_image_size(text)
    assert str(error.value) == f"'{text}' is not an image size; give a number of pixels such as 224, or HEIGHTxWIDTH"


def test_vit_at_another_size_has_resized_position_embeddings(distilled, tmp_path):
    result, session = exported(distilled, tmp_path, image_size=(48, 40))
    assert shape_of(result) == ["batch", 3, 48, 40]
    assert result.manifest["input"]["image_size"] == [48, 40]
    network = distilled.network
    resized = resize_position_embedding(network.pos_embed, old_grid=(4, 6), new_grid=(6, 5), prefix_tokens=2)
    images = random_images(3, 3, 48, 40)
    with torch.inference_mode():
        patches = network.patch_embed.proj(torch.from_numpy(images)).flatten(2).transpose(1, 2)
        prefix = torch.cat([network.cls_token, network.dist_token], dim=1).expand(3, -1, -1)
        tokens = network.norm(network.eval().blocks(torch.cat([prefix, patches], dim=1) + resized))
        expected = (network.head(tokens[:, 0]) + network.head_dist(tokens[:, 1])) / 2
    np.testing.assert_allclose(session(images), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert network.pos_embed.shape == (1, 26, 48)  # the model itself stays as it was


def test_cnn_at_another_size(convolutional, tmp_path):
    result, session = exported(convolutional, tmp_path, image_size=(40, 72))
    assert shape_of(result) == ["batch", 3, 40, 72]
    images = random_images(2, 3, 40, 72)
    expected = torch_output(convolutional.network, images)
    np.testing.assert_allclose(session(images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_cnn_with_dynamic_size(convolutional, tmp_path):
    result, session = exported(convolutional, tmp_path, dynamic_size=True)
    assert shape_of(result) == result.manifest["input"]["shape"] == ["batch", 3, "height", "width"]
    assert result.manifest["input"]["multiples"] == [1, 1]
    assert result.parity.images.endswith("because no images were given, some also resized to 65x42, 67x40, 64x80")
    for size in ((33, 57), (96, 64), (64, 40)):
        images = random_images(2, 3, *size)
        expected = torch_output(convolutional.network, images)
        np.testing.assert_allclose(session(images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_rotary_positions_with_dynamic_size_match_torch(tmp_path):
    model = small_student("vit_small_patch16_dinov3", image_size=(32, 32), depth=1, embed_dim=48, num_heads=3)
    result, session = exported(model, tmp_path, dynamic_size=True)
    assert shape_of(result) == ["batch", 3, "height", "width"]
    for size in ((32, 32), (48, 80), (96, 16)):
        images = random_images(2, 3, *size)
        expected = torch_output(model.network, images)
        np.testing.assert_allclose(session(images), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_softmax_of_every_fusion_outputs_probabilities(distilled, tmp_path):
    images = random_images(4, 3, 32, 48)
    with torch.inference_mode():
        tokens = distilled.network.eval().forward_features(torch.from_numpy(images))
        first, second = distilled.network.head(tokens[:, 0]), distilled.network.head_dist(tokens[:, 1])
    expected = {
        "logits": ((first + second) / 2).softmax(dim=1),
        "softmax": (first.softmax(dim=1) + second.softmax(dim=1)) / 2,
    }
    for fusion, probabilities in expected.items():
        result, session = exported(distilled, tmp_path / fusion, softmax=True, fusion=fusion)
        (output,) = onnx.load(result.directory / "model.onnx").graph.output
        assert (output.name, result.manifest["output"]["kind"]) == ("probabilities", "probabilities")
        np.testing.assert_allclose(session(images), probabilities.numpy(), rtol=1e-4, atol=1e-6)


def test_pixels_are_normalised_inside(convolutional, tmp_path):
    result, session = exported(convolutional, tmp_path, uint8=True)
    assert shape_of(result) == result.manifest["input"]["shape"] == ["batch", 64, 40, 3]
    assert (result.manifest["input"]["dtype"], result.manifest["input"]["layout"]) == ("uint8", "NHWC")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 40, 3), dtype=np.uint8)
    mean, deviation = np.array([0.5, 0.4, 0.3]), 0.25
    images = ((pixels / 255 - mean) / deviation).transpose(0, 3, 1, 2).astype(np.float32)
    expected = torch_output(convolutional.network, images)
    np.testing.assert_allclose(session(pixels), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_all_options_together(convolutional, tmp_path):
    result, session = exported(
        convolutional, tmp_path, uint8=True, softmax=True, dynamic_size=True, image_size=(48, 48)
    )
    assert shape_of(result) == ["batch", "height", "width", 3]
    assert session(np.zeros((2, 50, 41, 3), np.uint8)).sum(axis=1) == pytest.approx([1, 1])


def test_as_pixels_inverts_normalised(plain):
    pixels = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    assert (as_pixels(normalised(pixels, plain.spec), plain.spec) == pixels).all()


def test_file_input_has_other_sizes_and_uint8_pixels(plain):
    images = ImageSet(np.zeros((5, 3, 40, 40), np.float32), "here")
    converted = as_file_input(images, plain.spec, ExportRequest(dynamic_size=True, uint8=True))
    assert converted.pixels.shape == (5, 40, 40, 3)
    assert [each.shape for each in converted.other_sizes] == [(1, 48, 56, 3), (2, 64, 40, 3), (7, 40, 80, 3)]
    assert {each.dtype for each in (converted.pixels, *converted.other_sizes)} == {np.dtype(np.uint8)}
    assert converted.source == "here, some also resized to 48x56, 64x40, 40x80"
    assert as_file_input(images, plain.spec, ExportRequest()) == images


def refusal(model, **options):
    with pytest.raises(UserError) as error:
        export_onnx(model, options.pop("folder") / "export", ExportRequest(**options))
    assert error.value.exit_code == 2
    return str(error.value)


def test_size_that_is_not_a_multiple_of_the_patch_is_refused(plain, tmp_path):
    assert refusal(plain, image_size=(48, 44), folder=tmp_path) == (
        "model 'student' (vit_tiny_patch16_224) cannot run on 48x44 images: they are not a multiple of its 8x8 "
        "patches; choose another --image-size"
    )


def test_softmax_without_a_class_head_is_refused(plain, tmp_path):
    headless = type(plain)(plain.network, replace(plain.spec, signals=frozenset({Signal.EMBEDDING})), {})
    assert refusal(headless, softmax=True, folder=tmp_path) == (
        "model 'student' has no class head, so it has no probabilities; leave out --softmax"
    )


def sized_vit(position, **request):
    """A DeiT of distillkit with learned or fixed positions, and its frozen scores for the request."""
    options = Deit.Options(image_size=(24, 32), patch=8, width=48, depth=1, heads=3, position=position)
    torch.manual_seed(0)
    model = Deit.build(ModelRequest("deit-ti", None, options, classes=7))
    for name, parameter in model.network.named_parameters():
        if name != "pos_embed":
            torch.nn.init.trunc_normal_(parameter, std=0.2)
    return model, frozen_scores(model, ExportRequest(**request))


@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_vit_with_dynamic_size_matches_the_vit_exported_at_each_size(position, tmp_path):
    model, _ = sized_vit(position)
    result, session = exported(model, tmp_path, dynamic_size=True)
    assert shape_of(result) == ["batch", 3, "height", "width"]
    assert result.manifest["input"]["multiples"] == [8, 8]
    for size in ((24, 32), (40, 24), (16, 72)):
        images = random_images(2, 3, *size)
        _, fixed = sized_vit(position, image_size=size)
        expected = fixed(torch.from_numpy(images)).detach().numpy()
        np.testing.assert_allclose(session(images), expected, rtol=1e-4, atol=1e-5)


def test_fixed_positions_are_recomputed_for_another_size():
    _, scores = sized_vit("sincos", image_size=(40, 16))
    positions = scores.model.network.pos_embed
    assert torch.equal(positions, sincos_position_embedding(48, (5, 2), prefix_tokens=2))
    assert not positions.requires_grad


def test_copy_of_a_model_with_dynamic_size_has_its_own_positions():
    _, scores = sized_vit("learned", dynamic_size=True)
    copied, images = deepcopy(scores), torch.from_numpy(random_images(1, 3, 40, 40))
    before = scores(images)
    torch.nn.init.normal_(scores.model.network.pos_embed)
    assert torch.equal(copied(images), before)
    assert not torch.equal(scores(images), before)


def test_other_sizes_of_a_fixed_size_network_are_refused(tmp_path):
    model = small_student("convit_tiny")
    assert refusal(model, image_size=(64, 64), folder=tmp_path) == (
        "model 'student' (convit_tiny) accepts only 224x224 images; leave out --image-size, or train a student at 64x64"
    )
    assert refusal(model, dynamic_size=True, folder=tmp_path) == (
        "model 'student' (convit_tiny) has a fixed image size, so height and width cannot be dynamic; leave "
        "out --dynamic-size, or export one file per size with --image-size"
    )


@pytest.mark.parametrize(
    ("architecture", "options", "size"),
    [
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2)}, (56, 28)),
        ("beit_base_patch16_224", {"depth": 1, "embed_dim": 24, "num_heads": 2}, (64, 48)),
    ],
)
def test_networks_that_timm_can_resize_match_timm(architecture, options, size):
    model = small_student(architecture, image_size=(28, 28) if "swin" in architecture else (32, 32), **options)
    by_timm = deepcopy(model.network).eval()
    by_timm.set_input_size(img_size=size)
    images = random_images(2, 3, *size)
    scores = frozen_scores(model, ExportRequest(image_size=size))
    found = scores(torch.from_numpy(images)).detach().numpy()
    # Bit-equal on some CPUs; on others two ways to add up the same products differ in the last bit.
    np.testing.assert_allclose(found, torch_output(by_timm, images), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("count", "labels", "note"),
    [
        (15, None, "calibrated on 15 images, fewer than 16: the ranges may be too narrow"),
        (16, np.zeros(16, np.int64), "calibrated on 16 images of a single class: the ranges may not fit the other "),
        (16, np.arange(16), ""),
        (16, None, ""),
    ],
)
def test_few_images_for_calibration_are_noted(count, labels, note):
    images = ImageSet(np.zeros((count, 3, 4, 4), np.float32), "mine", labels=labels)
    given = ExportImages(images, images)
    found = few_images_note(ExportOptions(int8=True), given)
    assert found.startswith(note)
    assert bool(found) == bool(note)
    assert few_images_note(ExportOptions(fp16=True), given) == ""
