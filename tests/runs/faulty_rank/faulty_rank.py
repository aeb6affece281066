"""A loss that is sound but for one process, in which FAULT="<where>:<rank>" makes it fail there, by error or hang."""

from __future__ import annotations

import os
import signal
import time

from distillkit import PluginSpec, UserError

WHERE, _, WHOSE = os.environ.get("FAULT", ":").partition(":")
IS_MINE = WHOSE == os.environ.get("RANK", "0")


def distillkit_losses():
    if IS_MINE and WHERE == "missing":
        return ()
    return (PluginSpec(name="faulty", summary="fails in one process", factory="faulty_rank:loss"),)


def __getattr__(name):
    if name != "loss":
        raise AttributeError(name)
    from distillkit_plugins.losses.ce import LabelsOnly

    class Faulty(LabelsOnly):
        @classmethod
        def build(cls, options, student, teacher):
            import torch

            really = torch.get_default_device().type != "meta"
            if IS_MINE and WHERE == "sentence" and really:
                raise UserError("this process has no licence; buy one")
            if IS_MINE and WHERE == "bug" and really:
                raise ZeroDivisionError("a bug")
            return cls()

        def target(self, teacher):
            self.steps = getattr(self, "steps", 0) + 1
            if IS_MINE and self.steps == 3:
                if WHERE == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if WHERE == "stopped":
                    time.sleep(3600)
            return {}

    return Faulty
