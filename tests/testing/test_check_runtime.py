"""The conformance suite detects every violation of the contract by a runtime or an export format."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from distillkit.contracts.exporter import Artifact
from distillkit.contracts.runtime import Availability, Servable
from distillkit.errors import BrokenPluginError, GateError, UnavailableError
from distillkit.testing import check_exporter, check_runtime

IMAGES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
IMAGES[0, 0] = 9  # so that every batch contains the largest score


class Session:
    """Scores are the images times a matrix."""

    facts = MappingProxyType({"device": "cpu", "clock": "host"})

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, images):
        return images @ self.matrix

    def bind(self, images):
        return self

    def time(self, queries):
        return [0.1] * queries


class Matrices:
    """A runtime for files that are one matrix."""

    formats = ("npy",)
    session = Session

    def availability(self):
        return Availability(works=True, detail="numpy")

    def settings(self):
        return ({},)

    def open(self, servable, setting):
        if servable.format != "npy":
            raise UnavailableError("no")
        try:
            return self.session(np.load(servable.source))
        except (OSError, ValueError) as error:
            raise GateError("no") from error


@pytest.fixture
def servable(tmp_path):
    np.save(tmp_path / "m.npy", np.eye(6, 3, dtype=np.float32))
    return Servable("npy", str(tmp_path / "m.npy"))


def test_a_sound_runtime_passes(servable):
    check_runtime(Matrices, servable, IMAGES)


def broken(**changes):
    """A runtime with changed members of the class or of its session."""
    of_session = {name: changes.pop(name) for name in list(changes) if hasattr(Session, name) or name == "__call__"}
    return type("Own", (Matrices,), {"session": type("OwnSession", (Session,), of_session), **changes})


def forgetful(self, images):
    self.kept = getattr(self, "kept", np.empty((9, 3), np.float32))
    np.matmul(images, self.matrix, out=self.kept[: len(images)])
    return self.kept[: len(images)]


def scaled_by_batch(self, images):
    return images @ self.matrix * len(images)


def changing(self, images):
    images *= 2
    return images @ self.matrix / 2


def careless(self, servable, setting):
    if servable.source.endswith("missing"):
        raise OSError("gone")
    return Session(np.eye(6, 3, dtype=np.float32))


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"formats": "npy"}, ["formats is 'npy'; it must be a tuple of at least one name"]),
        (
            {"formats": ("onnx",)},
            ["formats is ('onnx',), but the servable of this check has format 'npy'"],
        ),
        (
            {"availability": lambda self: True},
            ["availability() returns bool; it must return an Availability"],
        ),
        (
            {"availability": lambda self: Availability(works=True, detail="")},
            ["availability() has detail '' and remedy ''; detail must be one line, and remedy at most one"],
        ),
        (
            {"availability": lambda self: 1 / 0},
            ["raised ZeroDivisionError: division by zero; in these checks: availability"],
        ),
        (
            {"settings": lambda self: ()},
            ["settings() is empty; return at least the default setting, as in ({},)"],
        ),
        ({"settings": lambda self: ({"at": {1}},)}, ["setting {'at': {1}} cannot be written as JSON"]),
        (
            {"__call__": lambda self, images: (images @ self.matrix).astype(np.float64)},
            ["scores have dtype float64; they must be float32, whatever precision the file computes in"],
        ),
        (
            {"__call__": lambda self, images: (images @ self.matrix)[0]},
            ["scores of 4 images have shape [3]; they must be [batch, classes]"],
        ),
        (
            {"__call__": lambda self, images: images @ self.matrix * np.float32(np.nan)},
            ["scores are not finite"],
        ),
        (
            {"__call__": scaled_by_batch},
            [
                "scores of a batch of 1 differ by 0.8 from those in a batch of 4",
                "scores of a batch of 3 differ by 0.2 from those in a batch of 4",
            ],
        ),
        ({"__call__": changing}, ["changes the images in place"]),
        (
            {"__call__": forgetful},
            ["reuses the memory of returned scores: they change when the next batch is computed"],
        ),
        (
            {"time": lambda self, queries: [0.0]},
            [
                "bind(images).time(1) returns [0.0]; it must return 1 positive times in ms",
                "bind(images).time(5) returns [0.0]; it must return 5 positive times in ms",
            ],
        ),
        ({"facts": {"clock": "host"}}, ["facts lack device"]),
        (
            {"facts": {"device": Path("x"), "clock": "host"}},
            [f"facts are {{'device': {Path('x')!r}, 'clock': 'host'}}, which cannot be written as JSON"],
        ),
        (
            {"open": careless},
            [
                "open() of another format raises no error",
                (
                    "open() of a missing file raises OSError: gone; it must raise UnavailableError, GateError or a "
                    "UserError"
                ),
                "open() of a broken file raises no error",
            ],
        ),
    ],
)
def test_every_violation_is_reported(servable, changes, sentences):
    with pytest.raises(BrokenPluginError) as found:
        check_runtime(broken(**changes), servable, IMAGES)
    first, *lines = str(found.value).splitlines()
    ways = "one way" if len(sentences) == 1 else f"{len(sentences)} ways"
    assert first.endswith(f"Own breaks the contract in {ways}:")
    assert lines == [f"  - {sentence}" for sentence in sentences]


def test_a_runtime_that_does_not_work_here_is_partly_checked(servable):
    gone = broken(availability=lambda self: Availability(works=False, detail="there is no device"))
    with pytest.raises(UnavailableError) as refused:
        check_runtime(gone, servable, IMAGES)
    assert str(refused.value).endswith("Own cannot be checked further on this machine: there is no device")


class Means:
    """A format of one matrix of random weights, which is enough for a file."""

    class Options(BaseModel, frozen=True, extra="forbid"):
        gain: float = 1.0

    precisions = ("fp32",)
    runtime = "numpy 2"

    def __init__(self, options):
        self.options = options

    def check(self):
        pass

    def write(self, source, directory, precision):
        size = source.model.spec.image_size
        weights = np.random.default_rng(0).normal(size=(3 * size[0] * size[1], 7)).astype(np.float32)
        np.save(directory / "m.npy", weights)
        return Artifact("npy", "m.npy", precision)

    def precision_of(self, file):
        return {"float32": "fp32", "float16": "fp16"}[np.load(file).dtype.name]

    def open(self, file):
        matrix = np.load(file)
        return lambda images: images.reshape(len(images), -1) @ matrix


def test_a_sound_exporter_passes():
    check_exporter(Means, {"gain": 2.0})


def writing(change):
    def write(self, source, directory, precision):
        return change(self, source, directory, Means.write(self, source, directory, precision))

    return write


def trains(self, source, directory, artifact):
    with torch.no_grad():
        next(source.model.network.parameters()).add_(1)
    return artifact


def halves(self, source, directory, artifact):
    np.save(directory / "m.npy", np.load(directory / "m.npy").astype(np.float16))
    return artifact


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {"precisions": ("float32",)},
            ["precisions is ('float32',); it must be a tuple of some of fp32, fp16, bf16, int8, fp8"],
        ),
        ({"runtime": ""}, ["runtime is ''; it must be one line with a name and a version"]),
        (
            {"write": writing(lambda self, source, directory, artifact: replace(artifact, file="other.npy"))},
            ["file is 'other.npy', but no such file was written"],
        ),
        (
            {"write": writing(lambda self, source, directory, artifact: replace(artifact, file="../m.npy"))},
            ["file is '../m.npy'; it must be a relative path inside the folder"],
        ),
        (
            {"write": writing(lambda self, source, directory, artifact: replace(artifact, precision="fp16"))},
            ["returns an Artifact of precision fp16 when asked for fp32"],
        ),
        (
            {"write": writing(lambda self, source, directory, artifact: replace(artifact, made_with={"at": {1}}))},
            ["made_with is {'at': {1}}, which cannot be written as JSON"],
        ),
        ({"write": writing(trains)}, ["changes the model that it exports"]),
        ({"write": writing(halves)}, ["wrote fp32, but precision_of reads fp16 from the file"]),
        (
            {"open": lambda self, file: lambda images: images.reshape(len(images), -1)[0]},
            ["scores of 3 images have shape [1152]; they must be [batch, classes]"],
        ),
        (
            {"open": lambda self, file: lambda images: images.reshape(len(images), -1) * np.float32(len(images))},
            ["scores of single images differ by 0.7 from those in a batch of 3"],
        ),
    ],
)
def test_every_violation_of_an_exporter_is_reported(changes, sentences):
    with pytest.raises(BrokenPluginError) as found:
        check_exporter(type("Own", (Means,), changes))
    assert str(found.value).splitlines()[1:] == [f"  - {sentence}" for sentence in sentences]
