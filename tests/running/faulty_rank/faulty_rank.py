"""Third-party plugins that are not written for several processes.

A loss that fails in one process: FAULT="<where>:<rank>" says where. An evaluator that reads the features of another
number of images in each process.
"""

from __future__ import annotations

import os
import signal
import time

from pydantic import BaseModel

from distillkit import PluginSpec, UserError

WHERE, _, RANK = os.environ.get("FAULT", ":").partition(":")
FAILS_HERE = os.environ.get("RANK", "0") == RANK


def distillkit_losses():
    if FAILS_HERE and WHERE == "missing":
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

            is_real = torch.get_default_device().type != "meta"  # the plan builds on the meta device
            if FAILS_HERE and WHERE == "sentence" and is_real:
                raise UserError("this process has no licence; buy one")
            if FAILS_HERE and WHERE == "bug" and is_real:
                raise ZeroDivisionError("a bug")
            return cls()

        def target(self, teacher):
            self.steps = getattr(self, "steps", 0) + 1
            if FAILS_HERE and self.steps == 3:
                if WHERE == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if WHERE == "stopped":
                    time.sleep(3600)
            return {}

    return Faulty
