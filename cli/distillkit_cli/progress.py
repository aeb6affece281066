"""Progress of `data check`, `profile` and `export`, shown on the same display as that of `run`."""

from __future__ import annotations

from distillkit.messages.progress import ProgressDisplay


def show_images_read(display: ProgressDisplay, images: int, total: int) -> None:
    """Images that `data check` has read. The bar starts with the first image, once the loader processes run."""
    pace = f"{max(images, 1) / display.elapsed_s:,.0f} images/s, {display.time_left(images, total - images)} left"
    display.show("image", images, total, pace, line=f"{images:,} of {total:,} images read; {pace}")


def show_build_step(display: ProgressDisplay, phase: str, done: int, steps: int) -> None:
    """Progress of one phase of an engine build. Phases may be nested; each has a bar until it is done."""
    display.show(phase, done, steps, line=f"{phase}: {done} of {steps}")
    if done >= steps:
        display.remove(phase)


class ProfileProgress:
    """Progress of `profile`: the current measurement and the number of finished steps."""

    def __init__(self, display: ProgressDisplay) -> None:
        self._display = display
        self._steps: int = 0
        self._total: int | None = None
        self.begin("")

    def begin(self, what: str) -> None:
        """Show the next measurement."""
        self._what = what
        self._display.show("step", self._steps, self._total, what)

    def done(self, steps: int, total: int) -> None:
        """Show the number of finished steps."""
        self._steps, self._total = steps, total
        rate = 60 * max(steps, 1) / self._display.elapsed_s
        pace = f"{rate:.0f} steps/min, {self._display.time_left(steps, total - steps)} left"
        line = f"step {steps}/{total}: {self._what}; {pace}"
        self._display.show("step", steps, total, f"{pace}; {self._what}", line=line)
