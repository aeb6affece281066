"""`features` against a NumPy implementation: values, gradients, statistics; and what it refuses."""

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard as sylvester

from distillkit import BatchInfo, DataError, Outputs, Read, RecipeError, Signal, TargetSpec
from distillkit.contracts.loss import preparation_of
from distillkit.plugin.registry import installed_plugins
from distillkit.testing import cnn, vit
from distillkit_plugins.losses.features import FeatureDistillation
from distillkit_plugins.losses.token_grids import resample_tokens

IMAGES = 3
BATCH = BatchInfo(labels=None, label_mass=torch.zeros(IMAGES))
GENERATOR = np.random.default_rng(0)


def model(name, grid, width, layers=2):
    return vit(name, layers=layers, width=width, heads=1, grid=grid)


def resampled(tokens, source, goal):
    """Tokens [B, N, D] on another grid: block means, or bilinear at the centres with repeated borders."""
    maps = tokens.reshape(len(tokens), *source, -1)
    if all(old % new == 0 for old, new in zip(source, goal, strict=True)):
        bands = np.split(maps, goal[0], axis=1)
        blocks = [[block.mean(axis=(1, 2)) for block in np.split(band, goal[1], axis=2)] for band in bands]
        return np.stack([np.stack(row, axis=1) for row in blocks], axis=1).reshape(len(tokens), -1, tokens.shape[-1])
    for axis, (old, new) in enumerate(zip(source, goal, strict=True), start=1):
        places = [min(max((cell + 0.5) * old / new - 0.5, 0), old - 1) for cell in range(new)]
        parts = []
        for place in places:
            low = int(place)
            high = min(low + 1, old - 1)
            parts.append(maps.take(low, axis) * (1 - (place - low)) + maps.take(high, axis) * (place - low))
        maps = np.stack(parts, axis)
    return maps.reshape(len(tokens), -1, tokens.shape[-1])


def gelu(values):
    from scipy.special import erf

    return 0.5 * values * (1 + erf(values / np.sqrt(2)))


def layer_norm(values, epsilon):
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)


def projected(loss, signal, values):
    """The projector of a signal, from its state."""
    for layer in loss.projectors[signal]:
        if isinstance(layer, torch.nn.LayerNorm):
            values = layer_norm(values, 1e-6)
        elif isinstance(layer, torch.nn.Linear):
            values = values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        else:
            values = gelu(values)
    return values


def normalised(kind, target, sample):
    """A target [..., D], with statistics of the vectors `sample` [n, D]."""
    if kind == "layernorm":
        return layer_norm(target, 1e-5)
    if kind == "l2":
        return target / np.linalg.norm(target, axis=-1, keepdims=True)
    if kind == "none":
        return target
    mean = sample.mean(axis=0)
    if kind == "standardise":
        return (target - mean) / sample.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov(sample.T, bias=True))
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(len(values))])
    size = len(values)
    return (target - mean) @ (sylvester(size) / np.sqrt(size) @ vectors.T / np.sqrt(values.mean())).T


def distance(kind, beta, student, target):
    difference = np.abs(student - target)
    if kind == "mse":
        return (difference**2).mean(axis=-1)
    if kind == "smooth-l1":
        return np.where(difference < beta, difference**2 / (2 * beta), difference - beta / 2).mean(axis=-1)
    norms = np.linalg.norm(student, axis=-1) * np.linalg.norm(target, axis=-1)
    return 1 - (student * target).sum(axis=-1) / norms


def reference(loss, options, student, teacher, sample, grids):
    """Both terms [B], from student and teacher features, {"embedding": [B, D], "patches": [B, N, D]}."""
    terms = {}
    for signal, values in student.items():
        goal, own = teacher[signal], projected(loss, signal, values)
        past = sample[signal]
        if signal == "patches":
            if options.resample == "student":
                own = resampled(own, *grids)
            elif options.resample == "teacher":
                goal, past = (resampled(each, grids[1], grids[0]) for each in (goal, past))
        goal = normalised(options.normalise, goal, past.reshape(-1, past.shape[-1]))
        if options.normalise == "l2":
            own = normalised("l2", own, None)
        per_vector = distance(options.distance, options.beta, own, goal)
        weight = options.embedding_weight if signal == "embedding" else options.patch_weight
        terms[signal] = weight * per_vector.reshape(IMAGES, -1).mean(axis=1)
    return terms


def drawn(count, patches, width):
    shift = np.linspace(-2, 5, width)
    return {
        "embedding": 3 * GENERATOR.standard_normal((count, width)) + shift,
        "patches": GENERATOR.standard_normal((count, patches, width)) * np.linspace(0.5, 4, width) - shift,
    }


def outputs(values, dtype=torch.float64):
    embedding, patches = (torch.tensor(values[name], dtype=dtype) for name in ("embedding", "patches"))
    return Outputs(embedding=(embedding,), patch_tokens=(patches,))


GRIDS = {"equal": ((2, 3), (2, 3)), "blocks": ((2, 3), (4, 6)), "bilinear": ((3, 2), (4, 5))}
NORMALISATIONS = ("layernorm", "standardise", "phi-s", "l2", "none")
DISTANCES = ("smooth-l1", "cosine", "mse")
CASES = [
    *[(normalise, distance, "linear", "student", "bilinear") for normalise in NORMALISATIONS for distance in DISTANCES],
    *[("layernorm", "smooth-l1", projector, "student", "equal") for projector in ("ln-linear", "mlp2")],
    *[
        ("phi-s", "mse", "mlp2", resample, grids)
        for resample in ("student", "teacher")
        for grids in ("blocks", "bilinear")
    ],
    ("none", "smooth-l1", "linear", "none", "equal"),
]


@pytest.mark.parametrize(("normalise", "distance_kind", "projector", "resample", "grids"), CASES)
def test_values_and_gradients(normalise, distance_kind, projector, resample, grids):
    student_grid, teacher_grid = GRIDS[grids]
    options = FeatureDistillation.Options(
        normalise=normalise, distance=distance_kind, projector=projector, resample=resample, beta=0.7,
        embedding_weight=0.5, patch_weight=2.0,
    )  # fmt: skip
    torch.manual_seed(0)
    spec, teacher_spec = model("student", student_grid, 3), model("teacher", teacher_grid, 4)
    loss = FeatureDistillation.build(options, spec, teacher_spec).double()
    patches = {"student": student_grid[0] * student_grid[1], "teacher": teacher_grid[0] * teacher_grid[1]}
    sample = drawn(20, patches["teacher"], 4)
    if preparation_of(loss):
        halves = [{name: each[part] for name, each in sample.items()} for part in (slice(0, 7), slice(7, 20))]
        with torch.no_grad():
            loss.prepare(outputs(half) for half in halves)
    # A target is float32, so that the reference gets values that float32 holds exactly.
    teacher = {
        name: each.astype(np.float32).astype(float) for name, each in drawn(IMAGES, patches["teacher"], 4).items()
    }
    student = drawn(IMAGES, patches["student"], 3)
    target = {name: each.double() for name, each in loss.target(outputs(teacher)).items()}
    given = outputs(student)
    inputs = (*given.embedding, *given.patch_tokens)
    for tensor in inputs:
        tensor.requires_grad_()
    terms = loss(given, target, BATCH)
    expected = reference(loss, options, student, teacher, sample, (student_grid, teacher_grid))
    for name, term in terms.items():
        np.testing.assert_allclose(term.detach().numpy(), expected[name], rtol=2e-6, atol=1e-6)
    sum(term.sum() for term in terms.values()).backward()
    for name, tensor in zip(("embedding", "patches"), inputs, strict=True):
        for _ in range(4):
            place = tuple(GENERATOR.integers(size) for size in tensor.shape)
            values = []
            for step in (1e-5, -1e-5):
                moved = {key: each.copy() for key, each in student.items()}
                moved[name][place] += step
                found = reference(loss, options, moved, teacher, sample, (student_grid, teacher_grid))
                values.append(sum(term.sum() for term in found.values()))
            assert tensor.grad[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("source", [(2, 3), (7, 7), (4, 6)])
@pytest.mark.parametrize("goal", [(2, 3), (14, 14), (3, 5)])
def test_resampling_is_that_of_torch_and_numpy(source, goal):
    tokens = GENERATOR.standard_normal((2, source[0] * source[1], 3))
    found = resample_tokens(torch.from_numpy(tokens), source, goal)
    np.testing.assert_allclose(found, resampled(tokens, source, goal), atol=1e-12)
    maps = torch.from_numpy(tokens).transpose(1, 2).reshape(2, 3, *source)
    is_whole = all(old % new == 0 for old, new in zip(source, goal, strict=True))
    mode = {"mode": "area"} if is_whole else {"mode": "bilinear", "align_corners": False}
    torch.testing.assert_close(
        found, torch.nn.functional.interpolate(maps, size=goal, **mode).flatten(2).transpose(1, 2)
    )


def test_several_layers_are_normalised_one_by_one_and_joined():
    spec, teacher_spec = cnn("student", widths=(2, 4)), cnn("teacher", widths=(3, 5, 6))
    options = FeatureDistillation.Options(layers=(0, -1), resample="teacher", student_layer=0)
    loss = FeatureDistillation.build(options, spec, teacher_spec)
    assert loss.reads_teacher == {Read(Signal.EMBEDDING, (0, 2)), Read(Signal.PATCH_TOKENS, (0, 2))}
    assert loss.reads_student == {Read(Signal.EMBEDDING), Read(Signal.PATCH_TOKENS, (0,))}
    assert loss.targets == {
        "embedding": TargetSpec((9,), "float32", exact=False),
        "patches": TargetSpec((8, 9), "float32", exact=False),
    }
    tokens = tuple(torch.randn(IMAGES, rows * columns, width) for (rows, columns), width in (((4, 8), 3), ((1, 2), 6)))
    vectors = (torch.randn(IMAGES, 3), torch.randn(IMAGES, 6))
    target = loss.target(Outputs(embedding=vectors, patch_tokens=tokens))
    assert torch.equal(target["embedding"], torch.cat(vectors, dim=1))
    goals = [resampled(each.numpy(), grid, (2, 4)) for each, grid in zip(tokens, ((4, 8), (1, 2)), strict=True)]
    np.testing.assert_allclose(target["patches"], np.concatenate(goals, axis=-1), atol=1e-6)
    normed = loss._distance("patches", torch.zeros(IMAGES, 8, 9), target["patches"])
    both = np.concatenate([layer_norm(each, 1e-5) for each in goals], axis=-1)
    np.testing.assert_allclose(normed, distance("smooth-l1", 2.0, np.zeros_like(both), both), atol=1e-6)


def test_the_target_is_raw_so_that_one_bank_serves_every_normalisation():
    spec, teacher_spec = model("student", (2, 3), 3), model("teacher", (4, 6), 4)
    for options in (
        FeatureDistillation.Options(),
        FeatureDistillation.Options(normalise="phi-s", distance="mse", projector="mlp2"),
        FeatureDistillation.Options(resample="teacher", patch_weight=0.0),
    ):
        loss = FeatureDistillation.build(options, spec, teacher_spec)
        assert (loss.target_options, loss.target_buffers, loss.target_geometry) == (set(), set(), set())
    loss = FeatureDistillation.build(FeatureDistillation.Options(resample="teacher"), spec, teacher_spec)
    assert (loss.target_options, loss.target_geometry) == ({"student_layer"}, {"grids"})


def test_a_layer_that_does_not_exist_is_read_as_it_was_given():
    """The plan then refuses it by that number."""
    spec, teacher_spec = model("student", (2, 3), 3), model("teacher", (4, 6), 4)
    loss = FeatureDistillation.build(FeatureDistillation.Options(student_layer=-9, layers=[-1, 7]), spec, teacher_spec)
    assert loss.reads_student == {Read(Signal.EMBEDDING), Read(Signal.PATCH_TOKENS, (-9,))}
    assert loss.reads_teacher == {Read(signal, (1, 7)) for signal in (Signal.EMBEDDING, Signal.PATCH_TOKENS)}


def test_smaller_targets():
    spec, teacher_spec = model("student", (2, 3), 3), model("teacher", (4, 6), 4)
    build = FeatureDistillation.build(FeatureDistillation.Options(layers=(0, 1)), spec, teacher_spec)
    assert build.smaller_targets == ({"resample": "teacher"}, {"patch_weight": 0.0}, {"layers": [1]})
    assert (
        FeatureDistillation.build(FeatureDistillation.Options(patch_weight=0.0), spec, teacher_spec).smaller_targets
        == ()
    )


def refused(**options):
    with pytest.raises(RecipeError) as refusal:
        FeatureDistillation.build(
            FeatureDistillation.Options(**options), model("cnn", (2, 3), 3), model("dino", (4, 6), 60)
        )
    return str(refusal.value)


def test_what_cannot_be_built_is_refused_in_one_sentence():
    assert refused(resample="none") == (
        "loss 'features': teacher 'dino' has 4 x 6 patches and student 'cnn' 2 x 3, but resample = \"none\" needs "
        'equal grids; set it to "student" or "teacher", or choose image sizes that give equal grids'
    )
    assert refused(normalise="phi-s", statistics_images=59) == (
        "loss 'features': statistics_images = 59 gives fewer vectors than the 60 channels of the embedding of teacher "
        "'dino'; set it to 60 or more, or normalise = \"layernorm\", which needs no statistics"
    )
    assert refused(normalise="standardise", statistics_images=2, embedding_weight=0.0) == (
        "loss 'features': statistics_images = 2 gives fewer vectors than the 60 channels of the patch tokens of "
        "teacher 'dino'; set it to 3 or more, or normalise = \"layernorm\", which needs no statistics"
    )
    assert refused(layers=(1, -1)) == "loss 'features': layers = [1, -1] names a layer of 'dino' twice; name each once"
    with pytest.raises(RecipeError) as refusal:
        FeatureDistillation.build(
            FeatureDistillation.Options(layers=(0, 1)), model("s", (2, 3), 3), cnn("cnn", widths=(3, 4))
        )
    assert str(refusal.value) == (
        "loss 'features': layers 0, 1 of teacher 'cnn' have grids 2 x 4, 1 x 2; set resample = \"teacher\", or read "
        "layers of one grid"
    )


def test_a_constant_teacher_has_no_statistics():
    loss = FeatureDistillation.build(
        FeatureDistillation.Options(normalise="standardise", patch_weight=0.0),
        model("s", (2, 3), 3),
        model("t", (2, 3), 4),
    )
    with pytest.raises(DataError) as refusal:
        loss.prepare(iter([Outputs(embedding=(torch.ones(5, 4),))]))
    assert str(refusal.value) == (
        "loss 'features': the teacher's embedding is the same for all 5 vectors of the training images, so there are "
        'no statistics; check the weights of the teacher, or set normalise = "layernorm"'
    )


def test_options_without_a_term_are_refused():
    with pytest.raises(RecipeError, match="embedding_weight and patch_weight are both 0; set at least one above 0"):
        installed_plugins().find("loss", "features").options({"embedding_weight": 0.0, "patch_weight": 0.0})
