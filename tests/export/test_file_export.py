import collections
import importlib

import numpy as np
import pytest

from dataset.pairs.image_pairs import read_pairs
from eval.embedding.embedder import load_embedder
from eval.embedding.model_card import read_card
from export import scoring, tflite
from nets.importers.keras_file import save_keras_file
from tests.export.test_onnx import PAIRS, net  # noqa: F401

SUFFIXES = {"onnx": ".onnx", "tflite": ".tflite", "openvino": ".xml"}


def run(name, folder, *flags):
    program = importlib.import_module(f"export.{name}")
    out = folder / f"out{SUFFIXES[name]}"
    program.main([str(folder / "net.keras"), str(out), f"--pairs={PAIRS}", *flags])
    return out


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("exports")
    save_keras_file(net, folder / "net.keras")
    return folder


def operations(path):
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        return collections.Counter(entry["op_name"] for entry in interpreter._get_ops_details())
    import openvino

    return collections.Counter(op.get_type_name() for op in openvino.Core().read_model(path).get_ops())


@pytest.mark.long
@pytest.mark.parametrize("name", ["onnx", "tflite", "openvino"])
def test_every_precision_keeps_embeddings_close(folder, name, monkeypatch, capsys):
    monkeypatch.setattr(scoring, "_SECONDS", 0.01)
    monkeypatch.setattr(scoring, "_NUM_RESAMPLES", 20)
    expected = load_embedder(folder / "net.keras", (112, 112))
    faces = read_pairs(PAIRS).batch(0, 3)
    size, of_net = {}, expected.embed(faces)
    for precision, flags, tolerance in (
        ("float32", (), 1e-4),
        ("float16", (), 1e-2),
        ("int8", (f"--calibration={PAIRS}", "--max_drop=1"), 0.3),
    ):
        out = run(name, folder, f"--precision={precision}", *flags, "--overwrite")
        size[precision] = sum(file.stat().st_size for file in folder.glob("out.*"))
        model = load_embedder(out)
        assert model.face_size == (112, 112)
        for count in (1, 3):
            received = model.embed(faces[:count])
            np.testing.assert_allclose(received, of_net[:count], atol=tolerance * np.abs(of_net).max())
        card = read_card(out)
        assert card["precision"] == precision and card.calibration().set == PAIRS.stem
        if name != "onnx":
            prelus = {kind: count for kind, count in operations(out).items() if kind.lower() == "prelu"}
            assert list(prelus.values()) == [5]
        for file in folder.glob("out.*"):
            file.unlink()
    assert size["float16"] < 0.6 * size["float32"]
    assert size["int8"] < 0.45 * size["float32"]
    assert "images/s" not in capsys.readouterr().err


@pytest.mark.long
def test_int8_layers_compute_in_int8_but_normalisation_does_not(folder, monkeypatch):
    """With the converter's public API, the length of an embedding would be int8, too."""
    monkeypatch.setattr(scoring, "_SECONDS", 0.01)
    monkeypatch.setattr(scoring, "_NUM_RESAMPLES", 20)
    out = run("tflite", folder, "--precision=int8", f"--calibration={PAIRS}", "--max_drop=1", "--overwrite")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(out))
    types = {entry["index"]: entry["dtype"] for entry in interpreter.get_tensor_details()}
    of_outputs = collections.defaultdict(set)
    for entry in interpreter._get_ops_details():
        of_outputs[entry["op_name"]] |= {types[index] for index in entry["outputs"]}
    assert of_outputs["CONV_2D"] == of_outputs["FULLY_CONNECTED"] == {np.int8}
    assert all(of_outputs[kind] == {np.float32} for kind in tflite._NOT_IN_INT8 if kind in of_outputs)
    signature = interpreter.get_signature_runner("serving_default")
    assert signature.get_input_details()["images"]["dtype"] == np.uint8
    faces = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    outputs = signature(images=faces)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-5)
    assert outputs["norm"].shape == (2,)


@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--precision=int8"], "--calibration"),
        (["--calibration=faces"], "--calibration"),
        (["--precision=int4"], "--precision"),
    ],
)
def test_wrong_flags_are_named(tmp_path, name, flags, named, capsys):
    with pytest.raises(SystemExit) as error:
        run(name, tmp_path, *flags)
    assert error.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("name", SUFFIXES)
def test_a_wrong_suffix_is_refused(tmp_path, name, capsys):
    program = importlib.import_module(f"export.{name}")
    with pytest.raises(SystemExit):
        program.main(["net.keras", str(tmp_path / "net.pb"), f"--pairs={PAIRS}"])
    assert SUFFIXES[name] in capsys.readouterr().err


def test_a_pair_file_is_not_replaced_by_weights(tmp_path, capsys):
    (tmp_path / "out.bin").write_bytes(b"pairs")
    with pytest.raises(SystemExit) as error:
        run("openvino", tmp_path, "--overwrite")
    assert error.value.code == 2
    assert str(tmp_path / "out.bin") in capsys.readouterr().err
