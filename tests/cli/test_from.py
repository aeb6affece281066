"""`--from RUN` on the command line."""

import json
import shutil

import pytest

TINY = [
    *("--student", "vit-ti", "--loss", "ce", "--device", "cpu"),
    *("--set", "student.image_size=8", "--set", "student.patch=4", "--set", "student.width=16"),
    *("--set", "student.depth=1", "--set", "student.heads=2", "--set", "data.workers=0"),
    *("--set", "training.steps=1", "--set", "training.threads=1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from distillkit_cli.main import command_line

    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert command_line(["--quiet", "run", *TINY, "--out", str(out)]) == 0
    return out


def test_plan_matches_the_plan_of_the_run(distillkit, trained, tmp_path):
    options_from = ("--from", str(trained), "--set", "student.image_size=16")
    planned = json.loads(distillkit("plan", *options_from, "--json").out)
    assert planned["student"]["starts_from"] == str(trained)
    assert "the position embedding was resized from 2x2 to 4x4 patches" in planned["notes"]
    assert distillkit("run", *options_from, "--out", str(tmp_path / "out")).code == 0
    written = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert {name: written[name] for name in planned} == planned


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--student-weights", "a.pth"],
            (
                "error: --from {run} and student.weights (--student-weights) both set the initial weights of the "
                "student; leave one of them out\n"
            ),
        ),
        (
            ["--resume", "elsewhere"],
            (
                "error: invalid value for --resume: a run continues with its own recipe; leave out --from (see "
                "distillkit run --help)\n"
            ),
        ),
        (
            ["--student", "vit-s", "--set", "student.width=32"],
            (
                "error: {run} does not fit 'vit-s' (deit_small_patch16_224): 18 of 20 tensors have another shape "
                "(cls_token [1, 1, 16] instead of [1, 1, 32], pos_embed [1, 5, 16] instead of [1, 5, 32], "
                "patch_embed.proj.weight [16, 3, 4, 4] instead of [32, 3, 4, 4], ...); give weights of exactly this "
                "architecture\n"
            ),
        ),
    ],
)
def test_conflicting_options_write_nothing(distillkit, trained, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    assert distillkit("run", "--from", str(trained), *options) == (2, "", sentence.format(run=trained))
    assert list(tmp_path.iterdir()) == []


def test_run_whose_plugin_no_longer_knows_a_key_or_is_missing(distillkit, trained, tmp_path):
    changed = shutil.copytree(trained, tmp_path / "changed")
    recipe = changed / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("heads = 2", "windows = 2"))
    assert distillkit("plan", "--from", str(changed)) == (
        2,
        "",
        "error: student 'vit-ti': unknown key 'windows'; did you mean 'width'?\n",
    )
    recipe.write_text(recipe.read_text().replace('"vit-ti"', '"gone"'))
    assert distillkit("plan", "--from", str(changed)) == (
        2,
        "",
        (
            "error: unknown student 'gone'; known: deit-b, deit-s, deit-ti, module:<given from Python>, small-cnn, "
            "timm:<any classifier>, torchvision:<any classifier>, vit-b, vit-s, vit-ti; for a timm model write "
            "timm:gone\n"
        ),
    )
