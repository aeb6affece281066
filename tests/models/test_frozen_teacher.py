from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distillkit.contracts.model import ModelSpec, Outputs, Signal
from distillkit.errors import RecipeError
from distillkit.models import ClassMap, FrozenTeacher, TimmModel
from distillkit.models.teacher_size import sizes_to_compare, spec_at, teacher_size

LOGITS = {Signal.LOGITS: ()}
STUDENT = ModelSpec(
    name="student",
    architecture="x",
    kind="vit",
    classes=5,
    signals=frozenset({Signal.LOGITS}),
    image_size=(16, 16),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.5),
)
TEACHER = replace(STUDENT, name="teacher", mean=(0.5, 0.5, 0.5), std=(0.5, 0.4, 0.3), flexible_size=True)


class Recorder(nn.Module):
    """Records its input; its logits are a linear map of the channel means, and two constants."""

    def __init__(self, spec=TEACHER):
        super().__init__()
        self.spec = spec
        self.network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.linear = nn.Linear(3, 3)

    def forward(self, images, wanted):
        self.received = images
        self.wanted = wanted
        logits = self.linear(self.network(images).mean(dim=(2, 3)))
        self.precision = logits.dtype
        constants = logits.new_tensor([[7.0, 8.0]]).expand(len(images), 2)
        return Outputs(logits=torch.cat([logits, constants], dim=1).float())


def frozen(model=None, **changes):
    options = {"student": STUDENT, "size": "auto", "class_map": ClassMap(None), "precision": torch.float32}
    return FrozenTeacher(model or Recorder(), **{**options, **changes})


def pixels(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def normalised(values, spec):
    mean, std = (torch.tensor(each, dtype=values.dtype).view(1, 3, 1, 1) for each in (spec.mean, spec.std))
    return (values - mean) / std


def test_receives_the_students_images_in_its_own_normalisation():
    values = pixels(2, 3, 16, 16)
    teacher = frozen()
    teacher(normalised(values, STUDENT), LOGITS)
    torch.testing.assert_close(teacher.model.received, normalised(values, TEACHER), rtol=1e-6, atol=1e-6)


def test_one_pixel_by_hand():
    # The student's 1.0 in the first channel is the pixel 1.0 * 0.2 + 0.4 = 0.6; the teacher's is (0.6 - 0.5) / 0.5.
    teacher = frozen()
    teacher(torch.ones(1, 3, 16, 16), LOGITS)
    expected = [(1 * 0.2 + 0.4 - 0.5) / 0.5, (1 * 0.25 + 0.5 - 0.5) / 0.4, (1 * 0.5 + 0.6 - 0.5) / 0.3]
    torch.testing.assert_close(teacher.model.received[0, :, 3, 5], torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("given", "seen"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_images_are_prepared_in_at_least_float32(given, seen):
    teacher = frozen()
    teacher.model.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert teacher.see(torch.ones(1, 3, 16, 16, dtype=given)).dtype is seen


@pytest.mark.parametrize(
    ("option", "size"), [("auto", (24, 32)), ("student", (16, 16)), ("native", (24, 32)), (20, (20, 20))]
)
def test_image_size_of_the_teacher(option, size):
    teacher = frozen(Recorder(replace(TEACHER, image_size=(24, 32))), size=option)
    teacher(torch.zeros(1, 3, 16, 16), LOGITS)
    assert teacher.spec.image_size == size
    assert tuple(teacher.model.received.shape) == (1, 3, *size)


@pytest.mark.parametrize("flexible", [True, False])
@pytest.mark.parametrize("student", [(224, 224), (112, 112), (448, 448), (160, 100), (32, 32)])
def test_auto_is_the_native_size(student, flexible):
    teacher = replace(TEACHER, image_size=(224, 224), flexible_size=flexible)
    assert teacher_size(teacher, replace(STUDENT, image_size=student), "auto") == (224, 224)


@pytest.mark.parametrize(
    ("native", "student", "flexible", "seen", "sizes"),
    [
        ((224, 224), (224, 224), True, (224, 224), [(224, 224)]),
        ((224, 224), (112, 112), True, (224, 224), [(224, 224), (112, 112)]),
        ((224, 224), (111, 111), True, (224, 224), [(224, 224)]),
        ((224, 224), (448, 448), True, (448, 448), [(448, 448), (224, 224)]),
        ((224, 224), (449, 448), True, (224, 224), [(224, 224)]),
        ((224, 224), (160, 160), False, (224, 224), [(224, 224)]),
        ((224, 224), (160, 160), True, (192, 192), [(192, 192), (224, 224), (160, 160)]),
    ],
)
def test_a_teacher_is_compared_at_its_own_size_and_the_students_if_that_is_near(native, student, flexible, seen, sizes):
    teacher = replace(TEACHER, image_size=native, flexible_size=flexible)
    assert sizes_to_compare(teacher, replace(STUDENT, image_size=student), seen) == tuple(sizes)


def test_another_size_for_a_while():
    teacher = FrozenTeacher(Recorder(), student=STUDENT, size="native", class_map=ClassMap())
    with teacher.at_size((24, 20)):
        teacher(torch.zeros(1, 3, 16, 16), LOGITS)
        assert teacher.model.received.shape == (1, 3, 24, 20)
    teacher(torch.zeros(1, 3, 16, 16), LOGITS)
    assert teacher.model.received.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("option", ["student", 160])
def test_teacher_of_fixed_size_accepts_no_other_size(option):
    teacher = replace(TEACHER, image_size=(224, 224), flexible_size=False)
    with pytest.raises(RecipeError) as error:
        teacher_size(teacher, replace(STUDENT, image_size=(160, 160)), option)
    assert str(error.value) == (
        "teacher 'teacher' accepts only images of 224x224 pixels and teacher.size is 160x160; "
        'set teacher.size = "native"'
    )
    assert teacher_size(teacher, replace(STUDENT, image_size=(224, 224)), "student") == (224, 224)
    assert teacher_size(teacher, STUDENT, 224) == (224, 224)


def test_size_that_the_network_itself_refuses():
    teacher = TimmModel.describe("dla46_c", name="dla")
    seen = (224, 224)
    assert sizes_to_compare(teacher, replace(STUDENT, image_size=(160, 160)), seen) == (seen, (160, 160))
    assert sizes_to_compare(teacher, replace(STUDENT, image_size=(150, 150)), seen) == (seen,)
    with pytest.raises(RecipeError) as error:
        teacher_size(teacher, STUDENT, 150)
    assert str(error.value).startswith("'dla' does not accept images of 150x150 pixels: ")


@pytest.mark.parametrize("architecture", ["resnet10t", "ese_vovnet19b_dw", "convnext_atto"])
def test_spec_at_another_size_has_the_networks_grids(architecture):
    model = TimmModel.create(architecture, name="cnn", classes=5)
    spec = spec_at(model.spec, (100, 116))
    layers = tuple(range(spec.layers))
    with torch.no_grad():
        outputs = model.eval()(torch.zeros(1, 3, 100, 116), {Signal.PATCH_TOKENS: layers})
    assert [each.shape[1] for each in outputs.patch_tokens] == [rows * columns for rows, columns in spec.grids]
    assert replace(spec, image_size=model.spec.image_size, grids=model.spec.grids) == model.spec


def test_grids_of_networks_outside_timm_round_up():
    spec = replace(TEACHER, image_size=(32, 32), grids=((32, 32), (16, 16), (8, 8)))
    assert spec_at(spec, (9, 30)).grids == ((9, 30), (5, 15), (3, 8))
    assert spec_at(spec, (32, 32)) is spec


@pytest.mark.parametrize(("given", "seen"), [((48, 40), (16, 20)), ((16, 20), (48, 40))])
def test_resizing_agrees_with_pillow(given, seen):
    # Pillow's bicubic has the coefficient -0.5 and antialiases; torch's has -0.5 with antialias and -0.75 without, so
    # that enlarging differs slightly.
    teacher = frozen(Recorder(replace(STUDENT, image_size=seen, flexible_size=True)), size="native")
    values = pixels(1, 3, *given)
    resized = teacher.see(values)[0]
    for channel in range(3):
        expected = Image.fromarray(values[0, channel].numpy()).resize(seen[::-1], Image.Resampling.BICUBIC)
        tolerance = 1e-5 if seen < given else 0.15
        np.testing.assert_allclose(resized[channel].numpy(), np.asarray(expected), atol=tolerance)


def test_stays_in_evaluation_mode_and_no_statistic_changes():
    teacher = frozen()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    assert teacher.train() is teacher
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    images = pixels(4, 3, 16, 16)
    one, two = (teacher(images, LOGITS).logits for _ in range(2))
    assert torch.equal(one, two), "dropout is off"
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_no_gradient_is_recorded():
    teacher = frozen()
    images = pixels(2, 3, 16, 16).requires_grad_()
    logits = teacher(images, LOGITS).logits
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not logits.requires_grad
    assert not logits.is_inference(), "autograd cannot save inference tensors for the backward"


def test_runs_in_the_given_precision():
    images = pixels(2, 3, 16, 16)
    teacher = frozen(precision=torch.bfloat16)
    assert teacher(images, LOGITS).logits.dtype is torch.float32
    assert teacher.model.precision is torch.bfloat16
    exact = frozen()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact(images, LOGITS)
    assert exact.model.precision is torch.float32


def test_logits_are_mapped_to_the_classes_of_the_data():
    names = ("ant", "bee", "cat", "dog", "emu")
    model = Recorder(replace(TEACHER, class_names=names))
    teacher = frozen(model, class_map=ClassMap((4, 3, 0)))
    images = pixels(2, 3, 16, 16)
    logits = teacher(images, LOGITS).logits
    assert (teacher.spec.classes, teacher.spec.class_names) == (3, ("emu", "dog", "ant"))
    assert logits[:, :2].tolist() == [[8.0, 7.0], [8.0, 7.0]]
    assert torch.equal(logits[:, 2], frozen(model)(images, LOGITS).logits[:, 0])


def test_wanted_signals_are_passed_to_the_model():
    teacher = frozen(class_map=ClassMap((0,)))
    wanted = {Signal.LOGITS: (), Signal.EMBEDDING: (0,)}
    teacher(pixels(1, 3, 16, 16), wanted)
    assert teacher.model.wanted is wanted


def test_adds_nothing_to_the_models_state_dict():
    assert set(frozen().state_dict()) == {f"model.{name}" for name in Recorder().state_dict()}


def test_compiles_into_one_graph():
    model = TimmModel.create("deit_tiny_patch16_224", name="vit", image_size=(32, 32), patch_size=8, depth=1)
    teacher = frozen(model, class_map=ClassMap((5, 7)))
    images = pixels(2, 3, 16, 16)
    compiled = torch.compile(teacher, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images, LOGITS).logits, teacher(images, LOGITS).logits)
