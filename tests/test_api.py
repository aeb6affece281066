"""Python API on digits: every function does what its docstring says, from the recipe to a loaded student."""

import doctest
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import distillkit
from distillkit import Recipe, RecipeError, RunDirectoryError, api
from distillkit.contracts.model import ModelRequest, Signal
from distillkit.data.splits import open_datasets
from distillkit.evaluation.measurement import EVALUATIONS
from distillkit.models import fuse, save_student
from distillkit.models.build import build_model
from distillkit.models.heads import Answer
from distillkit.plugin import extras

TINY = {
    "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
    "training": {"steps": 2, "batch_size": 64, "device": "cpu", "precision": "fp32"},
    "data": {"workers": 0},
    "trackers": ["metrics"],
}
SMALL = {key: value for key, value in TINY.items() if key != "training"}
LONGER = TINY["training"] | {"steps": 3, "ema": 0.5}  # after the first two steps, the EMA still equals the weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory, teacher_run):
    """The result of a run whose student has two trained heads."""
    out = tmp_path_factory.mktemp("api") / "run"
    return distillkit.run(out=out, teacher=teacher_run, loss="soft", training=LONGER, **SMALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_in_the_docstrings(here):
    """In the order in which a script calls them; for `resume`, one run is made to look unfinished."""
    names = {"distillkit": distillkit, "torch": torch}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for name in ("load_recipe", "plan", "run", "resume", "run_together", "evaluate", "load_student", "read_metrics"):
        (example,) = finder.find(getattr(api, name), name, globs=dict(names))
        if name == "resume":
            shutil.copytree("runs/first", "runs/stopped")
            Path("runs/stopped/result.json").unlink()
        assert example.examples, name
        assert runner.run(example).failed == 0, name


class TestRun:
    def test_the_default_is_the_next_free_directory(self, here):
        Path("runs/deit-ti-digits-ce-seed0-001").mkdir(parents=True)
        result = distillkit.run("digits", **TINY)
        assert result.directory == Path("runs/deit-ti-digits-ce-seed0-002")
        assert json.loads((result.directory / "result.json").read_text())["figures"] == result.figures

    def test_it_accepts_a_recipe_with_changes(self, here):
        recipe = distillkit.load_recipe(**TINY)
        result = distillkit.run(recipe, "out", seed=3)
        assert distillkit.load_recipe("out/recipe.toml") == recipe.model_copy(update={"seed": 3})
        assert result.steps == 2

    def test_progress_is_shown_on_request(self, here, capsys):
        distillkit.run(out="quiet", **TINY)
        assert capsys.readouterr() == ("", "")
        distillkit.run(out="shown", progress=True, **TINY)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[0] == "student deit-ti (4,564 parameters); loss 1 * labels"
        assert "\nepoch 1/1, step 2/2: validation " in err

    def test_observers_are_called(self, here):
        class Steps:
            seen = ()

            def distillkit_run_ended(self, record):
                self.seen = sorted(record)

        steps = Steps()
        result = distillkit.run(out="out", observers=[steps], **TINY)
        assert steps.seen == sorted(result.figures)

    def test_a_misspelt_name_is_an_error(self, here):
        with pytest.raises(distillkit.UnknownPluginError) as caught:
            distillkit.plan("digits", student="diet-ti")
        assert str(caught.value).startswith("unknown student 'diet-ti'; did you mean 'deit-ti'? (known: ")

    def test_without_torch_the_error_names_the_extra(self, here, monkeypatch):
        monkeypatch.setattr(extras, "find_spec", lambda module: None)
        with pytest.raises(distillkit.MissingExtraError) as caught:
            distillkit.run()
        assert (
            str(caught.value) == 'distillkit run needs torch, which is not installed; pip install "distillkit[train]"'
        )

    def test_a_finished_run_is_not_resumed(self, trained):
        with pytest.raises(RunDirectoryError) as caught:
            distillkit.resume(str(trained.directory))
        assert str(caught.value) == (
            f"{trained.directory} is finished; evaluate or export it, or start a new run with more epochs"
        )


class TestEvaluate:
    def test_the_accuracy_is_that_of_the_run_and_is_saved(self, trained):
        result = distillkit.evaluate(trained.directory)
        assert result.figures["top1"] == trained.figures["test/top1"]
        last = (trained.directory / EVALUATIONS).read_text().splitlines()[-1]
        assert json.loads(last) == json.loads(json.dumps(result.as_dict()))

    def test_it_accepts_the_options_of_the_protocol(self, trained):
        result = distillkit.evaluate(trained.directory, "knn", split="validation", k=[5])
        assert result.measurement.settings["k"] == (5,)
        with pytest.raises(RecipeError) as caught:
            distillkit.evaluate(trained.directory, "knn", k=[0])
        assert str(caught.value) == "evaluator 'knn': 'k.0' is 0; it should be greater than 0"

    def test_a_checkpoint_of_an_unfinished_run(self, trained, tmp_path):
        run = tmp_path / "unfinished"
        shutil.copytree(trained.directory / "checkpoints", run / "checkpoints")
        for name in ("recipe.toml", "plan.json"):
            shutil.copy(trained.directory / name, run)
        assert distillkit.evaluate(run, checkpoint=3).figures["top1"] == trained.figures["test/top1"]
        with pytest.raises(RunDirectoryError) as caught:
            distillkit.evaluate(run, checkpoint="best")
        assert str(caught.value) == f"run '{run}' has no student 'best'; --checkpoint can be: 3"

    def test_an_unknown_split_is_an_error(self, trained):
        with pytest.raises(distillkit.UserError) as caught:
            distillkit.evaluate(trained.directory, split="tst")
        assert str(caught.value) == "unknown split 'tst'; did you mean 'test'? (known: test, train, validation)"


class TestLoadedStudent:
    def test_its_accuracy_is_that_of_the_run(self, trained, plugins):
        """The test images are preprocessed one by one, as in a script."""
        student = distillkit.load_student(trained.directory)
        source = open_datasets(distillkit.load_recipe(trained.directory / "recipe.toml").data, plugins).test
        indices = range(len(source))
        images = torch.stack([student.preprocess(source.image(index)) for index in indices])
        with torch.no_grad():
            predictions = student(images).argmax(dim=-1).tolist()
        assert not student.training
        correct = sum(predictions[index] == source.label(index) for index in indices)
        assert 100 * correct / len(indices) == pytest.approx(trained.figures["test/top1"])

    @pytest.mark.parametrize("fusion", ["logits", "softmax"])
    def test_its_heads_are_fused_as_in_student_json(self, trained, tmp_path, fusion):
        for name in ("student.json", "student.safetensors"):
            shutil.copy(trained.directory / name, tmp_path / name)
        saved = json.loads((tmp_path / "student.json").read_text())
        (tmp_path / "student.json").write_text(json.dumps(saved | {"fusion": fusion}))
        student = distillkit.load_student(tmp_path)
        images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        both = student.model(images, {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()})
        assert torch.equal(student(images), fuse(both, "fused", fusion))

    def test_its_spec_has_the_preprocessing(self, trained):
        spec = distillkit.load_student(trained.directory).spec
        assert (spec.image_size, spec.classes, spec.class_names) == ((8, 8), 10, tuple("0123456789"))
        assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert (spec.crop, spec.interpolation) == (1.0, "bicubic")

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
    def test_it_preprocesses_an_image_of_any_mode(self, trained, mode):
        student = distillkit.load_student(trained.directory)
        assert student.preprocess(Image.new(mode, (50, 70))).shape == (3, 8, 8)

    @pytest.mark.parametrize("orientation", ["exif", "stored"])
    def test_it_turns_images_as_its_run_did(self, trained, tmp_path, orientation):
        run = tmp_path / "run"
        shutil.copytree(trained.directory, run)
        recipe = (run / "recipe.toml").read_text()
        (run / "recipe.toml").write_text(recipe.replace('orientation = "exif"', f'orientation = "{orientation}"'))
        student = distillkit.load_student(run)
        exif = Image.Exif()
        exif[0x0112] = 3  # by 180 degrees
        image = Image.linear_gradient("L").convert("RGB")
        image.info["exif"] = exif.tobytes()
        plain = Image.fromarray(np.asarray(image)[::-1, ::-1] if orientation == "exif" else np.asarray(image))
        assert student.spec.orientation == orientation
        assert torch.equal(student.preprocess(image), student.preprocess(plain))

    def test_an_image_with_more_than_eight_bits_is_refused(self, trained):
        student = distillkit.load_student(trained.directory)
        with pytest.raises(distillkit.DataError) as error:
            student.preprocess(Image.new("F", (8, 8)))
        assert str(error.value) == (
            "the image cannot be used: pixels of mode 'F' would be clipped to 8 bits; convert it to 8 bits"
        )

    def test_an_image_that_would_fill_the_memory_is_refused(self, trained, tmp_path):
        student = distillkit.load_student(trained.directory)
        image = Image.new("RGB", (60_000, 1))
        image.save(tmp_path / "a.png")
        for given in (image, tmp_path / "a.png", np.asarray(image)):
            with pytest.raises(distillkit.DataError) as error:
                student.preprocess(given)
            assert str(error.value) == (
                "the image cannot be used: its aspect ratio is too extreme to resize "
                "(60,000 x 1 pixels; at most 1:1,000)"
            )

    def test_paths_and_arrays_are_preprocessed_as_the_pil_image_is(self, trained, tmp_path):
        student = distillkit.load_student(trained.directory)
        image = Image.linear_gradient("L").resize((50, 70)).convert("RGB")
        image.save(tmp_path / "a.png")
        for given in (tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(image)):
            assert torch.equal(student.preprocess(given), student.preprocess(image))
        with pytest.raises(distillkit.DataError) as error:
            student.preprocess(tmp_path / "none.png")
        assert str(error.value) == f"image '{tmp_path}/none.png' does not exist"

    def test_its_state_dict_has_every_tensor_once(self, trained):
        student = distillkit.load_student(trained.directory)
        assert len(student.state_dict()) == len(student.network.state_dict())

    def test_best_and_ema_are_students_too(self, trained):
        images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        logits = [distillkit.load_student(trained.directory / name)(images) for name in ("", "best", "ema")]
        assert [each.shape for each in logits] == [(1, 10)] * 3
        assert not torch.equal(logits[0], logits[2])

    def test_a_student_without_classes_returns_its_embedding(self, tmp_path, plugins):
        plugin = plugins.find("student", "vit-ti")
        options = plugin.options({"image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2})
        request = ModelRequest("vit-ti", None, options, classes=10)
        model = build_model(plugin, request)
        save_student(tmp_path, model, request, Answer("class", "logits", ("class",)))
        embedding = distillkit.load_student(tmp_path)(torch.zeros(2, 3, 8, 8))
        expected = model.eval()(torch.zeros(2, 3, 8, 8), {Signal.EMBEDDING: (0,)}).embedding[0]
        assert embedding.shape == (2, 16)
        assert torch.equal(embedding, expected)

    def test_a_directory_without_a_student_is_refused(self, tmp_path):
        with pytest.raises(RunDirectoryError) as caught:
            distillkit.load_student(tmp_path / "gone")
        assert str(caught.value) == f"there is no run directory '{tmp_path / 'gone'}'; check the path"


class TestReadMetrics:
    def test_rows_are_in_order(self, trained):
        rows = distillkit.read_metrics(trained.directory)
        assert [row["kind"] for row in rows] == ["steps", "steps", "epoch", "end"]
        assert [row.get("step") for row in rows] == [1.0, 3.0, 3.0, None]
        assert rows[-1]["test/top1"] == trained.figures["test/top1"]

    def test_a_data_frame_has_a_column_for_every_name(self, trained):
        pytest.importorskip("pandas")
        rows, frame = (distillkit.read_metrics(trained.directory, as_frame=choice) for choice in (False, True))
        assert set(frame.columns) == {name for row in rows for name in row}
        assert frame["step"].tolist()[:3] == [1.0, 3.0, 3.0]
        assert np.isnan(frame["step"].tolist()[3])

    def test_without_pandas_the_error_names_the_extra(self, trained, monkeypatch):
        monkeypatch.setattr(extras, "find_spec", lambda module: None)
        with pytest.raises(distillkit.MissingExtraError) as caught:
            distillkit.read_metrics(trained.directory, as_frame=True)
        assert str(caught.value) == (
            'read_metrics(as_frame=True) needs pandas, which is not installed; pip install "distillkit[pandas]"'
        )

    def test_a_missing_directory_is_refused(self, tmp_path):
        with pytest.raises(RunDirectoryError) as caught:
            distillkit.read_metrics(tmp_path / "gone")
        assert str(caught.value) == f"there is no run directory '{tmp_path / 'gone'}'; check the path"

    def test_a_run_without_metrics_has_no_rows(self, tmp_path):
        assert distillkit.read_metrics(tmp_path) == []


def test_load_recipe_returns_a_frozen_value():
    recipe = distillkit.load_recipe()
    assert recipe == Recipe.model_validate(recipe.model_dump())
    assert recipe == distillkit.load_recipe("digits")
    assert recipe != distillkit.load_recipe("digits", seed=1)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1
