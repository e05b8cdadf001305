import importlib.util
import math
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import export.signatures
from dataset.images import decode_picture
from dataset.preprocess import preprocess
from eval.embedding.face_model import FaceModel, load_face_model
from eval.embedding.model_card import read_card
from eval.scoring.templates import pool
from export import saved_model
from export.saved_model import export_saved_model, main
from export.signatures import make_signatures
from nets.backbone import Backbone, load_backbone
from tests.dataset.samples import flip_bit
from training.checkpoints import Checkpoints

NET = {
    "architecture": "ir8",
    "image_size": (32, 24),
    "embedding_size": 64,
    "keep_prob": 0.4,
    "seed": 2,
}
FACES = np.random.default_rng(0).integers(0, 256, (5, 40, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns a net with moved statistics, and a folder that holds it in all three formats."""
    folder = tmp_path_factory.mktemp("models")
    backbone = Backbone(**NET)
    backbone(preprocess(tf.constant(FACES), (32, 24)), training=True)
    export_saved_model(backbone, folder / "saved_model", (40, 32))
    Checkpoints(folder / "ckpt", tf.train.Checkpoint(backbone=backbone), NET, 9, "triplet").save(7)
    main([f"--model_path={folder / 'ckpt'}", f"--out={folder / 'net.keras'}"])
    return backbone, folder


def reference(backbone):
    """Returns embeddings that are not normalised, from preprocessing in NumPy and the net."""
    cropped = FACES[:, 4:36, 4:28, ::-1].astype(np.float32)
    return backbone((cropped - 127.5) / 128, training=False).numpy()


@pytest.fixture(scope="module")
def signatures(saved):
    return tf.saved_model.load(str(saved[1] / "saved_model")).signatures


def encoded(suffix, faces=FACES):
    """Encodes RGB faces as image files."""
    return tf.constant([cv2.imencode(suffix, face[..., ::-1])[1].tobytes() for face in faces])


def test_every_signature_gives_the_embeddings_of_the_net(saved, signatures):
    expected = reference(saved[0])
    norms = np.linalg.norm(expected, axis=1)
    assert set(signatures) == {"serving_default", "embed_bgr", "embed_jpeg", "template", "raw"}
    for name, images in (
        ("serving_default", FACES),
        ("embed_bgr", FACES[..., ::-1]),
        ("embed_jpeg", encoded(".png")),
    ):
        served = signatures[name](images=tf.constant(images))
        np.testing.assert_allclose(served["norm"], norms, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(served["embedding"], expected / norms[:, None], atol=1e-5, err_msg=name)
        one = signatures[name](images=tf.constant(images[:1]))
        np.testing.assert_allclose(one["embedding"], served["embedding"][:1], atol=1e-5, err_msg=name)
    raw = signatures["raw"](images=preprocess(tf.constant(FACES), (32, 24)))
    np.testing.assert_allclose(raw["embedding"], expected, rtol=1e-3, atol=1e-4)


def test_jpeg_files_are_decoded_to_the_pixels_of_this_project(signatures):
    files = encoded(".jpg")
    decoded = np.stack([decode_picture(file) for file in files.numpy()])
    received = signatures["embed_jpeg"](images=files)["embedding"]
    expected = signatures["serving_default"](images=tf.constant(decoded))["embedding"]
    np.testing.assert_allclose(received, expected, atol=1e-6)


VIDEO = np.array([7, -2, 7, 400, 7])


def test_template_pools_the_frames_of_each_video(saved, signatures):
    template = signatures["template"]
    served = template(images=tf.constant(FACES), video=tf.constant(VIDEO))
    assert served["video"].numpy().tolist() == [-2, 7, 400]
    frames = reference(saved[0])
    expected = [pool(frames[number == VIDEO], "mean") for number in (-2, 7, 400)]
    np.testing.assert_allclose(served["template"], expected, atol=1e-5)
    one = template(images=tf.constant(FACES[1:2]), video=tf.constant(VIDEO[1:2]))
    np.testing.assert_allclose(one["template"], expected[:1], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "normalised_mean", "norm_weighted"])
def test_template_uses_the_chosen_pooling(pooling, monkeypatch):
    """The frames are embedded in parts, like those of a long video, and one embedding has length 0."""
    monkeypatch.setattr(export.signatures, "_FRAMES_AT_ONCE", 2)
    dense = keras.layers.Dense(8, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(seed=0))
    net = keras.Sequential([keras.Input((32, 24, 3)), keras.layers.ReLU(), keras.layers.Flatten(), dense])
    faces = FACES.copy()
    faces[2] = 0
    embeddings = net(preprocess(tf.constant(faces), (32, 24))).numpy()
    assert embeddings.any(axis=1).tolist() == [True, True, False, True, True]
    template = make_signatures(net, (40, 32), pooling)["template"]
    served = template(images=tf.constant(faces), video=tf.constant(VIDEO))
    expected = [pool(embeddings[number == VIDEO], pooling) for number in (-2, 7, 400)]
    np.testing.assert_allclose(served["template"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("serving_default", np.zeros((2, 60, 50, 3), np.uint8)),
        ("serving_default", np.zeros((2, 20, 20, 3), np.uint8)),
        ("serving_default", np.zeros((2, 40, 32, 1), np.uint8)),
        ("serving_default", FACES[0]),  # Without the check, a missing batch axis would crash the process.
        ("embed_bgr", FACES[0]),
        ("embed_jpeg", encoded(".jpg", FACES[:, :39])),
        ("embed_jpeg", encoded(".webp")),  # TensorFlow decodes it to a video of one frame.
        ("embed_jpeg", encoded(".png")[0]),
        ("template", np.zeros((5, 40, 30, 3), np.uint8)),
        ("raw", np.zeros((2, 40, 32, 3), np.float32)),
        ("raw", np.zeros((32, 24, 3), np.float32)),
    ],
)
def test_signatures_refuse_images_of_another_size(signatures, name, images):
    more = {"video": tf.constant(VIDEO)} if name == "template" else {}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[[\d,]*\] is not compatible"):
        signatures[name](images=tf.constant(images), **more)


def test_signatures_refuse_text_as_a_picture_and_missing_numbers(signatures):
    with pytest.raises(tf.errors.InvalidArgumentError, match="JPEG"):
        signatures["embed_jpeg"](images=tf.constant([b"text"]))
    for video in (VIDEO[:4], VIDEO[:, None]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures["template"](images=tf.constant(FACES), video=tf.constant(video))


def test_an_empty_batch_gives_no_embeddings(signatures):
    none = {"images": tf.constant(FACES[:0])}
    for name in ("serving_default", "embed_bgr", "embed_jpeg"):
        served = (
            signatures[name](images=tf.constant([], tf.string))
            if "jpeg" in name
            else signatures[name](**none)
        )
        assert (served["embedding"].shape, served["norm"].shape) == ((0, 64), (0,))
    served = signatures["template"](**none, video=tf.constant([], tf.int64))
    assert (served["template"].shape, served["video"].shape) == ((0, 64), (0,))
    assert signatures["raw"](images=tf.zeros((0, 32, 24, 3)))["embedding"].shape == (0, 64)


def test_signatures_and_card_state_shapes(saved, signatures):
    described = read_card(saved[1] / "saved_model")["signatures"]
    assert set(described) == set(signatures)
    for name, signature in signatures.items():
        sides = (signature.structured_input_signature[1], signature.structured_outputs)
        stated = [
            {key: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for key, spec in side.items()}
            for side in sides
        ]
        assert [described[name]["inputs"], described[name]["outputs"]] == stated
    assert described["template"]["inputs"] == {
        "images": {"dtype": "uint8", "shape": [None, 40, 32, 3]},
        "video": {"dtype": "int64", "shape": [None]},
    }
    assert described["raw"]["outputs"] == {"embedding": {"dtype": "float32", "shape": [None, 64]}}


def test_signatures_share_weights_and_graph(saved):
    backbone, folder = saved
    content = SavedModel.FromString((folder / "saved_model" / "saved_model.pb").read_bytes())
    (graph,) = (meta.graph_def for meta in content.meta_graphs)
    nodes = [node for function in graph.library.function for node in function.node_def]
    convs = [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(node.op == "Conv2D" for node in nodes) == len(convs)
    (variables,) = (folder / "saved_model" / "variables").glob("variables.data*")
    # The file contains the weights of the net, and those of its faster version.
    assert variables.stat().st_size < 2.1 * sum(4 * math.prod(weight.shape) for weight in backbone.weights)


def test_preprocessing_by_the_card_equals_that_of_the_model(saved):
    backbone, folder = saved
    card = read_card(folder / "saved_model")
    assert card["net"] == backbone.net
    assert (card["embedding_size"], card["pooling"]) == (64, "mean")
    told = card["preprocessing"]
    # This preprocessing in NumPy uses only the values of the card.
    top, left = ((have - want) // 2 for have, want in zip(told["face_size"], told["image_size"], strict=True))
    pixels = FACES[:, top : top + told["image_size"][0], left : left + told["image_size"][1]]
    assert (told["channels"], told["layout"]) == ("bgr", "nhwc")
    images = (pixels[..., ::-1] - np.array(told["mean"])) / np.array(told["scale"])
    np.testing.assert_array_equal(images.astype(np.float32), preprocess(tf.constant(FACES), (32, 24)))


@pytest.mark.long
def test_a_saved_model_loads_without_this_project(saved, signatures, tmp_path):
    np.save(tmp_path / "faces.npy", FACES)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "faces, video = tf.constant(np.load('faces.npy')), tf.constant([0, 0, 1, 1, 1], tf.int64)\n"
        "np.save('templates.npy', model.signatures['template'](images=faces, video=video)['template'])\n"
        "assert not {'nets', 'export', 'dataset', 'eval', 'common'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(saved[1] / "saved_model")]
    run = subprocess.run(
        command, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    video = tf.constant([0, 0, 1, 1, 1], tf.int64)
    expected = signatures["template"](images=tf.constant(FACES), video=video)["template"]
    np.testing.assert_allclose(np.load(tmp_path / "templates.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["saved_model", "net.keras", "ckpt", "ckpt/step_00000007"])
def test_every_format_gives_the_same_embeddings(saved, name):
    backbone, folder = saved
    received = load_face_model(folder / name, (40, 32)).embed(FACES)
    np.testing.assert_allclose(received, reference(backbone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["saved_model", "net.keras", "ckpt"])
def test_every_format_restores_the_net_for_training(saved, name):
    backbone, folder = saved
    loaded = load_backbone(folder / name)
    assert loaded.net == backbone.net
    for one, two in zip(loaded.variables, backbone.variables, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=one.path)


def test_a_foreign_or_damaged_saved_model_is_refused(saved, tmp_path):
    folder = shutil.copytree(saved[1] / "saved_model", tmp_path / "model")
    net = (folder / "net.json").read_text()
    (folder / "net.json").write_text(net.replace("ir8", "ir32"))
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


def test_a_new_exporter_needs_a_module_and_a_table_entry(saved, tmp_path, monkeypatch, capsys):
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
    with pytest.raises(SystemExit, match=f"{out}: already exists"):
        main([f"--model_path={tmp_path / 'other.keras'}", *flags])
    assert load_backbone(out).output_shape == (None, 64)
    main([f"--model_path={tmp_path / 'other.keras'}", *flags, "--overwrite"])
    assert load_backbone(out).output_shape == (None, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "other.keras"])


def test_overwrite_replaces_only_models(saved, tmp_path):
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


def test_faces_of_a_wrong_size_are_refused(saved):
    backbone, folder = saved
    with pytest.raises(ValueError, match=r"\(32, 24\).*\(20, 24\)"):
        FaceModel.from_backbone(backbone, (20, 24))
    with pytest.raises(ValueError, match=r"\(40, 32\).*\(112, 112\)"):
        load_face_model(folder / "saved_model", (112, 112))
    model = load_face_model(folder / "saved_model", (40, 32))
    with pytest.raises(ValueError, match=r"\*\(40, 32\), 3"):
        model.embed(FACES[:, :30])


def test_a_path_without_a_face_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_face_model(tmp_path / "nothing", (40, 32))
    with pytest.raises(ValueError, match=r"SavedModel .* training checkpoint"):
        load_face_model(tmp_path, (40, 32))

    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((None,), tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures={"serving_default": module.double})
    with pytest.raises(ValueError, match="received x ->"):
        load_face_model(tmp_path / "other", (40, 32))


def test_a_keras_file_that_would_run_code_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "hostile.keras")
    with pytest.raises(ValueError, match=r"hostile\.keras"):
        load_face_model(tmp_path / "hostile.keras", (40, 32))


def test_a_failed_write_is_named_and_leaves_nothing(saved, tmp_path):
    """A limit on the file size makes writing fail half-way, like a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(OSError, match=r"model: .*too large"):
            export_saved_model(saved[0], tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())
