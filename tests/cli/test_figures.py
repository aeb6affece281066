"""Accuracies as text."""

from distillkit_cli.figures import accuracy, figure_rows

TWO_HEADS = {
    "class_top1": 90.0,
    "distill_top1": 91.25,
    "fused_logits_top1": 92.0,
    "fused_softmax_top1": 91.8,
    "top1": 92.0,
    "loss": 0.3,
    "images": 1500.0,
}


def test_accuracy_lists_both_heads():
    assert accuracy(TWO_HEADS) == (
        "92.00 % of 1,500 images "
        "(class head 90.00, distillation head 91.25, mean of logits 92.00, sum of softmaxes 91.80)"
    )


def test_accuracy_of_a_single_head_is_printed_once():
    assert accuracy({"class_top1": 90.0, "top1": 90.0, "images": 10.0}) == "90.00 % of 10 images"
    assert accuracy({"class_top1": 100.0, "top1": 100.0, "images": 1.0}) == "100.00 % of 1 image"
    assert accuracy({"class_top1": 90.0, "top1": 90.0, "top5": 99.0}) == "90.00 % (top 5 99.00)"


def test_one_row_per_split():
    figures = {f"test/{name}": value for name, value in TWO_HEADS.items()}
    figures |= {"validation/top1": 50.0, "validation/ema/top1": 51.0, "best/validation_top1": 52.5, "best/step": 1200.0}
    assert figure_rows(figures) == [
        ("test", accuracy(TWO_HEADS)),
        ("validation", "50.00 %"),
        ("validation, EMA", "51.00 %"),
        ("best", "52.50 % on validation, after step 1,200"),
    ]


def test_figures_without_a_split_are_called_top_1():
    assert figure_rows({"top1": 50.0}) == [("top 1", "50.00 %")]
    assert figure_rows({"images": 0.0}) == []
