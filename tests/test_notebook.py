"""Runs the notebook of the documentation, with few steps of training."""

import json

import nbclient
import nbformat
import pytest

from tests.first_party import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def read_notebook():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_the_notebook_holds_no_output():
    cells = [cell for cell in read_notebook().cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


@pytest.mark.tensorflow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_notebook_runs(tmp_path):
    changes = {
        "quickstart/": f"{tmp_path}/",
        "--identities 100 --images 20 --held_out 40 --pairs 400": "--identities 10 --images 4 --pairs 100",
        "--max_steps 200": "--max_steps 4 --batch_size 16",
        "%pip": "# %pip",
    }
    notebook = read_notebook()
    assert all(any(old in cell.source for cell in notebook.cells) for old in changes)
    for cell in notebook.cells:
        for old, new in changes.items():
            cell.source = cell.source.replace(old, new)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT / "docs"}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Precision on lfw" in printed
    assert json.loads((tmp_path / "identify" / "tracks.json").read_text())
    assert (tmp_path / "face.tflite").stat().st_size > 1e6
