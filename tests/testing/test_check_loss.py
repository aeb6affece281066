"""The arguments of `check_loss`, and how it reports its findings."""

import pytest
import torch
from sound_loss import Sound

from distillkit import BrokenPluginError, RecipeError, UnknownPluginError
from distillkit.testing import PAIRS, check_loss

FIRST_PAIR = PAIRS[:1]


def test_a_sound_loss_passes_on_every_pair():
    check_loss(Sound)
    check_loss(Sound, {"power": 3.0}, backend=None)


def test_options_are_checked_before_anything_is_built():
    with pytest.raises(RecipeError) as refusal:
        check_loss(Sound, {"powr": 3.0})
    assert str(refusal.value) == f"loss {Sound.__module__}.Sound: unknown key 'powr'; did you mean 'power'?"


def test_an_unknown_name_is_an_unknown_plugin():
    with pytest.raises(UnknownPluginError) as refusal:
        check_loss("sotf")
    assert str(refusal.value).startswith("unknown loss 'sotf'; did you mean 'soft'?")


class Crashes(Sound):
    def forward(self, student, target, batch):
        raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied" + "!" * 300)


def test_an_exception_is_reported_once_on_one_line(findings):
    crash = "RuntimeError: mat1 and mat2 shapes cannot be multiplied" + "!" * (297 - 55) + "..."
    assert findings(Crashes, backend="eager") == [
        (
            f"does not run on torch's meta device, which `distillkit plan` uses: {crash}; use operations that "
            f"work there, and let neither shapes nor branches depend on tensor values"
        ),
        f"with index = None raised {crash}; set needs_index = True if the loss reads it",
        f"with labels = None raised {crash}; support this, or raise a UserError that explains why not",
        f"with rows of zeros in labels raised {crash}; support this, or raise a UserError that explains why not",
        (
            f"raised {crash}; in these checks: terms, inputs unchanged, gradients, target is sufficient, "
            f"stored target, batch of one, sample by sample, double precision, finite differences, half precision, "
            f"compiled, deterministic, state"
        ),
    ]


class DislikesCnns(Sound):
    @classmethod
    def build(cls, options, student, teacher):
        loss = cls(options, teacher.classes)
        if teacher.kind == "cnn":
            loss.weight = -1
        return loss


def test_a_finding_on_some_pairs_names_them():
    with pytest.raises(BrokenPluginError) as refusal:
        check_loss(DislikesCnns, backend=None)
    assert str(refusal.value) == (
        f"loss {DislikesCnns.__module__}.DislikesCnns breaks the contract in one way:\n"
        "  - 'weight' is -1; the contract requires a finite number of at least 0 "
        "(ViT from a CNN, CNN from a CNN)"
    )


def test_the_global_random_state_is_restored():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_loss(Sound, pairs=FIRST_PAIR, backend=None)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Put a distribution with one loss on the path; its class is `Sound`, from a module of its own."""

    def add(module: str, code: str) -> None:
        metadata = tmp_path / "badly_listed-0.3.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: badly-listed\nVersion: 0.3\n")
        (metadata / "entry_points.txt").write_text(f"[distillkit]\nloss = {module}\n")
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)

    return add


def test_the_listing_is_typeable_one_line_and_complete(register):
    register(
        "badly_named",
        f"""
from distillkit import PluginSpec
def distillkit_losses():
    return [PluginSpec(name="Sound_Loss", summary="two\\nlines", factory="{Sound.__module__}:Sound")]
""",
    )
    with pytest.raises(BrokenPluginError) as refusal:
        check_loss("Sound_Loss", pairs=FIRST_PAIR, backend=None)
    assert str(refusal.value) == (
        "loss 'Sound_Loss' of badly-listed 0.3 breaks the contract in 2 ways:\n"
        "  - the name 'Sound_Loss' is not lower-case words joined by hyphens\n"
        "  - the summary in its PluginSpec is 'two\\nlines'; it must be one line"
    )


def test_signals_that_are_read_are_listed(register):
    register(
        "hides_signals",
        f"""
from distillkit import PluginSpec
def distillkit_losses():
    return [PluginSpec(name="sound", summary="a distance", factory="{Sound.__module__}:Sound")]
""",
    )
    with pytest.raises(BrokenPluginError) as refusal:
        check_loss("sound", pairs=FIRST_PAIR, backend=None)
    assert str(refusal.value) == (
        "loss 'sound' of badly-listed 0.3 breaks the contract in one way:\n"
        "  - reads the teacher's logits, which is missing from the signals of its PluginSpec"
    )
