import json
import shutil
import zipfile

import numpy as np
import onnx
import pytest

from eval.embedding.model_card import ModelCard, card_path, read_card, write_card
from nets.importers.model_files import describe_model, model_sha256
from tests.eval.made_calibration import calibration
from tests.nets.written_models import flip_bit, write_checkpoint, write_onnx, write_saved_model

WEIGHTS = np.ones((2, 2), np.float32)


CARD = ModelCard({"step": 7, "note": "of another version"}).with_calibration(calibration())


def write_model(folder, kind):
    if kind == "onnx":
        return write_onnx(folder, WEIGHTS)
    return (write_saved_model if kind == "saved_model" else write_checkpoint_3)(folder)


def write_checkpoint_3(folder):
    return write_checkpoint(folder / "step_00000003", b"weights")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("saved_model", "a/model_card.json"),
        ("onnx", "a/net.onnx.model_card.json"),
        ("checkpoint", "a/step_00000003.model_card.json"),
    ],
)
def test_a_card_is_read_back_and_changes_no_digest(tmp_path, kind, name):
    model = write_model(tmp_path / "a", kind)
    digest = model_sha256(model)
    assert read_card(model) == {}
    assert read_card(model).calibration() is None
    path = write_card(model, CARD)
    assert path == card_path(model) == tmp_path / name
    card = read_card(model)
    assert card == {**CARD, "sha256": card["sha256"]}
    assert card.calibration("single") == calibration()
    assert model_sha256(model) == digest
    if kind == "checkpoint":
        assert read_card(model.parent) == card  # the folder stands for its newest checkpoint


@pytest.mark.parametrize("kind", ["saved_model", "onnx", "checkpoint"])
def test_a_card_of_another_model_is_refused(tmp_path, kind):
    model, other = (write_model(tmp_path / name, kind) for name in "ab")
    shutil.copy(write_card(model, CARD), card_path(other))
    if kind == "checkpoint":
        manifest = (other / "checkpoint.json").read_text()
        (other / "checkpoint.json").write_text(manifest.replace("ir32", "ir50"))
    else:
        flip_bit(other / "variables" / "variables.index" if kind == "saved_model" else other)
    with pytest.raises(ValueError, match=str(card_path(other))):
        read_card(other)


def test_a_card_without_a_digest_is_read_only_for_a_saved_model(tmp_path):
    """Earlier versions wrote such cards, but only for SavedModels."""
    model = write_saved_model(tmp_path / "a")
    (model / "net.json").unlink()
    card_path(model).write_text(json.dumps({"step": 9, "scores": {}}))
    assert read_card(model) == {"step": 9, "scores": {}}
    assert describe_model(model).steps == 9
    card_path(model).write_text("{}")
    assert describe_model(model).steps is None
    file = write_onnx(tmp_path / "b", WEIGHTS)
    card_path(file).write_text("{}")
    with pytest.raises(ValueError, match="sha256"):
        read_card(file)


def test_other_files_in_a_saved_model_change_no_digest(tmp_path):
    model = write_saved_model(tmp_path / "a")
    write_card(model, CARD)
    (model / "README.md").write_text("People add files.")
    assert read_card(model)["step"] == 7


def test_a_temporary_file_changes_no_digest(tmp_path):
    model = write_saved_model(tmp_path / "a")
    digest = model_sha256(model)
    (model / "model_card.json.host-7.tmp").write_text("{")
    assert model_sha256(model) == digest


def embed_in_onnx(path, text):
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"model_card": text})
    onnx.save(model, path)


def embed_in_tflite(path, text):
    path.write_bytes(b"TFL3 and a net")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model_card.json", text)


def embed_in_openvino(path, text):
    text = text.replace("&", "&amp;").replace('"', "&quot;")
    path.write_text(f'<net><rt_info><model_card value="{text}" /></rt_info></net>')


EMBED = {".onnx": embed_in_onnx, ".tflite": embed_in_tflite, ".xml": embed_in_openvino}
EMPTY = {".tflite": b"TFL3 and a net", ".xml": b"<net><layers /></net>"}


@pytest.mark.parametrize("suffix", list(EMBED))
def test_a_card_inside_a_file_is_read(tmp_path, suffix):
    path = write_onnx(tmp_path / "a", WEIGHTS).with_suffix(suffix)
    path.write_bytes(EMPTY.get(suffix) or path.read_bytes())
    path.with_suffix(".bin").write_bytes(b"the weights of OpenVINO")
    assert read_card(path) == {}
    EMBED[suffix](path, ModelCard({**CARD, "sha256": "of what it was made from"}).to_embed())
    assert read_card(path) == CARD
    # A card in the folder is used instead.
    write_card(path, CARD.with_calibration(calibration(name="other")))
    found = read_card(path).calibration()
    assert found is not None and found.set == "other"
    card_path(path).unlink()
    EMBED[suffix](path, "[1]")
    with pytest.raises(ValueError, match=f"net{suffix}"):
        read_card(path)


def test_damaged_files_with_a_card_are_refused(tmp_path):
    (tmp_path / "net.xml").write_bytes(b"<net")
    with pytest.raises(ValueError, match=r"net\.xml"):
        read_card(tmp_path / "net.xml")
    embed_in_tflite(tmp_path / "net.tflite", "{}" * 1000)
    content = bytearray((tmp_path / "net.tflite").read_bytes())
    content[100] ^= 1
    (tmp_path / "net.tflite").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.tflite"):
        read_card(tmp_path / "net.tflite")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"calibrations": []}',
        '{"calibrations": {"single": {}}}',
        '{"calibrations": {"single": 3}}',
    ],
)
def test_a_damaged_card_is_refused(tmp_path, text):
    model = write_saved_model(tmp_path / "a")
    card_path(model).write_text(text)
    with pytest.raises(ValueError, match=r"model_card\.json"):
        read_card(model)


def test_thresholds_under_a_wrong_kind_are_refused(tmp_path):
    model = write_saved_model(tmp_path / "a")
    write_card(model, {"calibrations": {"template": CARD["calibrations"]["single"]}})
    with pytest.raises(ValueError, match=r"calibrations\.template.*'single'"):
        read_card(model)


def test_thresholds_of_the_preferred_kind_are_returned():
    both = CARD.with_calibration(calibration("template"))
    assert CARD.calibration("template") == calibration("single")
    assert {kind: both.calibration(kind) for kind in ("single", "template")} == {
        kind: calibration(kind) for kind in ("single", "template")
    }
    assert both.with_calibration(calibration(name="new")).calibration("single") == calibration(name="new")
