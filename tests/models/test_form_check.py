"""Forms of a teacher: the same function in another layout, precision or attention, compiled, and taken back."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from distillkit.contracts.model import Outputs, Signal
from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.models import ClassMap, FrozenTeacher, TimmModel
from distillkit.models.form_agreement import LIMITS, disagreement
from distillkit.models.form_check import CHECKED, FormCheck
from distillkit_export.gate.limits import DEFAULT

BF16, FP32 = torch.bfloat16, torch.float32
VIT = {"image_size": (32, 32), "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
READ = {Signal.LOGITS: (), Signal.EMBEDDING: (1, 2)}
ATTENTION = {Signal.LOGITS: (), Signal.CLS_ATTENTION: (0, 2)}


def images_of(teacher, count=4):
    return torch.randn(count, 3, *teacher.size, generator=torch.Generator().manual_seed(1))


def teacher_of(architecture, **arguments):
    torch.manual_seed(0)
    model = TimmModel.create(architecture, name="teacher", classes=5, **arguments)
    return FrozenTeacher(model, student=model.spec, size="auto", class_map=ClassMap((4, 0, 2)))


@pytest.fixture
def cnn():
    return teacher_of("resnet10t", image_size=(64, 64))


@pytest.fixture
def vit():
    return teacher_of("deit_tiny_patch16_224", **VIT)


def strides(teacher):
    return {name: tensor.stride() for name, tensor in teacher.state_dict().items()}


@pytest.mark.parametrize("precision", [FP32, BF16], ids=str)
@pytest.mark.parametrize(
    ("name", "form", "wanted"),
    [
        ("cnn", TeacherForm(channels_last=True), READ),
        ("cnn", TeacherForm(channels_last=True, half_weights=True), READ),
        ("vit", TeacherForm(written_attention=True), ATTENTION),
        ("vit", TeacherForm(half_weights=True), READ),
        ("vit", TeacherForm(written_attention=True, half_weights=True), ATTENTION),
    ],
    ids=str,
)
def test_a_form_agrees_with_the_plain_one_and_is_taken_back(request, name, form, wanted, precision):
    teacher = request.getfixturevalue(name)
    images = images_of(teacher)
    plain, before = teacher(images, wanted), {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    layout = strides(teacher)
    check = FormCheck(teacher, wanted, images)
    assert check.take(form, precision) is None
    assert (teacher.form, teacher.precision) == (form, precision)
    assert teacher(images, wanted).logits.dtype is FP32
    check.restore()
    assert (teacher.form, teacher.precision, strides(teacher)) == (PLAIN, FP32, layout)
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())
    assert torch.equal(teacher(images, wanted).logits, plain.logits)


def test_a_layout_and_a_precision_reach_the_network(cnn):
    received = []
    cnn.network.network.conv1.register_forward_pre_hook(lambda _module, inputs: received.append(inputs[0]))
    cnn.take(TeacherForm(channels_last=True, half_weights=True), BF16)
    cnn(images_of(cnn), READ)
    assert received[0].dtype is BF16
    assert received[0].is_contiguous(memory_format=torch.channels_last)
    assert {tensor.dtype for tensor in cnn.network.state_dict().values() if tensor.is_floating_point()} == {BF16}


def test_half_weights_have_no_effect_in_float32(vit):
    images = images_of(vit)
    plain = vit(images, READ).logits
    vit.take(TeacherForm(half_weights=True), FP32)
    assert torch.equal(vit(images, READ).logits, plain)


class Sensitive(nn.Module):
    """Its logits are the difference of two large numbers, which bf16 cannot represent."""

    def __init__(self, spec):
        super().__init__()
        self.spec = replace(spec, classes=3)
        self.network = nn.Conv2d(3, 3, 8)

    def forward(self, images, wanted):
        logits = self.network(images).mean(dim=(2, 3))
        return Outputs(logits=((logits + 1000) - 1000).float())


def test_a_form_that_disagrees_is_named_with_its_error(vit):
    model = Sensitive(vit.spec)
    teacher = FrozenTeacher(model, student=model.spec, size="auto", class_map=ClassMap(None))
    check = FormCheck(teacher, {Signal.LOGITS: ()}, images_of(teacher))
    fault = check.take(TeacherForm(half_weights=True), BF16)
    assert fault is not None
    assert fault.startswith("logits differ by ")
    assert fault.endswith(" of the largest value (limit 0.05)")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (0.0, None),
        (5e-5, None),
        (2e-4, "logits differ by 0.0002 of the largest value (limit 0.0001)"),
        (float("nan"), "logits differ by nan of the largest value (limit 0.0001)"),
    ],
)
def test_the_largest_error_counts(change, sentence):
    plain = torch.ones(1, 1)
    assert LIMITS[FP32].min_sqnr_db == 90
    found = disagreement(Outputs(logits=plain), Outputs(logits=plain + change), FP32)
    # 5e-5 of a single value is an SQNR of 86 dB
    expected = "logits have an SQNR of 86.0 dB (at least 90 dB required)" if change == 5e-5 else sentence
    assert found == expected


def test_the_first_images_of_a_larger_batch_are_compared():
    plain = torch.arange(1.0, 5.0).view(2, 2)
    larger = torch.cat([plain, torch.zeros(1, 2)])
    assert disagreement(Outputs(logits=plain), Outputs(logits=larger), FP32) is None
    assert disagreement(Outputs(logits=plain), Outputs(logits=larger.flip(0)), FP32) is not None


def test_of_a_batch_the_first_images_are_compared_unless_it_is_compiled(vit):
    check = FormCheck(vit, READ, images_of(vit, CHECKED + 2))
    assert check.take(TeacherForm(written_attention=True), FP32) is None
    assert len(check.seen) == CHECKED


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """torch's compiler with an empty cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()
    yield torch._inductor.config
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_form_agrees_and_other_batches_are_not_compiled(compiler, vit):
    count = CHECKED + 2  # more than are compared
    images = images_of(vit, count)
    check = FormCheck(vit, ATTENTION, images)
    assert check.take(TeacherForm(compiled=True), FP32) is None
    check.accept()
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seen, wanted in ((count, ATTENTION), (3, ATTENTION), (count, {Signal.LOGITS: ()})):
        vit(images[:seen], wanted)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled > 0
    assert set(vit.state_dict()) == {f"model.{name}" for name in vit.network.state_dict()}


@pytest.mark.slow
def test_without_a_compiler_the_form_fails_and_the_teacher_works(compiler, vit):
    images = images_of(vit)
    plain = vit(images, READ).logits
    check = FormCheck(vit, READ, images)
    with compiler.patch({"cpp.cxx": ("no-such-compiler",)}):
        fault = check.take(TeacherForm(compiled=True), FP32)
    assert fault is not None
    assert fault.startswith("fails (")
    check.restore()
    assert torch.equal(vit(images, READ).logits, plain)


class Forgetful(nn.Module):
    """Keeps a tensor that no form changes, since it is no buffer; torch logs a traceback when it traces the product."""

    def __init__(self, spec):
        super().__init__()
        self.spec = replace(spec, classes=3)
        self.network = nn.Conv2d(3, 3, 8)
        self.kept = torch.ones(1, 3, 3)

    def forward(self, images, wanted):
        maps = self.network(images).flatten(2).mean(dim=2)
        return Outputs(logits=torch.bmm(maps[None], self.kept)[0].float())


@pytest.mark.slow
def test_a_form_that_cannot_be_traced_is_named_without_a_traceback(compiler, vit, capfd):
    model = Forgetful(vit.spec)
    teacher = FrozenTeacher(model, student=model.spec, size="auto", class_map=ClassMap(None))
    check = FormCheck(teacher, {Signal.LOGITS: ()}, images_of(teacher))
    fault = check.take(TeacherForm(half_weights=True, compiled=True), BF16)
    assert fault is not None
    assert fault.startswith("fails (")
    assert capfd.readouterr() == ("", "")


def test_the_limits_are_those_of_the_export_gate():
    for name, dtype in (("fp32", FP32), ("fp16", torch.float16), ("bf16", BF16)):
        assert (LIMITS[dtype].max_relative, LIMITS[dtype].min_sqnr_db) == (
            DEFAULT[name].max_relative,
            DEFAULT[name].min_sqnr_db,
        )
