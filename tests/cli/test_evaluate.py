"""`distillkit evaluate` from the command line: its output and its options."""

import json

import pytest


def last_evaluation(trained):
    """The last line of the run's evaluations.jsonl."""
    return json.loads((trained / "evaluations.jsonl").read_text().splitlines()[-1])


def test_knn_prints_a_table(distillkit, trained):
    code, out, err = distillkit("evaluate", str(trained), "--protocol", "knn", "--k", "200", "--k", "20")
    few, many = last_evaluation(trained)["rows"]
    assert code == 0
    assert err == "130 training images are held out for validation; --validation 0 compares with all of them\n"
    assert out == (
        "protocol  k-NN among 1,167 training images, votes weighted (DINO's protocol)\n"
        "data      digits\n"
        "test      500 images\n"
        "\n"
        "  k  top 1 %  top 5 %\n"
        f" 20    {few['top1']:.2f}    {few['top5']:.2f}\n"
        f"200    {many['top1']:.2f}    {many['top5']:.2f}\n"
    )


def test_knn_compares_with_all_training_images_with_validation_0(distillkit, trained):
    code, out, err = distillkit("evaluate", str(trained), "--protocol", "knn", "--k", "20", "--validation", "0")
    assert (code, err) == (0, "")
    assert out.startswith("protocol  k-NN among 1,297 training images, votes weighted (DINO's protocol)\n")


def test_linear_probe_reports_its_method_and_chosen_lr(distillkit, trained):
    arguments = ("--protocol", "linear", "--epochs", "2", "--set", "lr=[0.01, 0.1]")
    code, out, err = distillkit("evaluate", str(trained), *arguments)
    written = last_evaluation(trained)
    figures, settings = written["figures"], written["settings"]
    others = f"(top 5 {figures['top5']:.2f}, best epoch {figures['best_epoch_top1']:.2f})"
    assert code == 0
    assert out.splitlines()[:3] == [
        "protocol  linear probe on cached features (fast: no augmentation, 2 epochs)",
        "data      digits",
        f"test      {figures['top1']:.2f} % of 500 images {others}",
    ]
    assert [row.split()[0] for row in out.splitlines()[5:]] == ["0.01", "0.1"]
    assert err == (
        f"lr {settings['chosen_lr']} of 2 was chosen on 130 validation images\n"
        f"last epoch, 2: {figures['top1']:.2f} %; best epoch, {settings['best_epoch']}: "
        f"{figures['best_epoch_top1']:.2f} %, chosen on the evaluated images as in DINO's code\n"
    )


def test_linear_probe_with_method_dino(distillkit, trained):
    code, out, _ = distillkit("evaluate", str(trained), "--protocol", "linear", "--method", "dino", "--epochs", "1")
    assert code == 0
    assert out.startswith("protocol  linear probe on augmented images (dino: DINO's protocol, 1 epochs)\n")


def test_per_class_prints_one_row_per_class(distillkit, trained):
    code, out, err = distillkit("evaluate", str(trained), "--per-class")
    assert (code, err) == (0, "")
    assert out.splitlines()[4].split() == ["class", "images", "top", "1", "%"]
    assert [row.split()[:2] for row in out.splitlines()[5:]] == [[str(digit), "50"] for digit in range(10)]


def test_result_says_whether_predictions_were_restricted(distillkit, trained, write_pictures, tmp_path):
    """Two of ten classes."""
    data = ("--data", str(write_pictures(tmp_path, {"3": 4, "8": 4})))
    _, out, _ = distillkit("evaluate", str(trained), *data)
    title = "accuracy of the model's predictions"
    assert out.splitlines()[0].split(maxsplit=1)[1] == f"{title}, among all 10 classes; the data has 2"
    assert last_evaluation(trained)["settings"]["restrict"] is False
    _, out, _ = distillkit("evaluate", str(trained), *data, "--restrict")
    assert out.splitlines()[0].split(maxsplit=1)[1] == f"{title}, restricted to the 2 of 10 classes that the data has"
    assert last_evaluation(trained)["settings"]["restrict"] is True


def test_another_crop_is_shown_and_recorded(distillkit, trained):
    code, out, err = distillkit("evaluate", str(trained), "--crop", "0.8")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "protocol  accuracy of the model's predictions",
        "data      digits",
        "images    resize 10, crop 8",
    ]
    recorded = last_evaluation(trained)["preprocessing"]
    assert (recorded["resize"], recorded["share"], recorded["source"]) == ([10, 10], 0.8, "option")


def test_json_equals_the_line_in_evaluations_jsonl(distillkit, trained):
    code, out, err = distillkit("evaluate", str(trained), "--protocol", "few-label", "--set", "shares=[0.02]", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == last_evaluation(trained)
    assert json.loads(out)["settings"]["shares"] == [0.02]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--protocol", "knn", "--k", "2000"),
            "k = 2,000 is larger than the 1,167 labelled images of 'digits'; lower --k",
        ),
        (("--protocol", "knn", "--restrict"), "--restrict is an option of --protocol top1; the protocol is knn"),
        (("--protocol", "knn", "--per-class"), "--per-class is an option of --protocol top1; the protocol is knn"),
        (("--k", "20"), "--k is an option of --protocol knn; the protocol is top1"),
        (("--method", "fast"), "--method is an option of --protocol few-label and linear; the protocol is top1"),
        (("--set", "k=[20]"), "evaluator 'top1': unknown key 'k'; known: fusion, head, per_class, real, restrict"),
        (
            ("--protocol", "knn", "--k", "0"),
            "invalid value for '--k': Input should be greater than or equal to 1 (see distillkit evaluate --help)",
        ),
        (
            ("--protocol", "knn", "--set", "k=100000"),
            "evaluator 'knn': 'k' is 100000; it should be a list, such as [100000]",
        ),
        (
            ("--protocol", "liner"),
            "unknown evaluator 'liner'; did you mean 'linear'? (known: few-label, knn, linear, top1)",
        ),
        (
            ("--protocol", "linear", "--split", "train"),
            (
                "protocol 'linear' learns from the training images and cannot be measured on them; "
                "choose --split validation or test"
            ),
        ),
        (("--crop", "1.5"), "--crop 1.5 is not a share; give a number above 0 and up to 1, such as 0.875"),
        (("--real", "nowhere.json"), "ReaL label file 'nowhere.json' does not exist; check --real"),
    ],
)
def test_user_errors_are_one_line(distillkit, trained, arguments, sentence):
    assert distillkit("evaluate", str(trained), *arguments) == (2, "", f"error: {sentence}\n")
