"""The notebooks in docs/notebooks run from top to bottom, and are committed with their outputs."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

LINK = re.compile(r"\]\(([^)#\s]+)\)")


@pytest.fixture
def quickstart(root):
    return nbformat.read(root / "docs" / "notebooks" / "quickstart.ipynb", as_version=4)


def printed(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.text for cell in cells for output in cell.outputs if output.get("name") == "stdout")


@pytest.mark.slow
def test_the_quickstart_runs_and_the_teacher_helps(quickstart, tmp_path, tmp_path_factory, monkeypatch):
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # the home directory may be read-only
        monkeypatch.setenv(variable, str(tmp_path_factory.mktemp("jupyter")))
    NotebookClient(quickstart, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    accuracy = dict(re.findall(r"^(.+): ([\d.]+) % of the test images$", printed(quickstart), re.MULTILINE))
    assert list(accuracy) == ["teacher", "100 labels", "100 labels and the teacher"]
    assert float(accuracy["100 labels and the teacher"]) > float(accuracy["100 labels"]) + 5
    assert re.search(r"^model.onnx .* passed$", printed(quickstart), re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_the_committed_outputs_are_complete_and_hold_no_path_of_a_machine(quickstart):
    assert re.findall(r"^(\d+) steps, [\d,]+ parameters$", printed(quickstart), re.MULTILINE) == ["126"]
    figures = [output for cell in quickstart.cells for output in cell.get("outputs", []) if "data" in output]
    assert [sorted(output.data) for output in figures] == [["image/png", "text/plain"]] * 2
    assert not re.search(r"/(tmp|home|Users)/", nbformat.writes(quickstart))


def test_links_of_the_quickstart_lead_to_files(quickstart, root):
    text = "\n".join(cell.source for cell in quickstart.cells if cell.cell_type == "markdown")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert links
    assert [link for link in links if not (root / "docs" / "notebooks" / link).is_file()] == []
