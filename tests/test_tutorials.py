"""Runs the tutorials, with small nets and few pictures."""

import numpy as np
import pytest

from dataset.synthetic.__main__ import main as draw_faces
from export.onnx import write_onnx
from export.saved_model import export_saved_model
from nets.backbone import Backbone
from tests import portrait
from tests.first_party import ROOT
from tests.run_page import run_page

pytestmark = [pytest.mark.tensorflow, pytest.mark.long, pytest.mark.timeout(600)]
MODEL = "output/models/iter_258000_lfw_0.99133"


@pytest.fixture(scope="module")
def net():
    return Backbone("ir32", image_size=(32, 32), embedding_size=16)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn pairs and videos."""
    folder = tmp_path_factory.mktemp("drawn")
    sizes = ["--identities=2", "--images=2", "--held_out=20", "--pairs=20", "--videos=2", "--frames=2"]
    draw_faces(["--out", str(folder), *sizes])
    return folder


def test_the_page_about_fine_tuning_runs(net, tmp_path):
    export_saved_model(net, tmp_path / "model")
    tints = np.random.default_rng(0).uniform(0.5, 1, (36, 3))
    for person, tint in enumerate(tints):
        folder = tmp_path / ("photos" if person < 16 else "held_out") / f"person_{person}"
        for number in range(2):
            portrait.write_picture(folder / f"{number}.jpg", portrait.scene(face=90 + 20 * number, tint=tint))
    (tmp_path / "lfw.bin").symlink_to("held.bin")
    run_page("tutorials/fine_tune", tmp_path, smaller=[("--max_steps 200", "--max_steps 2")])
    assert (tmp_path / "output" / "held" / "tuned--ckpt" / "scores.json").exists()


def test_the_page_about_distillation_runs(net, drawn, tmp_path):
    write_onnx(net, tmp_path / "teacher.onnx", (112, 112), "float32", None)
    (tmp_path / "lfw.bin").symlink_to(drawn / "lfw.np")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lfw.np").symlink_to(drawn / "lfw.np")
    (tmp_path / "data" / "faces").symlink_to(drawn / "ytf" / "112x112")
    run_page(
        "tutorials/distil",
        tmp_path,
        smaller=[
            ("--epoch 20", "--max_steps 2 --batch_size 4 --warmup_steps 1"),
            # After two steps, the accuracy on a few pairs is a matter of chance.
            ("--calibration data/faces", "--calibration data/faces --max_drop 1"),
        ],
    )
    assert (tmp_path / "small.tflite").exists()


def test_the_page_about_youtube_faces_runs(net, drawn, tmp_path):
    export_saved_model(net, tmp_path / MODEL)
    (tmp_path / "aligned_images_DB").symlink_to(drawn / "ytf" / "112x112")
    (tmp_path / "people").symlink_to(drawn / "ytf" / "112x112")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "ytf-error.txt").symlink_to(ROOT / "dataset" / "ytf-error.txt")
    (tmp_path / "data" / "ytf").mkdir(parents=True)
    (tmp_path / "data" / "ytf" / "splits_corrected.txt").symlink_to(drawn / "ytf" / "splits.txt")
    scores = f"output/ytf/{MODEL.replace('/', '--')}"
    run_page(
        "tutorials/evaluate_ytf", tmp_path, smaller=[(f"output/ytf/{x}", scores) for x in ("FIRST", "SECOND")]
    )
    assert (tmp_path / "comparison.html").exists()
