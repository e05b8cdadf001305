"""Runs all commands and examples of the pages about using a model, with small made-up data."""

import pickle

import pytest

from tests import portrait
from tests.run_page import run_page

pytestmark = [pytest.mark.tensorflow, pytest.mark.long, pytest.mark.timeout(600)]
FACES = "import numpy; faces = numpy.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), 'uint8')\n"
# The pages of a group need the files of the pages before them.
GROUPS = (("thresholds", "recognise_people"), ("use_a_model",), ("export",), ("quick_start",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes a folder with the files that the pages name."""
    from dataset.synthetic.__main__ import main as draw_faces
    from export.saved_model import export_saved_model
    from nets.backbone import Backbone

    folder = tmp_path_factory.mktemp("user")
    sizes = ["--identities=2", "--images=4", "--held_out=20", "--pairs=20", "--videos=2", "--frames=2"]
    draw_faces(["--out", str(folder / "data"), *sizes])
    (folder / "data" / "ytf").rename(folder / "ytf")
    (folder / "faces").symlink_to(folder / "ytf" / "112x112")
    # Genuine pairs are one image twice, and impostor pairs show two people. A random net can separate these.
    faces = [path.read_bytes() for path in sorted((folder / "faces").glob("*/1/*.jpg"))]
    pairs = [
        face for number in range(100) for face in (faces[number % 40], faces[(number + number % 2) % 40])
    ]
    (folder / "lfw.bin").write_bytes(pickle.dumps((pairs, [number % 2 == 0 for number in range(100)])))
    export_saved_model(Backbone("ir32", image_size=(32, 32), embedding_size=16), folder / "model")
    pink, green = (1, 0.8, 0.8), (0.7, 1, 0.7)
    portrait.write_picture(folder / "ada_1.jpg", portrait.scene())
    portrait.write_picture(folder / "ada_2.jpg", portrait.scene(face=120))
    for name, tint in (("ada", (1, 1, 1)), ("grace", pink)):
        portrait.write_picture(folder / "people" / name / "1.jpg", portrait.scene(tint=tint))
    for name, tint in (("ada", (1, 1, 1)), ("kay", green)):
        portrait.write_video(folder / "probes" / name / "1.mp4", portrait.moving(20, tint=tint))
    portrait.write_video(folder / "party.mp4", portrait.moving(30, face=100))
    return folder


@pytest.mark.parametrize("pages", GROUPS, ids=" and ".join)
def test_commands_of_pages_run(pages, folder):
    for page in pages:
        run_page(page, folder, preamble=FACES)
