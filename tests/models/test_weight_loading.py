import re
from dataclasses import replace

import pytest
import torch

from distillkit.errors import WeightsError
from distillkit.models import TimmModel, TimmRequest, classes_of, load_weights

SMALL = {"image_size": (32, 32), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
FITS = ["nothing", "positions", "all"]


def vit(classes=7, *, distilled=False, name="vit", **changes):
    architecture = "deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224"
    return TimmModel.create(architecture, name=name, classes=classes, **{**SMALL, **changes})


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def refused(model, weights, *, fit="nothing"):
    before = weights_of(model)
    with pytest.raises(WeightsError) as error:
        load_weights(model, weights, source="w.pth", fit=fit)
    after = weights_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before), "a refused file changes nothing"
    return str(error.value)


@pytest.mark.parametrize("fit", FITS)
def test_values_that_are_not_finite(plain, fit):
    weights = weights_of(plain)
    weights["norm.bias"][3] = float("nan")
    weights["blocks.1.norm1.weight"][0] = float("inf")
    assert refused(vit(), weights, fit=fit) == (
        "w.pth has NaN or infinity in 2 of 32 tensors (blocks.1.norm1.weight, ...); "
        "get the file again, or use an earlier checkpoint"
    )


@pytest.mark.parametrize("name", ["head.weight", "head.bias"])
@pytest.mark.parametrize("fit", FITS)
def test_a_head_with_a_single_number(plain, name, fit):
    weights = weights_of(plain) | {name: torch.tensor(1.0)}
    assert refused(vit(), weights, fit=fit) == (
        f"w.pth has a single number as {name}, so its head is damaged; get the file again"
    )


@pytest.mark.parametrize("fit", FITS)
def test_patches_without_pixels(plain, fit):
    """timm's conversion divides by their size."""
    weights = weights_of(plain) | {"patch_embed.proj.weight": torch.zeros(0, 0, 0, 0)}
    message = refused(vit(), weights, fit=fit)
    assert message.startswith("w.pth does not fit 'vit' (deit_tiny_patch16_224): 1 of 32 tensors have another shape (")


def test_everything_is_loaded_and_counted(plain):
    model = vit()
    report = load_weights(model, weights_of(plain), source="w.pth", fit="nothing")
    loaded = model.network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in weights_of(plain).items())
    assert (report.source, report.loaded, report.fresh, report.notes) == ("w.pth", len(loaded), (), ())


def test_half_precision_is_converted_to_the_networks_dtype(plain):
    model = vit()
    weights = {name: tensor.bfloat16() for name, tensor in weights_of(plain).items()}
    load_weights(model, weights, source="w.pth", fit="nothing")
    assert model.network.head.weight.dtype is torch.float32
    assert torch.equal(model.network.head.weight, weights["head.weight"].float())


@pytest.mark.parametrize("fit", FITS)
def test_missing_unexpected_and_reshaped_are_counted_and_named(plain, fit):
    weights = weights_of(plain)
    weights = {name.replace("blocks.1", "layers.1"): tensor for name, tensor in weights.items()}
    weights["norm.bias"] = torch.zeros(5)
    assert refused(vit(), weights, fit=fit) == (
        "w.pth does not fit 'vit' (deit_tiny_patch16_224): "
        "12 of 32 tensors are missing (blocks.1.norm1.weight, blocks.1.norm1.bias, blocks.1.attn.qkv.weight, ...); "
        "12 of 32 tensors are unexpected (layers.1.norm1.weight, layers.1.norm1.bias, layers.1.attn.qkv.weight, "
        "...); 1 of 32 tensors have another shape (norm.bias [5] instead of [48]); "
        "give weights of exactly this architecture"
    )


@pytest.mark.parametrize("fit", FITS)
def test_weights_of_another_architecture(fit):
    resnet = TimmModel.sketch(TimmRequest("resnet10t", "resnet", 7))
    sentence = refused(vit(), {name: torch.zeros(tensor.shape) for name, tensor in weights_of(resnet).items()}, fit=fit)
    assert re.fullmatch(
        r"w\.pth does not fit 'vit' \(deit_tiny_patch16_224\): 30 of 32 tensors are missing \(cls_token, pos_embed, "
        r"patch_embed\.proj\.weight, \.\.\.\); \d+ of 32 tensors are unexpected \(conv1\.0\.weight, "
        r"conv1\.1\.weight, conv1\.1\.bias, \.\.\.\); give weights of exactly this architecture",
        sentence,
    )


def test_teacher_never_gets_a_random_head():
    assert refused(vit(classes=10, name="vit-b"), weights_of(vit(classes=1000))) == (
        "w.pth has a head for 1,000 classes and 'vit-b' needs one for 10; a teacher never gets a random head: "
        "fine-tune it with `distillkit finetune`, then use --teacher run:DIR"
    )


def test_teacher_needs_a_head():
    weights = {name: tensor for name, tensor in weights_of(vit()).items() if not name.startswith("head.")}
    assert refused(vit(name="vit-b"), weights) == (
        "w.pth has no head and 'vit-b' needs one for 7 classes; a teacher never gets a random head: "
        "fine-tune it with `distillkit finetune`, then use --teacher run:DIR"
    )


def test_student_keeps_a_fresh_head_for_other_classes(plain):
    model = vit(classes=10)
    fresh = weights_of(model)
    report = load_weights(model, weights_of(plain), source="w.pth", fit="all")
    assert report.fresh == ("head.bias", "head.weight")
    assert report.notes == ("the head for 7 classes was not loaded; the one for 10 classes is randomly initialised",)
    assert report.loaded == len(fresh) - 2
    assert torch.equal(model.network.head.weight, fresh["head.weight"])
    assert torch.equal(model.network.pos_embed, plain.network.pos_embed)


def test_student_may_start_without_a_head(plain):
    weights = {name: tensor for name, tensor in weights_of(plain).items() if not name.startswith("head.")}
    report = load_weights(vit(classes=10), weights, source="w.pth", fit="all")
    assert report.notes == ("the weights have no class head; the one for 10 classes is randomly initialised",)


@pytest.mark.parametrize("fit", FITS)
def test_network_without_classes_leaves_the_head_out(plain, fit):
    model = vit(classes=0)
    report = load_weights(model, weights_of(plain), source="w.pth", fit=fit)
    assert (report.loaded, report.fresh) == (len(model.network.state_dict()), ())
    assert report.notes == ("left out: head (2 tensors)",)
    assert torch.equal(model.network.norm.weight, plain.network.norm.weight)


def test_tensors_to_keep_are_not_loaded(plain):
    model, weights = vit(classes=7), weights_of(plain)
    before, weights["pos_embed"] = weights_of(model), torch.zeros(1, 1 + 9, 48)
    report = load_weights(model, weights, source="w.pth", fit="all", keep=("pos_embed",))
    assert report.notes == ("pos_embed is not loaded: the student keeps its own",)
    assert torch.equal(model.network.pos_embed, before["pos_embed"])
    assert torch.equal(model.network.cls_token, plain.network.cls_token)


def test_layout_of_dinov2_is_recognised_by_its_mask_token():
    geometry = {**SMALL, "name": "dinov2", "classes": 0}
    model, source = (TimmModel.create("vit_small_patch14_dinov2", **geometry) for _ in range(2))
    weights = {**weights_of(source), "mask_token": torch.zeros(1, 48)}
    load_weights(model, weights, source="w.pth", fit="nothing")
    assert all(torch.equal(tensor, model.network.state_dict()[name]) for name, tensor in weights_of(source).items())


def test_distillation_token_starts_from_the_class_token(plain):
    model = vit(distilled=True)
    report = load_weights(model, weights_of(plain), source="w.pth", fit="all")
    network, source = model.network, plain.network
    assert report.fresh == ()
    assert report.notes == (
        (
            "the distillation token and its position start as copies of the class token's, "
            "its head as a copy of the class head"
        ),
    )
    assert torch.equal(network.dist_token, source.cls_token)
    assert torch.equal(network.cls_token, source.cls_token)
    assert torch.equal(network.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.equal(network.pos_embed[:, 1], source.pos_embed[:, 0])
    assert torch.equal(network.pos_embed[:, 2:], source.pos_embed[:, 1:])
    assert torch.equal(network.head_dist.weight, source.head.weight)
    assert torch.equal(network.head_dist.bias, source.head.bias)


def test_distillation_head_is_fresh_if_the_class_head_does_not_fit(plain):
    model = vit(classes=10, distilled=True)
    report = load_weights(model, weights_of(plain), source="w.pth", fit="all")
    assert report.fresh == ("head.bias", "head.weight", "head_dist.bias", "head_dist.weight")
    assert report.notes == (
        "the distillation token and its position start as copies of the class token's",
        (
            "the head for 7 classes was not loaded; "
            "the class head and the distillation head for 10 classes are randomly initialised"
        ),
    )
    assert torch.equal(model.network.dist_token, plain.network.cls_token)


LETTERS, DIGITS = tuple("abcdefg"), tuple("0123456")


@pytest.mark.parametrize("before", [LETTERS, DIGITS, None])
def test_head_of_a_run_stays_unless_its_classes_had_other_names(plain, before):
    model = vit(class_names=LETTERS)
    fresh, origin = weights_of(model), replace(plain.spec, class_names=before)
    report = load_weights(model, weights_of(plain), source="runs/a", fit="all", origin=origin)
    if before == DIGITS:
        assert report.fresh == ("head.bias", "head.weight")
        assert report.notes == (
            "the head for 7 other classes was not loaded; the one for 7 classes is randomly initialised",
        )
        assert torch.equal(model.network.head.weight, fresh["head.weight"])
    else:
        assert (report.fresh, report.notes) == ((), ())
        assert torch.equal(model.network.head.weight, plain.network.head.weight)


def test_no_head_is_copied_from_one_for_other_classes(plain):
    model = vit(distilled=True, class_names=LETTERS)
    origin = replace(plain.spec, class_names=DIGITS)
    report = load_weights(model, weights_of(plain), source="runs/a", fit="all", origin=origin)
    assert report.notes == (
        "the distillation token and its position start as copies of the class token's",
        (
            "the head for 7 other classes was not loaded; "
            "the class head and the distillation head for 7 classes are randomly initialised"
        ),
    )
    assert not torch.equal(model.network.head_dist.weight, plain.network.head.weight)


def test_both_heads_for_other_classes(distilled):
    report = load_weights(vit(classes=10, distilled=True), weights_of(distilled), source="runs/a", fit="all")
    assert report.notes == (
        (
            "the heads for 7 classes were not loaded; "
            "the class head and the distillation head for 10 classes are randomly initialised"
        ),
    )


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_positions_of_a_run_come_from_its_own_grid(size):
    """By the number of patches alone the grid would be 4 x 4, which has as many patches as 2 x 8."""
    wide, model = vit(image_size=(16, 64)), vit(image_size=size)
    report = load_weights(model, weights_of(wide), source="runs/a", fit="all", origin=wide.spec)
    rows, columns = size[0] // 8, size[1] // 8
    assert report.notes == (f"the position embedding was resized from 2x8 to {rows}x{columns} patches",)
    patches = wide.network.pos_embed[:, 1:].reshape(1, 2, 8, 48).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(patches, size=(rows, columns), mode="bicubic", align_corners=False)
    torch.testing.assert_close(model.network.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(model.network.pos_embed[:, 0], wide.network.pos_embed[:, 0])


def test_distillation_token_is_left_out_of_a_plain_student(distilled):
    model = vit()
    report = load_weights(model, weights_of(distilled), source="w.pth", fit="all")
    assert report.notes == ("the distillation token, its position and its head were left out",)
    assert torch.equal(model.network.pos_embed[:, 0], distilled.network.pos_embed[:, 0])
    assert torch.equal(model.network.pos_embed[:, 1:], distilled.network.pos_embed[:, 2:])
    assert torch.equal(model.network.head.weight, distilled.network.head.weight)


def test_teacher_never_gets_an_invented_token(plain):
    assert refused(vit(distilled=True, name="deit"), weights_of(plain)) == (
        "w.pth has no distillation token (dist_token) and 'deit' needs one; give the weights of a distilled network, "
        "or use the architecture without distillation"
    )


def test_teacher_never_loses_its_token(distilled):
    assert refused(vit(name="vit-b"), weights_of(distilled)) == (
        "w.pth has a distillation token (dist_token) and 'vit-b' has none; use the distilled architecture"
    )


def without(weights, *names):
    return {name: tensor for name, tensor in weights.items() if name not in names}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("names", "sign"),
    [
        (("dist_token",), "it has head_dist.weight"),
        (("dist_token", "head_dist.weight", "head_dist.bias"), "its pos_embed has a place for one"),
    ],
)
def test_missing_distillation_token_is_named(distilled, fit, names, sign):
    assert refused(vit(distilled=True, name="deit"), without(weights_of(distilled), *names), fit=fit) == (
        f"w.pth has no dist_token, the distillation token of 'deit', although {sign}; get the complete file"
    )


@pytest.mark.parametrize("fit", FITS)
def test_renamed_distillation_token_is_named(distilled, fit):
    weights = weights_of(distilled)
    weights["distill_token"] = weights.pop("dist_token")
    assert refused(vit(distilled=True, name="deit"), weights, fit=fit) == (
        "w.pth has no dist_token, the distillation token of 'deit', but a tensor 'distill_token' of its shape; if that "
        "is the token, rename it to dist_token"
    )


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("missing", "there"),
    [("head.weight", "head.bias"), ("head.bias", "head.weight"), ("head_dist.bias", "head_dist.weight")],
)
def test_incomplete_head_is_refused_by_name(distilled, fit, missing, there):
    random = f", or remove {there} from it to start with a random head" if fit == "all" else ""
    incomplete = without(weights_of(distilled), missing)
    assert refused(vit(distilled=True), incomplete, fit=fit) == (
        f"w.pth has {there} but not {missing}, so its head is incomplete; get the complete file{random}"
    )
    if fit == "all":  # the remedy
        module = missing.partition(".")[0]
        report = load_weights(vit(distilled=True), without(incomplete, there), source="w.pth", fit=fit)
        assert report.fresh == (f"{module}.bias", f"{module}.weight")


@pytest.mark.parametrize("fit", FITS)
def test_head_whose_weight_and_bias_disagree(plain, fit):
    assert refused(vit(), weights_of(plain) | {"head.bias": torch.zeros(9)}, fit=fit) == (
        "w.pth has head.weight for 7 classes and head.bias for 9, so its head is inconsistent; get the file again"
    )


def test_teacher_without_one_of_its_two_heads(distilled):
    weights = without(weights_of(distilled), "head_dist.weight", "head_dist.bias")
    assert refused(vit(distilled=True, name="deit"), weights) == (
        "w.pth has no head_dist and 'deit' needs one for 7 classes; a teacher never gets a random head: "
        "fine-tune it with `distillkit finetune`, then use --teacher run:DIR"
    )


@pytest.mark.parametrize(
    ("prefixes", "taken", "note"),
    [
        (("net.", ""), "", "at the top level and under 'net'; the first is loaded, FILE#net loads the other"),
        (
            ("student.", "teacher."),
            "teacher.",
            "under 'teacher' and under 'student'; the first is loaded, FILE#student loads the other",
        ),
        (
            ("ema_model.", "zoo."),
            "zoo.",
            "under 'zoo' and under 'ema_model'; the first is loaded, FILE#ema_model loads the other",
        ),
    ],
)
@pytest.mark.parametrize("fit", FITS)
def test_several_networks_in_one_state_dict(plain, fit, prefixes, taken, note):
    model, weights = vit(), {}
    for number, prefix in enumerate(prefixes):
        weights |= {prefix + name: tensor + number for name, tensor in weights_of(plain).items()}
    report = load_weights(model, weights, source="w.pth", fit=fit)
    assert report.notes[0] == f"the network is there {note}"
    assert torch.equal(model.network.norm.weight, weights[f"{taken}norm.weight"])


@pytest.mark.parametrize(("given", "wanted"), [(False, False), (True, True), (False, True), (True, False)])
def test_positions_are_resized_as_the_authors_do(given, wanted):
    torch.manual_seed(0)
    source = vit(distilled=given)
    model = vit(distilled=wanted, image_size=(48, 64))
    report = load_weights(model, weights_of(source), source="w.pth", fit="all")
    assert "the position embedding was resized from 4x4 to 6x8 patches" in report.notes
    patches = source.network.pos_embed[:, 1 + given :].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(patches, size=(6, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(
        model.network.pos_embed[:, 1 + wanted :], expected.permute(0, 2, 3, 1).flatten(1, 2), rtol=1e-6, atol=1e-7
    )


def test_teacher_positions_are_not_resized():
    assert refused(vit(image_size=(48, 48), name="vit-b"), weights_of(vit())) == (
        "w.pth does not fit 'vit-b' without resampling pos_embed from [1, 17, 48] to [1, 37, 48]; "
        "give weights of exactly this architecture"
    )


def test_positions_without_a_square_grid_are_refused(plain):
    weights = weights_of(plain)
    weights["pos_embed"] = torch.zeros(1, 1 + 20, 48)
    assert refused(vit(), weights, fit="all") == (
        "the position embedding in w.pth has 20 patches, which is not a square number; "
        "only square grids can be resized to 4x4"
    )


def test_patches_of_another_size_are_resampled_for_a_student(plain):
    model = vit(patch_size=4, image_size=(16, 16))
    report = load_weights(model, weights_of(plain), source="w.pth", fit="all")
    assert report.notes == ("resampling patch_embed.proj.weight from [48, 3, 8, 8] to [48, 3, 4, 4]",)


def test_older_layout_of_timm(plain):
    weights = weights_of(plain)
    projection = weights["patch_embed.proj.weight"]
    weights["patch_embed.proj.weight"] = projection.reshape(48, -1)
    model = vit()
    load_weights(model, weights, source="w.pth", fit="nothing")
    assert torch.equal(model.network.patch_embed.proj.weight, projection)


def torchvisions_name(name):
    """The name that torchvision gives to a tensor of timm's RegNet."""
    name = name.replace("stem.conv", "stem.0").replace("stem.bn", "stem.1").replace("head.fc", "fc")
    for timms, theirs in (
        ("conv1.conv", "f.a.0"), ("conv1.bn", "f.a.1"), ("conv2.conv", "f.b.0"), ("conv2.bn", "f.b.1"),
        ("se.fc1", "f.se.excitation.0"), ("se.fc2", "f.se.excitation.2"), ("conv3.conv", "f.c.0"),
        ("conv3.bn", "f.c.1"), ("downsample.conv", "proj.0"), ("downsample.bn", "proj.1"),
    ):  # fmt: skip
        name = name.replace(timms, theirs)
    return re.sub(
        r"^s(\d)\.b(\d+)", lambda found: f"trunk_output.block{found[1]}.block{found[1]}-{int(found[2]) - 1}", name
    )


def test_another_librarys_layout_that_timm_can_convert():
    torch.manual_seed(0)
    model, source = (TimmModel.create("regnety_002", name="regnet", classes=5) for _ in range(2))
    weights = {torchvisions_name(name): tensor for name, tensor in weights_of(source).items()}
    assert "trunk_output.block3.block3-1.f.se.excitation.0.weight" in weights
    assert classes_of(weights, TimmModel.sketch(TimmRequest("regnety_002", "regnet"))) == 5
    load_weights(model, weights, source="w.pth", fit="nothing")
    assert all(torch.equal(tensor, model.network.state_dict()[name]) for name, tensor in weights_of(source).items())


def test_batchnorm_counters_may_be_missing():
    model, source = (TimmModel.create("resnet10t", name="resnet", classes=5) for _ in range(2))
    weights = {name: tensor for name, tensor in weights_of(source).items() if "num_batches" not in name}
    load_weights(model, weights, source="w.pth", fit="nothing")
    assert torch.equal(model.network.fc.weight, source.network.fc.weight)


def test_classes_of_a_file(plain, distilled):
    sketch = TimmModel.sketch(TimmRequest("deit_tiny_patch16_224", "vit", 1000, (32, 32), plain.arguments))
    weights = weights_of(plain)
    assert classes_of(weights, sketch) == 7
    assert classes_of({f"backbone.{name}": tensor for name, tensor in weights.items()}, sketch) == 7
    assert classes_of({name: tensor for name, tensor in weights.items() if "head" not in name}, sketch) is None
