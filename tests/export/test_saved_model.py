import importlib.util
import resource
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from dataset.preprocess import preprocess
from eval.embedding.face_model import FaceModel, load_face_model
from export import saved_model
from export.saved_model import export_saved_model, main
from nets.backbone import Backbone, load_backbone
from tests.dataset.samples import flip_bit
from training.checkpoints import Checkpoints

NET = {
    "architecture": "ir32",
    "image_size": (32, 24),
    "embedding_size": 64,
    "keep_prob": 0.4,
    "seed": 2,
}
FACES = np.random.default_rng(0).integers(0, 256, (5, 40, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A net whose statistics have moved, in all forms that it can be saved in."""
    folder = tmp_path_factory.mktemp("models")
    backbone = Backbone(**NET)
    backbone(preprocess(tf.constant(FACES), (32, 24)), training=True)
    export_saved_model(backbone, folder / "saved_model", (40, 32))
    Checkpoints(folder / "ckpt", tf.train.Checkpoint(backbone=backbone), NET, 9, "triplet").save(7)
    main([f"--model_path={folder / 'ckpt'}", f"--out={folder / 'net.keras'}"])
    return backbone, folder


def reference(backbone):
    """NumPy preprocessing, then the net: embeddings that are not normalised."""
    cropped = FACES[:, 4:36, 4:28, ::-1].astype(np.float32)
    return backbone((cropped - 127.5) / 128, training=False).numpy()


def test_signatures(saved):
    backbone, folder = saved
    expected = reference(backbone)
    signatures = tf.saved_model.load(str(folder / "saved_model")).signatures
    assert set(signatures) == {"serving_default", "raw"}
    served = signatures["serving_default"](images=tf.constant(FACES))
    norms = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(served["norm"], norms, rtol=1e-4)
    np.testing.assert_allclose(served["embedding"], expected / norms[:, None], atol=1e-5)
    raw = signatures["raw"](images=preprocess(tf.constant(FACES), (32, 24)))
    np.testing.assert_allclose(raw["embedding"], expected, rtol=1e-3, atol=1e-4)
    one = signatures["serving_default"](images=tf.constant(FACES[:1]))
    np.testing.assert_allclose(one["embedding"], served["embedding"][:1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "faces"),
    [
        ("serving_default", np.zeros((2, 60, 50, 3), np.uint8)),
        ("serving_default", np.zeros((2, 20, 20, 3), np.uint8)),
        ("serving_default", np.zeros((2, 40, 32, 1), np.uint8)),
        ("serving_default", FACES[0]),  # without the batch axis it would end the process
        ("raw", np.zeros((2, 40, 32, 3), np.float32)),
        ("raw", np.zeros((32, 24, 3), np.float32)),
    ],
)
def test_signatures_refuse_images_of_another_size(saved, name, faces):
    signature = tf.saved_model.load(str(saved[1] / "saved_model")).signatures[name]
    received = ",".join(map(str, faces.shape))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\[{received}\] is not compatible"):
        signature(images=tf.constant(faces))


def test_signatures_state_the_shape(saved):
    signatures = tf.saved_model.load(str(saved[1] / "saved_model")).signatures
    shapes = {
        name: signature.structured_input_signature[1]["images"].shape
        for name, signature in signatures.items()
    }
    assert shapes == {"serving_default": (None, 40, 32, 3), "raw": (None, 32, 24, 3)}


def test_an_empty_batch(saved):
    signatures = tf.saved_model.load(str(saved[1] / "saved_model")).signatures
    served = signatures["serving_default"](images=tf.constant(FACES[:0]))
    assert (served["embedding"].shape, served["norm"].shape) == ((0, 64), (0,))
    assert signatures["raw"](images=tf.zeros((0, 32, 24, 3)))["embedding"].shape == (0, 64)


@pytest.mark.parametrize("name", ["saved_model", "net.keras", "ckpt", "ckpt/step_00000007"])
def test_every_form_embeds_alike(saved, name):
    backbone, folder = saved
    received = load_face_model(folder / name, (40, 32)).embed(FACES)
    np.testing.assert_allclose(received, reference(backbone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["saved_model", "net.keras", "ckpt"])
def test_every_form_gives_the_net_back_to_train_it(saved, name):
    backbone, folder = saved
    loaded = load_backbone(folder / name)
    assert loaded.net == backbone.net
    for one, two in zip(loaded.variables, backbone.variables, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=one.path)


def test_a_saved_model_of_somebody_else_or_a_damaged_one(saved, tmp_path):
    folder = shutil.copytree(saved[1] / "saved_model", tmp_path / "model")
    net = (folder / "net.json").read_text()
    (folder / "net.json").write_text(net.replace("ir32", "se_ir32"))
    with pytest.raises(ValueError, match=r"model: expected the weights of the net in net.json"):
        load_backbone(folder)
    (folder / "net.json").write_text(net)
    flip_bit(folder / "variables" / "variables.data-00000-of-00001", 5000)
    with pytest.raises(ValueError, match=r"model: expected the weights of the net in net.json"):
        load_backbone(folder)
    (folder / "net.json").unlink()
    with pytest.raises(ValueError, match=r"net\.json"):
        load_backbone(folder)


def test_a_net_of_mixed_precision_is_exported_in_float32(saved, tmp_path):
    backbone, _ = saved
    mixed = Backbone(**NET, dtype="mixed_bfloat16")
    mixed.set_weights(backbone.get_weights())
    export_saved_model(mixed, tmp_path / "model", (40, 32))
    received = load_face_model(tmp_path / "model", (40, 32)).embed(FACES)
    np.testing.assert_allclose(received, reference(backbone), rtol=1e-3, atol=1e-4)


def test_a_net_on_two_replicas_is_validated_and_exported(saved, two_replicas, tmp_path):
    with two_replicas.scope():
        backbone = Backbone(**NET)
    backbone.set_weights(saved[0].get_weights())
    export_saved_model(backbone, tmp_path / "model", (40, 32))
    exported = load_face_model(tmp_path / "model", (40, 32)).embed(FACES)
    validated = FaceModel.from_backbone(backbone, (40, 32)).embed(FACES)
    for received in (exported, validated):
        np.testing.assert_allclose(received, reference(saved[0]), rtol=1e-3, atol=1e-4)


def test_a_new_exporter_is_a_module_and_a_line(saved, tmp_path, monkeypatch, capsys):
    (tmp_path / "shape_file.py").write_text(
        "def export(backbone, path, face_size):\n"
        "    path.write_text(str((backbone.output_shape, face_size)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(saved_model._EXPORTERS, ".txt", "shape_file")
    flags = [f"--model_path={saved[1] / 'net.keras'}", f"--out={tmp_path / 'net.txt'}"]
    main([*flags, "--face_size", "40", "32"])
    assert (tmp_path / "net.txt").read_text() == "((None, 64), (40, 32))"
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "net.txt")


@pytest.mark.parametrize("name", ["net.onnx", "net.tflite", "net.pth", "NET.ONNX"])
def test_names_of_other_formats_are_refused(saved, tmp_path, name, capsys):
    with pytest.raises(SystemExit) as error:
        main([f"--model_path={saved[1] / 'net.keras'}", f"--out={tmp_path / name}"])
    assert error.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert str(tmp_path / name) in message
    exists = importlib.util.find_spec(f"export{Path(name).suffix.lower()}") is not None
    assert (f"python -m export{Path(name).suffix.lower()}" in message) == exists
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model", "net.keras"])
def test_an_existing_model_is_replaced_only_with_overwrite(saved, tmp_path, name):
    out = tmp_path / name
    flags = [f"--out={out}", "--face_size", "40", "32"]
    Backbone(**{**NET, "embedding_size": 8}).save(tmp_path / "other.keras")
    main([f"--model_path={saved[1] / 'net.keras'}", *flags])
    with pytest.raises(SystemExit, match=f"{out}: exists already"):
        main([f"--model_path={tmp_path / 'other.keras'}", *flags])
    assert load_backbone(out).output_shape == (None, 64)
    main([f"--model_path={tmp_path / 'other.keras'}", *flags, "--overwrite"])
    assert load_backbone(out).output_shape == (None, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "other.keras"])


def test_overwrite_replaces_nothing_but_a_model(saved, tmp_path):
    for out in (tmp_path / "ckpt", tmp_path / "folder.keras", tmp_path / "file"):
        out.write_text("mine") if out.name == "file" else (out / "mine").mkdir(parents=True)
        with pytest.raises(SystemExit, match=f"{out}: "):
            main([f"--model_path={saved[1] / 'net.keras'}", f"--out={out}", "--overwrite"])
        assert out.read_text() == "mine" if out.name == "file" else (out / "mine").is_dir()


def test_nothing_is_overwritten_or_half_written(saved, tmp_path, monkeypatch):
    backbone, folder = saved
    with pytest.raises(FileExistsError, match="saved_model: "):
        export_saved_model(backbone, folder / "saved_model", (40, 32))

    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(backbone, tmp_path / "model", (40, 32))
    assert not list(tmp_path.iterdir())


def test_wrong_sizes(saved):
    backbone, folder = saved
    with pytest.raises(ValueError, match=r"\(32, 24\).*\(20, 24\)"):
        FaceModel.from_backbone(backbone, (20, 24))
    with pytest.raises(ValueError, match=r"\(40, 32\).*\(112, 112\)"):
        load_face_model(folder / "saved_model", (112, 112))
    model = load_face_model(folder / "saved_model", (40, 32))
    with pytest.raises(ValueError, match=r"\*\(40, 32\), 3"):
        model.embed(FACES[:, :30])


def test_not_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_face_model(tmp_path / "nothing", (40, 32))
    with pytest.raises(ValueError, match=r"SavedModel .* training checkpoint"):
        load_face_model(tmp_path, (40, 32))

    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((None,), tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures={"serving_default": module.double})
    with pytest.raises(ValueError, match="received x ->"):
        load_face_model(tmp_path / "other", (40, 32))


def test_a_keras_file_that_would_run_code(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "hostile.keras")
    with pytest.raises(ValueError, match=r"hostile\.keras"):
        load_face_model(tmp_path / "hostile.keras", (40, 32))


def test_no_space_for_it(saved, tmp_path):
    """Writing fails half-way, as on a full disk: what is said, and nothing is left."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(OSError, match=r"model: .*too large"):
            export_saved_model(saved[0], tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())
