"""`distillkit sweep`: what is refused before anything starts, and the commands of --list. No run is started here."""

from importlib.util import find_spec as real_find_spec

import pytest

from distillkit.plugin import extras


@pytest.fixture
def refused(distillkit, tiny, tmp_path, monkeypatch):
    """The error of `distillkit sweep` in an empty folder, which stays as it is."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        result = distillkit("sweep", *tiny, "--out", "sweep", *arguments)
        assert (result.code, result.out) == (2, "")
        assert sorted(tmp_path.rglob("*")) == before
        return result.err

    return run


def test_a_sweep_needs_a_folder(distillkit):
    result = distillkit("sweep", "--grid", "seed=0,1")
    assert (result.code, result.err) == (2, "error: a sweep needs --out DIR, the folder of its run directories\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            (
                "a sweep needs --grid or --search, or a recipe with a table [sweep]; write KEY=VALUE,VALUE, such as "
                "seed=0,1,2"
            ),
        ),
        (("--grid", "seed="), "--grid seed= has no values; write KEY=VALUE,VALUE, such as seed=0,1,2"),
        (
            ("--grid", "lss=hard"),
            (
                "--grid: unknown key 'lss'; did you mean 'loss'? (known: loss, losses, labels, loss_options, "
                "teacher_classes, ... 28 in all)"
            ),
        ),
        (
            ("--grid", "optimzer.lr=1,2"),
            (
                "--grid: unknown key 'optimzer'; did you mean 'optimizer'? (known: optimizer, teacher, loss_options, "
                "trackers, teachers, ... 28 in all)"
            ),
        ),
        (
            ("--grid", "optimizer.lrr=1,2"),
            "arm optimizer.lrr=1: unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?",
        ),
        (("--grid", "seed=a"), "arm seed=a: 'seed' is 'a'; it should be a whole number"),
        (
            ("--grid", "loss=ce,hrad"),
            (
                "arm loss=hrad: unknown loss 'hrad'; did you mean 'hard'? (known: advit-kl, advit-l1, advit-l2, "
                "anchors, attndistill, ce, features, hard, similarity, soft)"
            ),
        ),
        (
            ("--grid", "student.drop_path=0.1,2.0"),
            "arm student.drop_path=2.0: student 'deit-ti': 'drop_path' is 2.0; it should be less than 1",
        ),
        (
            ("--grid", "loss=ce,hard"),
            "arm loss=hard: loss 'hard' needs a teacher, but the recipe has none; give --teacher",
        ),
        (("--grid", "seed=1,1"), "--grid: 'seed' has the value '1' twice; leave one out"),
        (
            ("--grid", "optimizer.lr=0.1,1e-1"),
            "the arms optimizer.lr=0.1 and optimizer.lr=1e-1 have the same recipe; leave one of them out of the grid",
        ),
        (("--seed", "0", "--grid", "seed=0,1"), "'seed' is set by --seed and by --grid; leave one of them out"),
        (
            ("--grid", "student.width=8,16"),
            "'student.width' is set by --set and by --grid; leave one of them out",
        ),
        (
            ("--grid", "seed=0", "--search", "optimizer.lr=1e-4..1e-2"),
            "a sweep has a grid or a search, and both are given; leave one of them out",
        ),
        (
            ("--grid", "seed=0", "--trials", "3"),
            "--trials is for a search; leave it out, or give --search KEY=LOW..HIGH instead of a grid",
        ),
        (
            ("--grid", "seed=0,1", "--one-pass", "--jobs", "2"),
            "--one-pass trains all arms in one process; leave out --jobs",
        ),
        (
            ("--search", "optimizer.lr=1e-4..1e-2", "--one-pass"),
            "--one-pass needs a grid: a search chooses each trial by the trials before it; leave out --one-pass",
        ),
        (
            ("--grid", "augment.flip=0.0,0.5", "--one-pass"),
            (
                "arm augment.flip=0.0 and arm augment.flip=0.5 cannot train in one pass, because they differ in "
                "augment.flip (0.0 and 0.5); give both the same values, or leave out --one-pass: with a bank, runs on "
                "the same images compute their targets once"
            ),
        ),
        (
            ("--search", "optimizer.lr=1e-4..1e-2", "--list"),
            "--list needs a grid: a search chooses each trial by the trials before it",
        ),
        (
            ("--grid", "seed=0,1", "--list", "--json"),
            "--list prints one command per line; leave out --json, or --list",
        ),
        (
            ("--grid", "seed=0,1", "--list", "--dry-run"),
            "--list prints one command per line; leave out --dry-run, or --list",
        ),
        (
            ("--search", "optimizer.lr=1e-4..1e-2", "--validation", "0"),
            (
                "a search compares trials on validation images, and this recipe holds out none; give --validation 0.1, "
                "or a folder"
            ),
        ),
        (
            ("--search", "optimizer.lr=-1..1e-2"),
            "arm optimizer.lr=-1: 'optimizer.lr' is -1; it should be greater than 0",
        ),
        (
            ("--search", "optimizer.lr=1"),
            (
                "--search optimizer.lr=1 is no range and no list of values; write KEY=LOW..HIGH, "
                "KEY=LOW..HIGH:log, KEY=LOW..HIGH:step=STEP or KEY=VALUE,VALUE"
            ),
        ),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(refused, arguments, message):
    if "--search" in arguments and "--grid" not in arguments:
        pytest.importorskip("optuna")
    assert refused(*arguments) == f"error: {message}\n"


def test_a_search_without_optuna_names_the_extra(refused, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "optuna" else real_find_spec(name))
    assert refused("--search", "optimizer.lr=1e-4..1e-2") == (
        'error: a search needs optuna, which is not installed; pip install "distillkit[tune]"\n'
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"sweep": "text"}, "sweep is a file; give another --out"),
        ({"sweep/notes.txt": "text"}, "sweep is not empty and no sweep (it has no sweep.json); give another --out"),
        ({"sweep/recipe.toml": ""}, "sweep is a run directory (it has no sweep.json); give another --out"),
        ({"sweep/sweep.json": "{"}, "sweep/sweep.json is damaged (is not valid JSON ("),
        (
            {"sweep/sweep.json": '{"kind": "grid"}'},
            "sweep/sweep.json is damaged (arms: Field required); restore it, or give another --out",
        ),
        (
            {"sweep/sweep.json": '{"kind": "search", "arms": {}}'},
            "sweep holds a search, and this sweep is a grid; give another --out",
        ),
        (
            {"sweep/sweep.json": '{"kind": "grid", "arms": {}}', "sweep/seed=0/photo.jpg": ""},
            "sweep/seed=0 exists and is not empty; delete it or give another --out",
        ),
    ],
)
def test_a_folder_that_is_something_else_is_refused(refused, tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(content)
    assert refused("--grid", "seed=0,1").startswith(f"error: {message}")


def test_an_arm_whose_directory_is_another_run_is_refused(refused, distillkit, tiny, tmp_path):
    assert distillkit("--quiet", "run", *tiny, "--seed", "7", "--out", "sweep/seed=0").code == 0
    (tmp_path / "sweep/sweep.json").write_text('{"kind": "grid", "arms": {}}')
    assert refused("--grid", "seed=0,1") == (
        "error: sweep/seed=0 was started with another recipe (different: seed); give the same options, or another "
        "--out\n"
    )


def test_list_prints_the_command_of_every_arm(distillkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = distillkit(
        *("sweep", "--epochs", "2", "--set", 'trackers=["metrics"]', "--out", "my sweep", "--list"),
        *("--grid", "loss=ce", "--grid", "training.clip=,1.0"),
    )
    head = "distillkit run --epochs 2 --set 'trackers=[\"metrics\"]' --loss ce"
    assert result.out.splitlines() == [
        f"{head} --set training.clip= --out 'my sweep/loss=ce_training.clip=default' --auto-resume",
        f"{head} --set training.clip=1.0 --out 'my sweep/loss=ce_training.clip=1.0' --auto-resume",
    ]
    assert list(tmp_path.iterdir()) == []


RECIPE = """
base = "digits"

[sweep.grid]
optimizer.lr = [1e-3, 1e-2]
seed = [0, 1]

[training]
epochs = 2
"""


def test_a_recipe_can_hold_the_grid_and_options_replace_its_axes(distillkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(RECIPE)
    result = distillkit("sweep", "--recipe", "grid.toml", "--grid", "seed=5", "--out", "out", "--dry-run")
    assert [line.split() for line in result.out.splitlines()] == [
        ["arm", "state", "validation", "test", "time", "why"],
        ["optimizer.lr=0.001_seed=5", "new"],
        ["optimizer.lr=0.01_seed=5", "new"],
    ]


def test_a_run_reads_the_recipe_without_its_sweep(distillkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(RECIPE)
    assert distillkit("plan", "--recipe", "grid.toml", "--json").code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sweep]\ngrd.seed = [1]", "recipe 'grid.toml', [sweep]: unknown key 'grd'; did you mean 'grid'?"),
        ("[sweep]\ntrials = 0", "recipe 'grid.toml', [sweep]: 'trials' is 0; it should be greater than 0"),
        ("sweep = 3", "recipe 'grid.toml', [sweep] should be a table with a table grid or search"),
        ("[sweep.grid]\nseed = 3", "'sweep.grid.seed' is 3; it should be a list of values, such as [0, 1, 2]"),
    ],
)
def test_a_table_that_is_wrong_is_refused(distillkit, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(text)
    result = distillkit("sweep", "--recipe", "grid.toml", "--out", "out")
    assert (result.code, result.err) == (2, f"error: {message}\n")


def test_a_search_shows_its_plan(distillkit, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    result = distillkit("sweep", "--search", "optimizer.lr=1e-4..1e-2:log", "--out", "out", "--dry-run")
    assert result.out.splitlines() == [
        "optimizer.lr  1e-4..1e-2:log",
        "trials        20 of 30 epochs",
        "compared      after epoch 3, 9, 27; one of 3 continues",
    ]
    assert list(tmp_path.iterdir()) == []
