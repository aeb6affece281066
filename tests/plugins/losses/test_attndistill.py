"""AttnDistill against a NumPy implementation of the complete computation, and the statements of its docstring."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from distillkit import BatchInfo, BrokenPluginError, Outputs, Read, RecipeError, Signal, TargetSpec
from distillkit.plugin.registry import installed_plugins
from distillkit.testing import cnn, vit
from distillkit_plugins.losses.attndistill import AttnDistill
from distillkit_plugins.losses.projector import projector_widths

BATCH = BatchInfo(labels=None, label_mass=torch.zeros(2))


def model(name, heads, *, grid=(2, 3), width=4):
    return vit(name, layers=2, width=width, heads=heads, grid=grid)


def patched(name, heads, *, pixels, patch, width=4):
    """A ViT with images of `pixels` and patches of `patch` pixels."""
    return model(name, heads, grid=(pixels[0] // patch, pixels[1] // patch), width=width)


def build(student, teacher, **options):
    torch.manual_seed(0)
    return AttnDistill.build(AttnDistill.Options(**options), student, teacher).double()


def outputs(rows=None, embedding=None):
    return Outputs(
        embedding=() if embedding is None else (torch.from_numpy(embedding),),
        cls_attention=None if rows is None else torch.from_numpy(rows)[:, None],  # one layer, the last
    )


def attention(loss, teacher_rows, student_rows):
    """The attention term from rows [B, H, 1 + N] in float64."""
    target = loss.target(outputs(teacher_rows))
    return loss(outputs(student_rows), target, BATCH)["attention"].numpy()


def clamp(rows):
    rows = rows.clip(1e-5, 0.996)
    return rows / rows.sum(axis=-1, keepdims=True)


def merge(rows, temperature):
    scores = np.log(np.maximum(rows, 1e-12)).sum(axis=1, keepdims=True) / temperature
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(teacher_rows, student_rows):
    """KL divergence, summed over keys and heads."""
    return (teacher_rows * np.log(teacher_rows / student_rows)).sum(axis=(1, 2))


def reference(teacher_rows, student_rows, *, grids, resample, interpolation="bicubic", temperature=10.0):
    """The paper's four cases."""
    teacher_heads, student_heads = teacher_rows.shape[1], student_rows.shape[1]
    if grids[0] != grids[1]:
        patches = resample(teacher_rows[..., 1:], *grids, interpolation)
        patches = patches * (1 - teacher_rows[..., :1]) / patches.sum(axis=-1, keepdims=True)
        teacher_rows = np.concatenate([teacher_rows[..., :1], patches], axis=-1)
    if teacher_heads != student_heads:
        if grids[0] != grids[1]:
            teacher_rows = clamp(teacher_rows)
        teacher_rows = merge(teacher_rows, teacher_heads if temperature == "heads" else temperature)
        student_rows = merge(student_rows, student_heads if temperature == "heads" else temperature)
    return divergence(clamp(teacher_rows), clamp(student_rows))


# The attention guidance

ATTENTION_ONLY = {"align_weight": 0.0, "attention_weight": 1.0}


def check(some_rows, numpy_resample, student, teacher, **options):
    keys = [1 + spec.grid[0] * spec.grid[1] for spec in (teacher, student)]
    teacher_rows, student_rows = (
        some_rows(seed, 2, spec.heads, count)
        for seed, spec, count in zip((1, 2), (teacher, student), keys, strict=True)
    )
    loss = build(student, teacher, **ATTENTION_ONLY, **options)
    expected = reference(
        teacher_rows, student_rows, grids=(teacher.grid, student.grid), resample=numpy_resample, **options
    )
    np.testing.assert_allclose(attention(loss, teacher_rows, student_rows), expected, rtol=1e-6, atol=1e-6)
    return loss


def test_case_a_equal_heads_and_patches(some_rows, numpy_resample):
    loss = check(some_rows, numpy_resample, model("s", 6), model("t", 6))
    assert loss.targets == {"attention": TargetSpec((6, 7), "float32", exact=False)}


@pytest.mark.parametrize("interpolation", ["bicubic", "area"])
@pytest.mark.parametrize("pixels", [(32, 32), (32, 48), (96, 64), (224, 224)])
def test_case_b_an_8_pixel_teacher_and_a_16_pixel_student(some_rows, numpy_resample, pixels, interpolation):
    student, teacher = (patched(name, 3, pixels=pixels, patch=patch) for name, patch in (("s", 16), ("t", 8)))
    loss = check(some_rows, numpy_resample, student, teacher, interpolation=interpolation)
    assert loss.targets["attention"].shape == (3, 1 + (pixels[0] // 16) * (pixels[1] // 16))


@pytest.mark.parametrize("heads", [(12, 6), (6, 3), (12, 5), (3, 6)])
@pytest.mark.parametrize("temperature", [10.0, 20, "heads"])
def test_case_c_other_heads(some_rows, numpy_resample, heads, temperature):
    loss = check(some_rows, numpy_resample, model("s", heads[1]), model("t", heads[0]), temperature=temperature)
    assert loss.targets["attention"].shape == (1, 7)


@pytest.mark.parametrize("interpolation", ["bicubic", "area"])
@pytest.mark.parametrize("temperature", [10.0, "heads"])
def test_case_d_other_heads_and_patches(some_rows, numpy_resample, interpolation, temperature):
    student, teacher = patched("s", 3, pixels=(64, 96), patch=16), patched("t", 6, pixels=(64, 96), patch=8)
    check(some_rows, numpy_resample, student, teacher, interpolation=interpolation, temperature=temperature)


def test_a_student_of_finer_patches_and_one_of_no_whole_ratio(some_rows, numpy_resample):
    check(some_rows, numpy_resample, model("s", 3, grid=(4, 6)), model("t", 3, grid=(2, 3)))
    check(some_rows, numpy_resample, model("s", 3, grid=(3, 4)), model("t", 6, grid=(4, 7)))


def test_case_a_by_hand():
    """Two heads: the first is equal in both models, the second gives 3/4 log 3/2 + 1/4 log 1/2."""
    teacher_rows, student_rows = np.array([[[0.5, 0.5], [0.75, 0.25]]]), np.full((1, 2, 2), 0.5)
    loss = build(model("s", 2, grid=(1, 1)), model("t", 2, grid=(1, 1)), **ATTENTION_ONLY)
    assert attention(loss, teacher_rows, student_rows) == pytest.approx(0.13081204)


def test_case_c_by_hand():
    """Heads (9/10, 1/10) and (1/2, 1/2) multiply to 9 : 1; a temperature of 0.5 squares that to 81 : 1."""
    teacher_rows, student_rows = np.array([[[0.9, 0.1], [0.5, 0.5]]]), np.full((1, 1, 2), 0.5)
    student, teacher = model("s", 1, grid=(1, 1)), model("t", 2, grid=(1, 1))
    for temperature, share in ((1, 9 / 10), (0.5, 81 / 82), ("heads", 3 / 4)):
        expected = share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share))
        found = attention(
            build(student, teacher, temperature=temperature, **ATTENTION_ONLY), teacher_rows, student_rows
        )
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("grid", [(2, 3), (4, 6), (8, 12)])
def test_zeros_give_finite_terms_and_gradients(heads, grid):
    teacher_rows = torch.zeros(2, 1, heads, 1 + grid[0] * grid[1])
    teacher_rows[..., 5] = 1
    student_rows = torch.zeros(2, 1, 2, 7, requires_grad=True)
    loss = build(model("s", 2), model("t", heads, grid=grid), **ATTENTION_ONLY)
    target = loss.target(Outputs(cls_attention=teacher_rows))
    term = loss(Outputs(cls_attention=student_rows), target, BATCH)["attention"]
    term.sum().backward()
    assert torch.isfinite(term).all()
    assert torch.isfinite(student_rows.grad).all()


@pytest.mark.parametrize(("heads", "grid"), [(2, (2, 3)), (2, (4, 6)), (3, (2, 3)), (3, (4, 6))])
def test_the_gradient_of_every_case_is_that_of_the_formula(heads, grid):
    generator = np.random.default_rng(3)
    teacher_rows, student_rows = (
        generator.random((2, count, keys)) + 0.1 for count, keys in ((heads, 1 + grid[0] * grid[1]), (2, 7))
    )
    teacher_rows, student_rows = (rows / rows.sum(axis=-1, keepdims=True) for rows in (teacher_rows, student_rows))
    loss = build(model("s", 2, width=3), model("t", heads, grid=grid, width=5))
    target = loss.target(outputs(teacher_rows, generator.normal(size=(2, 5))))

    def total(rows, embedding):
        terms = loss(Outputs(embedding=(embedding,), cls_attention=rows[:, None]), target, BATCH)
        return terms["align"] + terms["attention"]

    given = (
        torch.tensor(student_rows, requires_grad=True),
        torch.tensor(generator.normal(size=(2, 3)), requires_grad=True),
    )
    assert torch.autograd.gradcheck(total, given)


# The projector alignment

ALIGN_ONLY = {"align_weight": 1.0, "attention_weight": 0.0}


def layer_norm(values, module):
    centred = values - values.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return centred / deviation * module.weight.detach().numpy() + module.bias.detach().numpy()


def gelu(values):
    return values * np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))(values)


def projected(projector, values):
    """The authors' projector in NumPy, with the modules of `projector`."""
    for module in projector:
        if isinstance(module, nn.LayerNorm):
            values = layer_norm(values, module)
        elif isinstance(module, nn.GELU):
            values = gelu(values)
        else:
            values = values @ module.weight.detach().numpy().T + module.bias.detach().numpy()
    return values


@pytest.mark.parametrize("norms", ["both", "input", "output", "none"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_alignment_against_numpy(depth, norms):
    teacher_embedding, student_embedding = (
        np.random.default_rng(seed).normal(size=(2, width)) for seed, width in ((1, 5), (2, 4))
    )
    teacher_embedding = teacher_embedding.astype(np.float32).astype(float)
    options = {**ALIGN_ONLY, "projector_depth": depth, "projector_norms": norms}
    loss = build(model("s", 3, width=4), model("t", 6, width=5), **options)
    for parameter in loss.parameters():
        nn.init.normal_(parameter)
    target = loss.target(outputs(embedding=teacher_embedding))
    assert loss.targets == {"embedding": TargetSpec((5,), "float32", exact=False)}
    found = loss(outputs(embedding=student_embedding), target, BATCH)["align"].detach().numpy()
    answer = projected(loss.projector, student_embedding)
    np.testing.assert_allclose(found, ((answer - teacher_embedding) ** 2).mean(axis=1), rtol=1e-6, atol=1e-6)
    loss.options = loss.options.model_copy(update={"distance": "cosine"})
    found = loss(outputs(embedding=student_embedding), target, BATCH)["align"].detach().numpy()
    lengths = np.linalg.norm(answer, axis=1) * np.linalg.norm(teacher_embedding, axis=1)
    np.testing.assert_allclose(found, 1 - (answer * teacher_embedding).sum(axis=1) / lengths, rtol=1e-6, atol=1e-6)


def test_the_papers_sum_is_the_mean_times_the_teachers_width():
    teacher_embedding, student_embedding = np.zeros((1, 5)), np.ones((1, 4))
    loss = build(model("s", 3, width=4), model("t", 6, width=5), **ALIGN_ONLY)
    answer = projected(loss.projector, student_embedding)
    found = loss(outputs(embedding=student_embedding), loss.target(outputs(embedding=teacher_embedding)), BATCH)[
        "align"
    ].item()
    assert 5 * found == pytest.approx((answer**2).sum(), rel=1e-6)


def test_the_authors_projector():
    loss = build(model("s", 3, width=192), model("t", 6, width=384))
    kinds = [type(module).__name__ for module in loss.projector]
    assert kinds == ["LayerNorm", "Linear", "GELU", "Linear", "GELU", "Linear", "GELU", "Linear", "LayerNorm"]
    linear = [module for module in loss.projector if isinstance(module, nn.Linear)]
    assert [(each.in_features, each.out_features) for each in linear] == [
        (192, 384),
        (384, 192),
        (192, 384),
        (384, 384),
    ]
    for each in linear:
        assert each.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not each.bias.any()
    assert [module.eps for module in loss.projector if isinstance(module, nn.LayerNorm)] == [1e-6, 1e-6]


def test_every_depth_ends_in_the_teachers_width():
    assert projector_widths(2, 7, depth=1, ratio=2) == (2, 7)
    assert projector_widths(2, 7, depth=2, ratio=2) == (2, 4, 7)
    assert projector_widths(2, 7, depth=3, ratio=3) == (2, 6, 2, 7)
    assert projector_widths(2, 7, depth=5, ratio=2) == (2, 4, 2, 4, 2, 7)


# The complete loss


def test_weights_are_the_authors_and_no_label_is_read():
    loss = build(model("s", 3), model("t", 6))
    assert (loss.weight, loss.label_weight) == (1.0, 0.0)
    assert (loss.options.align_weight, loss.options.attention_weight, loss.options.temperature) == (1.0, 0.1, 10.0)
    assert loss.reads_teacher == {Read(Signal.EMBEDDING), Read(Signal.CLS_ATTENTION)}
    assert loss.reads_student == loss.reads_teacher


def test_a_term_is_multiplied_by_its_weight(some_rows):
    student, teacher = model("s", 3), model("t", 6)
    student_outputs = outputs(some_rows(1, 2, 3, 7), np.random.default_rng(1).normal(size=(2, 4)))
    teacher_outputs = outputs(some_rows(2, 2, 6, 7), np.random.default_rng(2).normal(size=(2, 4)))

    def terms(**weights):
        loss = build(student, teacher, **weights)
        return loss(student_outputs, loss.target(teacher_outputs), BATCH)

    single, doubled = terms(align_weight=1.0, attention_weight=1.0), terms(align_weight=3.0, attention_weight=0.5)
    torch.testing.assert_close(doubled["align"], 3 * single["align"])
    torch.testing.assert_close(doubled["attention"], 0.5 * single["attention"])


def test_a_term_of_weight_0_is_not_read():
    align, attention = (build(model("s", 3), cnn("t", widths=(5,)), **only) for only in (ALIGN_ONLY, ATTENTION_ONLY))
    assert align.reads_teacher == {Read(Signal.EMBEDDING)}
    assert attention.reads_teacher == {Read(Signal.CLS_ATTENTION)}
    assert list(attention.parameters()) == []


def test_both_weights_0_are_refused():
    with pytest.raises(RecipeError) as refusal:
        installed_plugins().find("loss", "attndistill").options({"align_weight": 0, "attention_weight": 0})
    assert (
        str(refusal.value)
        == "loss 'attndistill': align_weight and attention_weight are both 0; set at least one above 0"
    )


@pytest.mark.parametrize(
    ("given_options", "sentence"),
    [
        ({"temperature": 0.0}, "'temperature' is 0.0; it should be greater than 0 or 'heads'"),
        ({"distance": "cos"}, "'distance' is 'cos'; it should be 'mse' or 'cosine'"),
        ({"projector_depth": 0}, "'projector_depth' is 0; it should be greater than 0"),
        ({"attn_weight": 1.0}, "unknown key 'attn_weight'; did you mean 'attention_weight'?"),
    ],
)
def test_wrong_options_are_refused_by_key(given_options, sentence):
    with pytest.raises(RecipeError) as refusal:
        installed_plugins().find("loss", "attndistill").options(given_options)
    assert str(refusal.value) == f"loss 'attndistill': {sentence}"


def test_different_grids_are_refused_without_interpolation():
    student, teacher = (patched(name, 6, pixels=(224, 224), patch=patch) for name, patch in (("s", 16), ("t", 8)))
    with pytest.raises(RecipeError) as refusal:
        build(student, teacher, interpolation="none")
    assert str(refusal.value) == (
        "loss 'attndistill': teacher 't' has 28 x 28 patches and student 's' 14 x 14, but interpolation = \"none\" "
        'needs equal grids; use "bicubic" or "area", or choose patch and image sizes that give equal grids'
    )


def test_a_model_without_the_requested_embedding_is_a_broken_plugin():
    with pytest.raises(BrokenPluginError) as refusal:
        build(model("s", 3), model("t", 6)).target(Outputs())
    assert str(refusal.value) == "a loss reads embedding and the model returned none; its plugin breaks the contract"


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_autocast_does_not_change_the_projector(distance, some_rows):
    """At this width the last layer's bias has gradients of a million, which fp16 cannot hold."""
    student, teacher = model("s", 2), model("t", 2)
    loss = build(student, teacher, distance=distance).float()
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    rows = torch.from_numpy(some_rows(2, 2, 1, 2, 7)).float()
    target = loss.target(Outputs(embedding=(values + 1,), cls_attention=rows.flip(-1)))
    results = []
    for half in (False, True):
        embedding = values.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16, enabled=half):
            terms = loss(Outputs(embedding=(embedding,), cls_attention=rows), target, BATCH)
        gradients = torch.autograd.grad(sum(term.sum() for term in terms.values()), [embedding, *loss.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)
        results.append([*terms.values(), *gradients])
    assert all(torch.equal(plain, under_half) for plain, under_half in zip(*results, strict=True))
