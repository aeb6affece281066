"""Progress of `data check`, `profile` and `export`, on the display that `run` has too."""

from __future__ import annotations

from distillkit.messages.progress import ProgressDisplay


def show_images_read(display: ProgressDisplay, images: int, of: int) -> None:
    """How many images `data check` has read. The bar begins with the first, when the reading processes have begun."""
    pace = f"{max(images, 1) / display.elapsed_s:,.0f} images/s, {display.time_left(images, of - images)} left"
    display.show("image", images, of, pace, line=f"{images:,} of {of:,} images read; {pace}")


def show_build_step(display: ProgressDisplay, phase: str, done: int, steps: int) -> None:
    """How far a phase of an engine build is; phases may be nested, and each has a bar until it is done."""
    display.show(phase, done, steps, line=f"{phase}: {done} of {steps}")
    if done >= steps:
        display.remove(phase)


class ProfileProgress:
    """What `profile` measures, and how many of its steps are done."""

    def __init__(self, display: ProgressDisplay) -> None:
        self._display = display
        self._steps: int = 0
        self._of: int | None = None
        self.begin("")

    def begin(self, what: str) -> None:
        """Show what is measured next."""
        self._what = what
        self._display.show("step", self._steps, self._of, what)

    def done(self, steps: int, of: int) -> None:
        """Show the steps that are done."""
        self._steps, self._of = steps, of
        rate = 60 * max(steps, 1) / self._display.elapsed_s
        pace = f"{rate:.0f} steps/min, {self._display.time_left(steps, of - steps)} left"
        self._display.show("step", steps, of, f"{pace}; {self._what}", line=f"step {steps}/{of}: {self._what}; {pace}")
