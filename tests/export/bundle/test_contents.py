"""The files that an export may replace have the names with which they are written."""

from __future__ import annotations

import pytest

from distillkit.storage.atomic import write_json
from distillkit_export.bundle.contents import EXPORT_FILES, PROFILE_FILES, other_files
from distillkit_export.bundle.predict_script import PREDICT
from distillkit_export.gate.report import PARITY, PARITY_PAGE
from distillkit_export.gate.samples import SAMPLES
from distillkit_export.onnx.exporter import FILES
from distillkit_export.profiling.charts import ACCURACY, LATENCY, THROUGHPUT
from distillkit_export.profiling.profile import JSON_FILE, MARKDOWN_FILE
from distillkit_export.profiling.tuning import BEST_FILE


def test_names_are_those_of_the_modules_that_write_the_files():
    assert set(EXPORT_FILES) == {FILES["fp32"], PARITY, PARITY_PAGE, SAMPLES, PREDICT}
    assert set(PROFILE_FILES) == {JSON_FILE, MARKDOWN_FILE, BEST_FILE, LATENCY, THROUGHPUT, ACCURACY}


@pytest.mark.parametrize("files", [{"": {}}, {"..": {}}, [7], "model.onnx", None])
def test_a_report_that_is_not_of_a_gate_lists_nothing(tmp_path, files):
    write_json(tmp_path / "parity.json", {"files": files})
    (tmp_path / "rejected").mkdir()
    (tmp_path / "rejected" / "thesis.tex").touch()
    assert other_files(tmp_path, None) == ["parity.json", "rejected/thesis.tex"]
