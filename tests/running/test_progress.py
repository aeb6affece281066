"""Progress of a run: lines, with a fake clock, and the progress bar, on a recording console."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from distillkit.contracts.run import RunInfo
from distillkit.messages.progress import ProgressDisplay
from distillkit.plugin.registry import installed_plugins
from distillkit.running.progress import RunProgress

PLAN = {
    "data": {"train": "digits", "images": 1167, "labelled": 100},
    "student": {"name": "deit-ti", "parameters": 205524, "starts_from": None},
    "teachers": [{"name": "small-cnn", "recipe_name": "cnn", "licence": None}],
    "loss": "0.5 * labels + 0.5 * hard",
    "losses": [{"name": "hard", "teacher": "cnn"}],
    "samples_per_step": 64,
    "notes": ["kept: 100 of 1,167 labels, 10 of each class"],
}
STEPS = {
    "step": 30.0,
    "epoch": 1.5,
    "loss": 1.5,
    "loss/labels": 2.0,
    "loss/hard/hard": 1.0,
    "lr": 1e-3,
    "grad_norm": 1.0,
    "images_per_s": 2345.6,
    "data_wait": 0.034,
}
EVALUATED = {
    "validation/top1": 91.5,
    "validation/class_top1": 90.0,
    "validation/distill_top1": 91.0,
    "validation/fused_logits_top1": 91.5,
    "validation/fused_softmax_top1": 91.25,
    "validation/images": 130.0,
}


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(clock, monkeypatch):
    """Progress on stderr, which is not a terminal."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return RunProgress(ProgressDisplay(clock=clock))


def a_run(start_step=0, **plan):
    return RunInfo(Path("runs/a"), {}, PLAN | plan, steps=100, steps_per_epoch=20, start_step=start_step)


def shown(capsys):
    """The lines on stderr; an indented line continues the one above."""
    return capsys.readouterr().err.replace("\n  ", " ").splitlines()


def test_the_opening_describes_the_run(capsys, progress):
    progress.distillkit_run_started(a_run())
    assert shown(capsys) == [
        "student deit-ti (205,524 parameters); loss 0.5 * labels + 0.5 * hard; teacher small-cnn",
        "1,167 images of digits, 100 labelled",
        "100 steps of 64 images; run directory runs/a",
        "note: kept: 100 of 1,167 labels, 10 of each class",
    ]


def test_the_opening_names_initial_weights_and_licences(capsys, progress):
    student = PLAN["student"] | {"starts_from": "runs/a"}
    teacher = {"name": "mae-vitb16", "recipe_name": "mae", "licence": "cc-by-nc-4.0"}
    unused = {"name": "vit-b", "recipe_name": "b", "licence": "apache-2.0"}
    run = a_run(student=student, teachers=[teacher, unused], losses=[{"name": "hard", "teacher": "mae"}])
    progress.distillkit_run_started(run)
    assert shown(capsys)[0] == (
        "student deit-ti (205,524 parameters), from runs/a; loss 0.5 * labels + 0.5 * hard; teacher mae-vitb16 "
        "(weights cc-by-nc-4.0)"
    )


def test_epochs_have_two_decimals(capsys, progress, clock):
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 11.0
    progress.distillkit_steps_logged(run, STEPS | {"step": 1.0, "epoch": 1 / 18})
    assert shown(capsys)[0].startswith("epoch 0.06/5, step 1/100: ")


def test_a_resumed_run_without_a_teacher(capsys, progress):
    progress.distillkit_run_started(a_run(start_step=40, teachers=[], losses=[], loss="1 * labels", notes=[]))
    assert shown(capsys) == [
        "student deit-ti (205,524 parameters); loss 1 * labels",
        "1,167 images of digits, 100 labelled",
        "100 steps of 64 images, from step 40; run directory runs/a",
    ]


def test_lines_are_written_at_epochs_and_at_most_every_ten_seconds_between(capsys, progress, clock):
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 9.9
    progress.distillkit_steps_logged(run, STEPS | {"step": 10.0, "epoch": 0.5})
    assert shown(capsys) == []
    clock.seconds = 18.0
    progress.distillkit_steps_logged(run, STEPS)
    assert shown(capsys) == [
        (
            "epoch 1.5/5, step 30/100: loss 1.5000 (labels 2.0000, hard 1.0000), lr 1.00e-03; "
            "2,346 images/s, data wait 3%; 0:00:42 left"
        )
    ]
    clock.seconds = 20.0
    progress.distillkit_steps_logged(run, STEPS | {"step": 40.0, "loss": 1.25})
    progress.distillkit_epoch_ended(run, {"step": 40.0, "epoch": 2.0} | EVALUATED)
    assert shown(capsys) == [
        (
            "epoch 2/5, step 40/100: validation 91.50 %; "
            "loss 1.2500 (labels 2.0000, hard 1.0000), lr 1.00e-03; 2,346 images/s, data wait 3%; 0:00:30 left"
        )
    ]
    clock.seconds = 29.0
    progress.distillkit_steps_logged(run, STEPS | {"step": 50.0})
    assert shown(capsys) == []


def test_the_first_step_gets_a_line_at_once_with_gradient_shares_and_without_throughput(capsys, progress, clock):
    """Shares of the sum of the norms: 3.2 and 0.05 of 3.25. The first step is slow, so its time is not shown."""
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    norms = {"grad_norm": 3.3, "grad_norm/labels": 3.2, "grad_norm/hard/hard": 0.05}
    clock.seconds = 2.0
    progress.distillkit_steps_logged(run, STEPS | {"step": 1.0, "epoch": 0.05} | norms)
    clock.seconds = 20.0
    progress.distillkit_steps_logged(run, STEPS | {"step": 20.0, "epoch": 1.0} | norms | {"grad_norm/hard/hard": 7e-5})
    assert shown(capsys) == [
        (
            "epoch 0.05/5, step 1/100: loss 1.5000 (labels 2.0000, hard 1.0000), lr 1.00e-03; "
            "gradient labels 98 %, hard 1.5 %"
        ),
        (
            "epoch 1/5, step 20/100: loss 1.5000 (labels 2.0000, hard 1.0000), lr 1.00e-03; "
            "gradient labels 100 %, hard 0.0022 %; 2,346 images/s, data wait 3%; 0:01:20 left"
        ),
    ]


@pytest.mark.parametrize("norms", [(1.0,), (float("inf"), 1.0), (float("nan"), 1.0), (0.0, 0.0)])
def test_no_gradient_shares_for_one_term_or_for_zero_or_non_finite_norms(capsys, progress, norms):
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    named = dict(zip(("grad_norm/labels", "grad_norm/hard/hard"), norms, strict=False))
    progress.distillkit_steps_logged(run, STEPS | {"step": 1.0, "epoch": 0.05} | named)
    line = "epoch 0.05/5, step 1/100: loss 1.5000 (labels 2.0000, hard 1.0000), lr 1.00e-03"
    assert shown(capsys) == [line]


def test_a_loss_is_shown_once(capsys, progress, clock):
    """Three epochs: the first has a log record, the second has none, the last ends the run."""
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 40.0
    progress.distillkit_steps_logged(run, STEPS | {"step": 40.0, "epoch": 2.0})
    progress.distillkit_epoch_ended(run, {"step": 40.0, "epoch": 2.0, "validation/top1": 50.0})
    clock.seconds = 60.0
    progress.distillkit_epoch_ended(run, {"step": 60.0, "epoch": 3.0})
    clock.seconds = 100.0
    progress.distillkit_epoch_ended(run, {"step": 100.0, "epoch": 5.0, "validation/top1": 75.0})
    assert shown(capsys) == [
        (
            "epoch 2/5, step 40/100: loss 1.5000 (labels 2.0000, hard 1.0000), lr 1.00e-03; "
            "2,346 images/s, data wait 3%; 0:01:00 left"
        ),
        "epoch 2/5, step 40/100: validation 50.00 %; 0:01:00 left",
        "epoch 3/5, step 60/100: 0:00:40 left",
        "epoch 5/5, step 100/100: validation 75.00 %",
    ]


def test_one_image_is_not_called_images(capsys, progress):
    run = a_run(data={"train": "few", "images": 1, "labelled": 1}, samples_per_step=1, teachers=[], notes=[])
    progress.distillkit_run_started(run)
    assert shown(capsys)[1:] == ["1 image of few, 1 labelled", "100 steps of 1 image; run directory runs/a"]


def test_an_epoch_without_log_and_evaluation(capsys, progress, clock):
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 5.0
    progress.distillkit_epoch_ended(run, {"step": 20.0, "epoch": 1.0})
    progress.distillkit_epoch_ended(run, {"step": 100.0, "epoch": 5.0})
    assert shown(capsys) == ["epoch 1/5, step 20/100: 0:00:20 left", "epoch 5/5, step 100/100: done"]


def test_the_accuracy_of_the_ema_is_shown_after_that_of_the_student(capsys, progress, clock):
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 5.0
    progress.distillkit_epoch_ended(
        run, {"step": 20.0, "epoch": 1.0, "validation/top1": 50.0, "validation/ema/top1": 51.0}
    )
    assert shown(capsys) == ["epoch 1/5, step 20/100: validation 50.00 %; EMA 51.00 %; 0:00:20 left"]


def test_a_single_term_is_not_listed_next_to_the_loss(capsys, progress, clock):
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 30.0
    record = {key: value for key, value in STEPS.items() if key != "loss/hard/hard"}
    progress.distillkit_steps_logged(run, record)
    assert shown(capsys) == [
        "epoch 1.5/5, step 30/100: loss 1.5000, lr 1.00e-03; 2,346 images/s, data wait 3%; 0:01:10 left"
    ]


@pytest.mark.parametrize(("skipped", "text"), [(1.0, "1 step skipped"), (3.0, "3 steps skipped")])
def test_skipped_steps_of_an_interval_are_shown(capsys, progress, clock, skipped, text):
    run = a_run()
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 30.0
    progress.distillkit_steps_logged(run, STEPS | {"skipped_steps": skipped})
    (line,) = shown(capsys)
    assert f", lr 1.00e-03; {text}; 2,346 images/s" in line


def test_a_resumed_run_estimates_its_time_left_from_the_steps_since_the_resume(capsys, progress, clock):
    run = a_run(start_step=90)
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 25.0
    progress.distillkit_steps_logged(run, STEPS | {"step": 95.0, "epoch": 4.75})
    assert shown(capsys)[0].endswith("; 0:00:25 left")


def test_quiet_prints_nothing(capsys, clock):
    progress, run = RunProgress(ProgressDisplay(silent=True, clock=clock)), a_run()
    progress.distillkit_run_started(run)
    clock.seconds = 60.0
    progress.distillkit_steps_logged(run, STEPS)
    progress.distillkit_epoch_ended(run, {"step": 40.0, "epoch": 2.0} | EVALUATED)
    assert shown(capsys) == []


def test_progress_is_called_like_any_tracker(capsys, progress):
    plugins = installed_plugins()
    plugins.add_observers(progress)
    plugins.run_started(a_run())
    plugins.epoch_ended(a_run(), {"step": 20.0, "epoch": 1.0})
    plugins.run_ended(a_run(), {}, None)
    plugins.run_failed(a_run(), KeyboardInterrupt())
    assert len(shown(capsys)) == 5


def test_on_a_terminal_a_progress_bar_is_shown_and_removed(clock):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None, highlight=False)
    display, run = ProgressDisplay(console, clock=clock), a_run()
    progress = RunProgress(display)
    progress.distillkit_run_started(run)
    progress.distillkit_steps_logged(run, STEPS | {"step": 1.0, "epoch": 0.05})
    display._bars.refresh()
    frame = screen.getvalue().splitlines()[-2:]
    assert "1/100" in frame[0]
    assert "images/s" not in frame[0]
    clock.seconds = 18.0
    progress.distillkit_steps_logged(run, STEPS)
    display._bars.refresh()
    frame = screen.getvalue().splitlines()[-2:]
    assert frame[0].split("step")[1].split()[0] == "30/100"
    assert "2,346 images/s, data wait 3%; 0:00:42 left; 0:00:" in frame[0]
    assert frame[1].strip().startswith("loss 1.5000 (labels 2.0000, hard 1.0000), lr 1.00e-03")
    progress.distillkit_epoch_ended(run, {"step": 40.0, "epoch": 2.0, "validation/top1": 50.0})
    assert "epoch 2/5, step 40/100: validation 50.00 %;\n  loss 1.5000 (labels" in screen.getvalue()
    progress.distillkit_run_failed()
    assert not display._bars.live.is_started
    display.close()


def test_very_short_epochs_get_at_most_one_line_per_second(capsys, progress, clock):
    """Epochs of 0.3 s: the first, the fifth (1.2 s later) and the last get a line."""
    progress.distillkit_run_started(a_run(notes=[]))
    shown(capsys)
    for epoch in range(1, 6):
        progress.distillkit_epoch_ended(a_run(), {"step": 20.0 * epoch - 1, "epoch": float(epoch)})
        clock.seconds += 0.3
    progress.distillkit_epoch_ended(a_run(), {"step": 100.0, "epoch": 5.0})
    assert [line.partition(",")[0] for line in shown(capsys)] == ["epoch 1/5", "epoch 5/5", "epoch 5/5"]


def test_lines_fit_80_columns_and_nothing_is_left_out(capsys, progress, clock):
    run = a_run()
    progress.distillkit_run_started(run)
    capsys.readouterr()
    clock.seconds = 20.0
    norms = {"grad_norm": 3.3, "grad_norm/labels": 3.2, "grad_norm/hard/hard": 0.05}
    progress.distillkit_steps_logged(run, STEPS | norms | {"step": 40.0, "skipped_steps": 2.0})
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1.5/5, step 40/100: loss 1.5000 (labels 2.0000, hard 1.0000), lr 1.00e-03;",
        "  gradient labels 98 %, hard 1.5 %; 2 steps skipped;",
        "  2,346 images/s, data wait 3%; 0:00:30 left",
    ]


def test_an_epoch_line_never_shows_the_loss_of_the_first_step(capsys, progress, clock):
    run = a_run()
    progress.distillkit_run_started(run)
    progress._latest = STEPS | {"step": 1.0}  # as on a terminal, where the first step has no line
    shown(capsys)
    clock.seconds = 5.0
    progress.distillkit_epoch_ended(run, {"step": 20.0, "epoch": 1.0})
    assert shown(capsys) == ["epoch 1/5, step 20/100: 0:00:20 left"]


def test_the_display_moves_between_log_intervals(capsys, progress, clock):
    """`progressed` comes once per second: the line of an epoch has its loss, and a line is due every ten seconds."""
    run, now = a_run(), {"step": 25.0, "epoch": 1.25, "loss": 0.75, "loss/labels": 0.75, "lr": 1e-3}
    progress.distillkit_run_started(run)
    shown(capsys)
    clock.seconds = 5.0
    progress.progressed(run, now | {"images_per_s": 100.0, "data_wait": 0.5})
    progress.progressed(run, {"step": 26.0, "epoch": 1.3, "lr": 1e-3})  # right after a log interval: no averages yet
    assert shown(capsys) == []
    progress.distillkit_epoch_ended(run, {"step": 40.0, "epoch": 2.0})
    clock.seconds = 20.0
    progress.progressed(run, now | {"step": 50.0, "images_per_s": 100.0, "data_wait": 0.5})
    assert shown(capsys) == [
        "epoch 2/5, step 40/100: loss 0.7500, lr 1.00e-03; 100 images/s, data wait 50%; 0:00:08 left",
        "epoch 1.25/5, step 50/100: loss 0.7500, lr 1.00e-03; 100 images/s, data wait 50%; 0:00:20 left",
    ]


def test_an_evaluation_shows_that_it_works(capsys, progress, clock):
    progress.distillkit_run_started(a_run())
    shown(capsys)
    clock.seconds = 11.0
    progress.evaluating("validation", 256, 50_000)
    progress.evaluating("validation", 512, 50_000)
    clock.seconds = 22.0
    progress.evaluating("validation", 50_000, 50_000)
    assert shown(capsys) == [
        "validation: 256 of 50,000 images measured",
        "validation: 50,000 of 50,000 images measured",
    ]
