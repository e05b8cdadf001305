import json

import keras
import numpy as np
import onnxruntime
import pytest

from dataset.preprocess import preprocess
from nets.backbone import Backbone, decayed_variables, load_backbone
from nets.importers.insightface_weights import identify_net, torch_variables
from nets.importers.pixels import Pixels
from nets.inference import inference_net
from nets.layers.grouped_conv import GroupedConv
from nets.mobilefacenet import mobilefacenet
from nets.variants import VARIANTS
from tests.nets.counting import multiply_adds, num_parameters
from tests.nets.onnx_mobilefacenet import OnnxMobileFaceNet
from tests.nets.test_inference import randomise
from tests.torch_state import mobilefacenet_state
from tests.torch_zip import write_state_dict

IMAGE_SIZE, FEATURE_SIZE = (32, 32), (2, 2)
PAPER, MBF, LARGE = (1, (1, 4, 6, 2)), (2, (1, 4, 6, 2)), (4, (2, 8, 12, 4))
FACES = np.random.default_rng(0).integers(0, 256, (3, *IMAGE_SIZE, 3), np.uint8)  # RGB
IMAGENET = {"mean": [123.675, 116.28, 103.53], "scale": [58.395, 57.12, 57.375]}


def embedding_of_onnxruntime(path, mean, scale, channels=slice(None)):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = ((FACES - np.asarray(mean)) / np.asarray(scale))[..., channels]
    return session.run(None, {"data": images.transpose(0, 3, 1, 2).astype(np.float32)})[0]


def check(backbone, expected):
    received = backbone(preprocess(FACES, IMAGE_SIZE), training=False).numpy()
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())


def small_state(kind, **options):
    return mobilefacenet_state(*kind, FEATURE_SIZE, embedding_size=24, **options)


@pytest.mark.parametrize(
    ("name", "parameters", "operations"),
    # The paper says 0.99 million and 221 million, arcface_torch 0.45 G for mbf.
    [("mobilefacenet", 1_003_136, 220_965_376), ("mbf", 2_059_520, 437_520_896)],
)
def test_parameters_and_multiply_adds_are_those_of_the_papers(name, parameters, operations):
    net = Backbone(name)
    assert num_parameters(net) == parameters and multiply_adds(net) == operations
    assert net.output_shape == (None, VARIANTS[name].embedding_size)


@pytest.mark.parametrize(("name", "kind"), [("mobilefacenet", PAPER), ("mbf", MBF)])
def test_a_state_dict_gives_the_embeddings_of_onnxruntime(tmp_path, name, kind):
    state = small_state(kind)
    path = OnnxMobileFaceNet(state, *kind).save(tmp_path / "net.onnx", IMAGE_SIZE)
    expected = embedding_of_onnxruntime(path, [127.5] * 3, [127.5] * 3)
    weights = tmp_path / "net.pth"
    write_state_dict(weights, {**state, "layers.0.layers.1.num_batches_tracked": np.zeros((), np.float32)})
    backbone = load_backbone(weights)
    assert backbone.net == Backbone(name, IMAGE_SIZE, 24).net
    check(backbone, expected)
    if name == "mbf":
        check(inference_net(backbone), expected)
        # The file with the graph has the same weights.
        for one, two in zip(backbone.get_weights(), load_backbone(path).get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)


def test_tensors_of_the_large_net_have_arcface_torch_s_names():
    mappings = torch_variables(Backbone("mbf_large", (16, 16), 8))
    expected = {name: value.shape for name, value in mobilefacenet_state(*LARGE, (1, 1), 8).items()}
    assert {name: mapping.shape for name, mapping in mappings.items()} == expected
    assert identify_net(expected)["architecture"] == "mbf_large"


def test_a_file_with_folded_norms_and_other_pixels_gives_the_same_embeddings(tmp_path):
    state = small_state(PAPER, separable=True)
    net = OnnxMobileFaceNet(state, *PAPER, folded=True, dense=False, activation="relu6", separable=True)
    path = net.save(tmp_path / "net.onnx", IMAGE_SIZE)
    description = tmp_path / "net.onnx.input.json"
    # The numbers are in the order of the channels.
    description.write_text(json.dumps({"channels": "bgr", "layout": "nchw", **IMAGENET}))
    mean, scale = (numbers[::-1] for numbers in IMAGENET.values())
    expected = embedding_of_onnxruntime(path, mean, scale, slice(None, None, -1))
    backbone = load_backbone(path)
    assert backbone.net["norm"] == "none" and backbone.net["activation"] == "relu6"
    check(backbone, expected)
    # In training, the net computes the same function, because nothing depends on the batch.
    images = preprocess(FACES, IMAGE_SIZE)
    np.testing.assert_array_equal(backbone(images, training=True), backbone(images, training=False))
    backbone.save(tmp_path / "net.keras")
    loaded = load_backbone(tmp_path / "net.keras")
    assert loaded.net == backbone.net
    check(loaded, expected)


@pytest.mark.parametrize("is_rgb", [False, True])
def test_pixels_of_any_order_and_scale_are_converted(is_rgb):
    """Applies the first kernel in float64 to an image of one pixel, so nothing is padded."""
    rng = np.random.default_rng(0)
    faces, kernel = rng.uniform(0, 255, (5, 3)), rng.normal(size=(1, 1, 3, 4)).astype(np.float32)  # RGB
    for mean in (rng.uniform(90, 130, 3), np.full(3, 127.5)):
        pixels = Pixels(is_rgb, tuple(mean), tuple(rng.uniform(50, 130, 3)))
        channels = faces if is_rgb else faces[:, ::-1]
        expected = (channels - pixels.mean) / pixels.scale @ kernel[0, 0]
        images, arguments = (faces[:, ::-1] - 127.5) / 128, pixels.arguments()
        assert bool(arguments) == (mean[0] != 127.5)
        if arguments:
            means, scales = map(np.asarray, arguments.values())
            images = (images * 128 + 127.5 - means) / scales
        np.testing.assert_allclose(images @ pixels.stem_kernel(kernel)[0, 0], expected, rtol=1e-5)
    # The graph normalises its input.
    scaled = Pixels(True, (0.0,) * 3, (2.0,) * 3).after(0.5, -3.0)
    assert scaled == Pixels(True, (12.0,) * 3, (4.0,) * 3)


def test_a_file_of_insightface_needs_no_description(tmp_path, caplog):
    caplog.set_level("INFO")
    path = OnnxMobileFaceNet(small_state(MBF), *MBF, folded=True).save(tmp_path / "net.onnx", IMAGE_SIZE)
    backbone = load_backbone(path)
    assert f"{path}.input.json does not exist: assuming InsightFace's pixels" in caplog.text
    assert not {"pixel_mean", "pixel_scale"} & backbone.net.keys()
    check(backbone, embedding_of_onnxruntime(path, [127.5] * 3, [127.5] * 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layout": "nhwc"}, r"net\.onnx\.input\.json: layout: .*'nhwc'"),
        ({"mean": [1, 2]}, r"net\.onnx\.input\.json: mean: .*\[1, 2\]"),
        ({"scale": [1, 0, 1]}, r"net\.onnx\.input\.json: scale"),
        ({"channels": 3}, r"net\.onnx\.input\.json: channels: .*3"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path, values, message):
    (tmp_path / "net.onnx").write_bytes(b"")
    content = {"channels": "rgb", "layout": "nchw", **IMAGENET, **values}
    (tmp_path / "net.onnx.input.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_backbone(tmp_path / "net.onnx")


def _without_a_block(net):
    """Removes a block, so that the net has fewer blocks than any known net."""
    adds = [number for number, node in enumerate(net.nodes) if node.op_type == "Add"]
    last = net.nodes[adds[0]]
    after = next(node for node in net.nodes[adds[0] + 1 :] if last.output[0] in node.input)
    users = [node for node in net.nodes if last.output[0] in node.input]
    for node in users or [after]:
        node.input[list(node.input).index(last.output[0])] = last.input[0]
    end = adds[0]
    start = max(number for number in range(end) if last.input[0] in net.nodes[number].input)
    del net.nodes[start : end + 1]


def _relu_at_the_end(net):
    prelu = [node for node in net.nodes if node.op_type == "PRelu"][-1]
    prelu.op_type = "Relu"
    del prelu.input[1]


@pytest.mark.parametrize(
    ("change", "changes", "message"),
    [
        (_without_a_block, {}, r"received .*\(1, 3, 6, 2\)"),
        (_relu_at_the_end, {}, "conv_sep: expected the activation prelu, received relu"),
        (None, {"layers.2.layers.1": {"strides": [1, 1]}}, r"layers.2.layers.1: expected strides \[2, 2\]"),
        (None, {"layers.3.layers.0.layers.1": {"pads": [0, 0, 2, 2]}}, r"layers.3.*pads \[1, 1, 1, 1\]"),
        (None, {"layers.1": {"group": 32}}, "layers.1: expected group 64, received 32"),
    ],
)
def test_other_graphs_are_refused(tmp_path, change, changes, message):
    net = OnnxMobileFaceNet(small_state(PAPER), *PAPER, changes=changes)
    if change:
        change(net)
    path = net.save(tmp_path / "net.onnx", IMAGE_SIZE)
    with pytest.raises(ValueError, match=message) as error:
        load_backbone(path)
    assert str(path) in str(error.value)


def test_grouped_conv_equals_keras_s(tmp_path):
    """Tests it with a bias, and after saving and loading."""
    images = keras.Input((5, 4, 12))
    x = GroupedConv(3, groups=4, use_bias=True, kernel_initializer="he_normal", name="conv")(images)
    net = keras.Model(images, x)
    randomise(net)
    inputs = np.random.default_rng(0).normal(size=(2, 5, 4, 12)).astype(np.float32)
    kernel, bias = net.get_layer("conv").get_weights()
    reference = keras.layers.Conv2D(12, 3, padding="same", groups=4)
    reference.build((None, 5, 4, 12))
    # The last axes of Keras's kernel are the inputs of a group, then all outputs.
    kernel = kernel.reshape(3, 3, 4, 3, 3).transpose(0, 1, 3, 2, 4).reshape(3, 3, 3, 12)
    reference.set_weights([kernel, bias])
    np.testing.assert_allclose(net(inputs), reference(inputs), rtol=1e-4, atol=1e-5)
    net.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "net.keras")(inputs), net(inputs))
    with pytest.raises(ValueError, match=r"multiple of 5 .* 12"):
        GroupedConv(3, groups=5).build((None, 5, 4, 12))


def test_kernels_decay_and_the_embedding_is_float32():
    net = Backbone("mobilefacenet", (32, 18), 8, keep_prob=0.5, dtype="mixed_bfloat16")
    kernels = {id(v) for v in net.trainable_variables if v.name == "kernel"}
    assert kernels <= {id(v) for v in decayed_variables(net)}
    assert len(decayed_variables(net, dense=False)) == len(decayed_variables(net)) - 1
    assert {v.dtype for v in net.variables if v.name != "draws"} == {"float32"}
    embedding = net(np.zeros((2, 32, 18, 3), np.float32), training=True)
    assert embedding.dtype == "float32" and embedding.shape == (2, 8)
    # Seed and name of a layer decide its weights, not the sizes of other layers.
    same = Backbone("mobilefacenet", (16, 16)).get_layer("layers.0.layers.0").get_weights()[0]
    np.testing.assert_array_equal(same, net.get_layer("layers.0.layers.0").get_weights()[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (8, 96)}, r"image_size: .*\(8, 96\)"),
        ({"norm": "group"}, "norm: .*'group'"),
        ({"activation": "gelu"}, "activation: .*'gelu'"),
        ({"pixel_mean": [1.0, 2.0, 3.0]}, "pixel_scale: .*None"),
        ({"pixel_mean": [1.0, 2.0, 3.0], "pixel_scale": [1.0, 0.0, 1.0]}, "pixel_scale: expected no 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mobilefacenet(*PAPER, **arguments)
