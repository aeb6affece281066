"""A stranger's plugins that know nothing of processes.

A loss that is sound but for one process: FAULT="<where>:<rank>" makes it fail there. An evaluator that asks for the
features of as many images as the number of its process says, which no two processes agree on.
"""

from __future__ import annotations

import os
import signal
import time

from pydantic import BaseModel

from distillkit import PluginSpec, UserError

WHERE, _, WHOSE = os.environ.get("FAULT", ":").partition(":")
IS_MINE = os.environ.get("RANK", "0") == WHOSE


def distillkit_losses():
    if IS_MINE and WHERE == "missing":
        return ()
    return (PluginSpec(name="faulty", summary="fails in one process", factory="faulty_rank:loss"),)


def distillkit_evaluators():
    return (PluginSpec(name="unaware", summary="another subset in each process", factory="faulty_rank:Unaware"),)


class Unaware:
    learns = True

    class Options(BaseModel):
        pass

    def __init__(self, options):
        pass

    def measure(self, subject):
        from distillkit.evaluation import Measurement, View, balanced_subset

        share = 0.1 + 0.1 * int(os.environ.get("RANK", "0"))
        features = subject.features(balanced_subset(subject.training, share, seed=0), View())
        return Measurement("unaware", {"sum": float(features.values.double().sum()), "images": float(len(features))})


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
