"""Comparisons of a real run and copies of it with known figures."""

import json
import shutil
from html.parser import HTMLParser

import pytest

import distillkit
from distillkit.errors import DataError, RunDirectoryError, UserError

SOFT = {"losses": [{"loss": "soft", "name": "soft"}]}


@pytest.fixture
def arms(copy_run):
    """Learning rate 1e-3 with seeds 0 to 2, and 2e-3 with seeds 1 to 3."""
    one = [(0, 80.0), (1, 82.0), (2, 84.0)]
    two = [(1, 83.0), (2, 87.0), (3, 91.0)]
    return [
        *(copy_run(f"one-{seed}", {"seed": seed, "optimizer.lr": 1e-3}, {"test/top1": top1}) for seed, top1 in one),
        *(copy_run(f"two-{seed}", {"seed": seed, "optimizer.lr": 2e-3}, {"test/top1": top1}) for seed, top1 in two),
    ]


def test_repetitions_spread_and_paired_differences(arms):
    found = distillkit.compare(arms)
    one, two = found.arms
    assert [arm.name for arm in found.arms] == ["lr=0.001", "lr=0.002"]
    assert [len(arm.runs) for arm in found.arms] == [3, 3]
    assert one.settings == {"optimizer.lr": 1e-3}
    assert found.main_figure == "test/top1"
    # Means 82 and 87, deviations 2 and 4; seeds 1 and 2 are in both: 1 and 3, mean 2, deviation sqrt(2).
    assert one.figures["test/top1"].as_dict() == {"mean": 82.0, "standard_deviation": 2.0, "n": 3}
    assert two.figures["test/top1"].as_dict() == {"mean": 87.0, "standard_deviation": 4.0, "n": 3}
    assert found.difference(two, "test/top1").as_dict() == {
        "mean": 2.0,
        "standard_deviation": pytest.approx(2**0.5),
        "n": 2,
        "paired": True,
    }
    assert found.notes == (
        "the arms have different seeds; differences are taken over the seeds that an arm shares with the baseline",
    )


@pytest.mark.parametrize("baseline", ["lr=0.002", "two-3"])
def test_another_baseline_by_arm_or_run(arms, tmp_path, monkeypatch, baseline):
    monkeypatch.chdir(tmp_path)
    found = distillkit.compare(arms, baseline=baseline)
    assert found.baseline.name == "lr=0.002"
    assert found.difference(found.arms[0], "test/top1").of_pairs.mean == -2.0


def test_arms_without_a_common_seed(arms):
    found = distillkit.compare([arms[0], arms[5]])
    assert found.difference(found.arms[1], "test/top1").as_dict() == {
        "mean": 11.0,
        "standard_deviation": None,
        "n": 0,
        "paired": False,
    }
    assert found.notes == ("a difference marked u is not paired: the arm shares no seed with the baseline",)


def test_options_of_a_loss_that_a_recipe_states_are_listed(copy_run):
    plain = copy_run("plain", {"seed": 0})
    planned = [{"name": "soft", "weight": 0.5, "options": {"tau": 2.0, "reduction": "batchmean"}}]
    stated = copy_run("stated", {"losses": [{"loss": "soft", "tau": 2.0}]}, plan={"losses": planned})
    found = distillkit.compare([plain, stated])
    assert [arm.settings for arm in found.arms] == [{"loss": "ce"}, {"loss": "soft", "loss.tau": 2.0}]


def test_times_of_one_pass_are_marked(copy_run):
    alone, together = copy_run("alone", {"seed": 0}), copy_run("together", {"seed": 1}, result={"runs_in_pass": 3})
    assert distillkit.compare([alone, together]).notes == (
        "all recipes are the same except for their seeds, so there is one arm",
        (
            "times and images/s of runs that were trained in one pass with others are those of the whole pass, and not "
            "what a run costs alone"
        ),
    )


def test_a_folder_with_unfinished_failed_and_damaged_runs(copy_run, tmp_path):
    copy_run("a")
    (copy_run("b") / "result.json").unlink()
    failed = copy_run("c")
    (failed / "result.json").unlink()
    with (failed / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "failed", "error": "TrainingError", "message": "the loss is\\nnot finite"}\n')
    (copy_run("d") / "plan.json").write_text("{")
    (copy_run("e") / "recipe.toml").write_text("x = ")
    found = distillkit.compare(tmp_path, left_out={"arm 7": "pruned after 20 steps"})
    assert [run.path.name for run in found.runs] == ["a"]
    reasons = {
        name.rpartition("/")[2]: reason for name, reason in ((each.name, each.reason) for each in found.left_out)
    }
    resume = "continue it with distillkit run --resume"
    assert reasons == {
        "b": f"it is not finished, last logged step 6; let it end, or {resume} {tmp_path}/b",
        "c": f"it failed: the loss is not finite; {resume} {tmp_path}/c",
        "d": "plan.json is missing or damaged; restore it or run the training again",
        "e": f"recipe '{tmp_path}/e/recipe.toml' is not valid TOML: invalid value (at end of document)",
        "arm 7": "pruned after 20 steps",
    }


def test_no_finished_run(copy_run, tmp_path):
    (copy_run("a") / "result.json").unlink()
    with pytest.raises(RunDirectoryError) as caught:
        distillkit.compare(tmp_path)
    assert str(caught.value) == (
        f"there is no finished run to compare\n  {tmp_path}/a: it is not finished, last logged step 6; let it end, or "
        f"continue it with distillkit run --resume {tmp_path}/a"
    )


def test_a_run_of_the_same_recipe_and_seed_is_no_repetition(copy_run):
    found = distillkit.compare([copy_run("a"), copy_run("b"), copy_run("c", {"seed": 1})])
    assert [run.path.name for run in found.runs] == ["b", "c"]
    assert [(each.name, each.reason) for each in found.left_out] == [
        (str(copy_run("x").with_name("a")), f"it has the recipe and seed 0 of '{found.runs[0].name}'")
    ]


def test_one_run_is_shown(real_run):
    found = distillkit.compare(real_run)
    assert [arm.name for arm in found.arms] == ["all runs"]
    assert found.notes == (
        "this is one run, so there is nothing to compare it with; give more runs, or a folder that holds them",
    )


def test_the_same_images_in_another_folder_are_the_same_recipe(copy_run, write_pictures, tmp_path):
    write_pictures(tmp_path / "one", {"cat": 2})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    runs = [
        copy_run(name, {"seed": number, "data.train": str(tmp_path / name)})
        for number, name in enumerate(("one-run", "two-run"))
    ]
    for run, name in zip(runs, ("one", "two"), strict=True):
        text = (run / "recipe.toml").read_text()
        (run / "recipe.toml").write_text(text.replace(f"{name}-run", name))
    assert len(distillkit.compare(runs).arms) == 1


SAME = {"data": {"fingerprints": {"validation": "v", "test": "t"}}}


def other_images(split, digest="0"):
    return {"data": {"fingerprints": SAME["data"]["fingerprints"] | {split: digest}}}


def test_runs_of_other_test_images_are_refused(copy_run):
    runs = [
        copy_run("a", plan=SAME),
        copy_run("b", {"data.test": "other/test"}, {"test/images": 70.0}, plan=other_images("test")),
    ]
    with pytest.raises(DataError) as caught:
        distillkit.compare(runs)
    assert str(caught.value) == (
        f"'{runs[0]}' and '{runs[1]}' were measured on different test images (500 images of 'digits'; 70 images of "
        "'other/test'); compare runs of the same data"
    )


def test_runs_of_other_classes_are_refused(copy_run):
    runs = [copy_run("a"), copy_run("b", plan={"class_names": ["cat", "dog"]})]
    with pytest.raises(DataError) as caught:
        distillkit.compare(runs)
    assert str(caught.value) == (
        f"'{runs[0]}' and '{runs[1]}' have different classes (10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; 2: cat, dog); compare "
        "runs of the same data"
    )


def test_figures_of_other_validation_images_are_left_out(copy_run):
    runs = [copy_run("a", plan=SAME), copy_run("b", {"seed": 1, "data.seed": 1}, plan=other_images("validation"))]
    found = distillkit.compare(runs)
    assert found.splits == ("test",)
    assert not [name for name in found.figure_names() if name.startswith(("validation/", "best/"))]
    assert found.notes[0] == (
        f"validation figures are left out: '{runs[0]}' and '{runs[1]}' were measured on different validation images"
    )
    assert "Validation accuracy" not in found.html()


def test_plans_of_earlier_versions_have_no_fingerprints(copy_run):
    old = copy_run("a")
    plan = json.loads((old / "plan.json").read_text())
    del plan["data"]["fingerprints"]
    (old / "plan.json").write_text(json.dumps(plan))
    assert distillkit.compare([old, copy_run("b", {"seed": 1})]).splits == ("test", "validation")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"baseline": "lr=0.003"},
            "--baseline: unknown arm or run 'lr=0.003'; did you mean 'lr=0.002'? (known: lr=0.001, lr=0.002)",
        ),
        ({"images": 0}, "--images is 0; give a number from 1 to 100, or leave it out"),
        ({"images": 101}, "--images is 101; give a number from 1 to 100, or leave it out"),
    ],
)
def test_bad_options(arms, options, message):
    with pytest.raises(UserError) as caught:
        distillkit.compare(arms, **options)
    assert str(caught.value) == message


def test_written_files_agree(arms, tmp_path):
    found = distillkit.compare(arms)
    paths = found.write(tmp_path / "new" / "out")
    assert [path.name for path in paths] == ["comparison.json", "comparison.md", "comparison.html"]
    content = json.loads(paths[0].read_text())
    assert content == json.loads(json.dumps(found.as_dict()))
    assert [arm["figures"]["test/top1"]["mean"] for arm in content["arms"]] == [82.0, 87.0]
    assert content["arms"][0]["runs"][2]["seed"] == 2
    for path in paths[1:]:
        assert "82.00 ± 2.00" in path.read_text()
        assert "+2.00 ± 1.41" in path.read_text()


def test_hostile_names_stay_text(copy_run):
    name = "<script>alert(1)</script>"
    classes = {"class_names": ["<img src=x onerror=alert(1)>", *map(str, range(9))]}
    runs = [copy_run("a", {"optimizer.name": name}, plan=classes), copy_run("b&<b>", plan=classes)]
    line = {"protocol": "top1", "data": "digits", "split": "test", "checkpoint": "last", "figures": {}}
    for run in runs:
        rows = [{"class": each, "images": 50, "top1": 50.0} for each in classes["class_names"]]
        (run / "evaluations.jsonl").write_text(json.dumps(line | {"rows": rows}) + "\n")
    found = distillkit.compare(runs)
    html = found.html()
    tags = set()
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: tags.add(tag)
    reader.feed(html)
    assert {"table", "svg"} <= tags
    assert not tags & {"script", "img"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "b&amp;&lt;b&gt;" in html
    assert "<script" not in found.markdown()


def test_accuracy_per_class_comes_from_evaluations(copy_run):
    runs = [copy_run("a"), copy_run("b", {"seed": 1}), copy_run("c", {"optimizer.lr": 0.5})]
    for run, top1 in zip(runs, (50.0, 60.0, 65.0), strict=True):
        line = {"protocol": "top1", "data": "digits", "split": "test", "checkpoint": "last", "figures": {"top1": top1}}
        old, new = ({"rows": [{"class": "0", "images": 50, "top1": value}]} for value in (1.0, top1))
        (run / "evaluations.jsonl").write_text("".join(f"{json.dumps(line | rows)}\n" for rows in (old, new)) + "{")
    found = distillkit.compare(runs).per_class
    assert found.as_dict() == {
        "split": "test",
        "accuracy": {
            "0": {
                "lr=0.001": {"mean": 55.0, "standard_deviation": pytest.approx(50**0.5), "n": 2},
                "lr=0.5": {"mean": 65.0, "standard_deviation": None, "n": 1},
            }
        },
    }
    (runs[2] / "evaluations.jsonl").unlink()
    assert distillkit.compare(runs).per_class is None
