import tracemalloc

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from dataset.preprocess import preprocess
from nets.backbone import load_backbone
from nets.importers.insightface_weights import identify_net, load_insightface, torch_variables
from nets.importers.keras_file import save_keras_file
from nets.importers.onnx_graph import open_graph
from nets.importers.onnx_iresnet import read_onnx_iresnet
from tests.nets.onnx_net import EMBEDDING_SIZE, IMAGE_SIZE, SIDE, OnnxNet
from tests.torch_state import UNITS, random_state
from tests.torch_zip import a_dict, plain, tensor, write_state_dict, write_torch_zip


@pytest.fixture(scope="module")
def state():
    return random_state(18, (SIDE, SIDE), EMBEDDING_SIZE)


@pytest.fixture
def small():
    """A net with few channels. The reader of a graph does not check their number."""
    return random_state(18, (SIDE, SIDE), EMBEDDING_SIZE, widths=(4, 5, 6, 7))


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (4, *IMAGE_SIZE, 3), np.uint8)  # RGB


def embedding_of_onnxruntime(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"data": images.transpose(0, 3, 1, 2).astype(np.float32)})[0]


def read_iresnet(path):
    return read_onnx_iresnet(open_graph(path))[0]


def check(backbone, faces, expected):
    received = backbone(preprocess(faces, IMAGE_SIZE)).numpy()
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("folded", [False, True])
def test_embeddings_are_those_of_onnxruntime(tmp_path, state, faces, folded):
    path = OnnxNet(state, folded).save(tmp_path / "net.onnx")
    backbone = load_insightface(path)
    assert backbone.net == {
        **{"architecture": "iresnet18", "image_size": list(IMAGE_SIZE), "embedding_size": EMBEDDING_SIZE},
        **{"keep_prob": 1.0, "seed": 0},
    }
    check(backbone, faces, embedding_of_onnxruntime(path, (faces / 255 - 0.5) / 0.5))


def test_a_graph_may_normalise_its_pixels(tmp_path, state, faces):
    path = OnnxNet(state, True, pixels=[("Sub", 127.5), ("Mul", 1 / 128)]).save(tmp_path / "net.onnx")
    check(load_insightface(path), faces, embedding_of_onnxruntime(path, faces))


@pytest.mark.parametrize("matmul", [False, True])
def test_a_graph_with_norms_gives_its_tensors(tmp_path, small, matmul):
    received = read_iresnet(OnnxNet(small, matmul=matmul).save(tmp_path / "net.onnx"))
    assert received.keys() == small.keys()
    for name, value in small.items():
        np.testing.assert_array_equal(received[name], value, err_msg=name)


def test_a_graph_with_folded_norms_gives_norms_that_add_the_bias(tmp_path, small):
    received = read_iresnet(OnnxNet(small, folded=True).save(tmp_path / "net.onnx"))
    assert received.keys() == small.keys()
    for name in ("layer2.0.bn3", "layer2.0.downsample.1"):
        # The norm adds the bias and does nothing else.
        deviation = np.sqrt(received[f"{name}.running_var"] + np.float32(1e-5))
        np.testing.assert_allclose(received[f"{name}.weight"] / deviation, 1, rtol=1e-7)
        factor = small[f"{name}.weight"] / np.sqrt(small[f"{name}.running_var"] + 1e-5)
        bias = small[f"{name}.bias"] - small[f"{name}.running_mean"] * factor
        np.testing.assert_allclose(received[f"{name}.bias"], bias, rtol=1e-6)
        assert (received[f"{name}.running_mean"] == 0).all()
    np.testing.assert_array_equal(received["layer2.0.bn1.bias"], small["layer2.0.bn1.bias"])


def test_nodes_that_exporters_add_are_followed(tmp_path, small):
    """Tests a bias before a norm, and the nodes Identity, Constant, Unsqueeze and Dropout."""
    net = OnnxNet(small)
    conv, flatten, prelu = (
        net.nodes[0],
        *(next(node for node in net.nodes if node.op_type == kind) for kind in ("Flatten", "PRelu")),
    )
    conv.input.append(net.tensor("", np.arange(4, dtype=np.float32)))
    slopes = numpy_helper.from_array(small["prelu.weight"])
    prelu.input[1] = "wide"
    net.nodes[:0] = [
        helper.make_node("Constant", [], ["slopes"], value=slopes),
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([1, 2]))),
        helper.make_node("Unsqueeze", ["slopes", "axes"], ["wide"]),
    ]
    gemm = next(node for node in net.nodes if node.op_type == "Gemm")
    gemm.input[0], gemm.input[1] = "dropped", "same"
    index = net.nodes.index(gemm)
    net.nodes[index:index] = [
        helper.make_node("Dropout", [flatten.output[0]], ["dropped"]),
        helper.make_node("Identity", ["fc.weight"], ["same"]),
    ]
    received = read_iresnet(net.save(tmp_path / "net.onnx"))
    moved = small.pop("bn1.running_mean") - np.arange(4)
    np.testing.assert_allclose(received.pop("bn1.running_mean"), moved, rtol=1e-6)
    for name, value in small.items():
        np.testing.assert_array_equal(received[name], value, err_msg=name)


def test_half_precision_becomes_float32(tmp_path, small):
    halves = {name: value.astype(np.float16) for name, value in small.items()}
    received = read_iresnet(OnnxNet(halves).save(tmp_path / "net.onnx"))
    assert {value.dtype for value in received.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(received["fc.weight"], halves["fc.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"changes": {"layer2.0.conv2": {"strides": [1, 1]}}}, r"layer2.0.conv2: expected strides \[2, 2\]"),
        (
            {"changes": {"layer2.1.conv2": {"pads": [0, 0, 1, 1]}}},
            r"layer2.1.conv2: expected pads \[1, 1, 1, 1\]",
        ),
        (
            {"changes": {"layer2.1.conv1": {"dilations": [2, 2]}}},
            r"expected dilations \[1, 1\], received \[2, 2\]",
        ),
        ({"changes": {"conv1": {"group": 3}}}, "conv1: expected group 1, received 3"),
        ({"changes": {"bn2": {"epsilon": 2e-5}}}, r"bn2: expected epsilon 1e-05, received 1.99"),
        ({"changes": {"fc": {"alpha": 0.5}}}, r"fc: expected alpha 1\.0, received 0\.5"),
        ({"pixels": [("Sub", 127.5), ("Mul", [1 / 128] * 3)]}, "the input: expected one number to Mul"),
    ],
)
def test_other_settings_are_refused(tmp_path, small, arguments, message):
    path = OnnxNet(small, **arguments).save(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=message) as error:
        read_iresnet(path)
    assert f"{path}: not an iresnet" in str(error.value)


def test_an_iresnet_for_other_pixels_is_refused(tmp_path, state):
    path = OnnxNet(state, pixels=[("Sub", 120), ("Div", 128)]).save(tmp_path / "net.onnx")
    message = r"\(pixel - 127.5\) \* scale, received pixel \* 0.0078125 \+ -0.9375"
    with pytest.raises(ValueError, match=message) as error:
        load_insightface(path)
    assert str(path) in str(error.value)


def _relu(net):
    prelu = next(node for node in net.nodes if node.op_type == "PRelu")
    prelu.op_type = "Relu"
    del prelu.input[1]


def _no_shortcut(net):
    """Makes a unit add its input to itself."""
    add = next(node for node in net.nodes if node.op_type == "Add")
    add.input[1] = add.input[0]


def _no_conv_on_the_first_shortcut(net):
    add = next(node for node in net.nodes if node.op_type == "Add")
    add.input[1] = next(node for node in net.nodes if node.op_type == "PRelu").output[0]
    del net.nodes[net.nodes.index(add) - 2 : net.nodes.index(add)]


def _one_more_at_the_end(net):
    net.nodes.append(helper.make_node("Relu", [net.output], ["more"]))
    net.output = "more"


def _one_more_branch(net):
    net.nodes.append(helper.make_node("Relu", [net.output], ["more"]))


def _computed_kernel(net):
    net.nodes.insert(0, helper.make_node("Abs", ["conv1.weight"], ["absolute"]))
    net.nodes[1].input[1] = "absolute"


def _no_tail(net):
    del net.nodes[-3:]
    net.output = net.nodes[-1].output[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_relu, r"prelu: expected PRelu, received \['Relu'\]"),
        (_no_shortcut, "layer1.0: expected the sum of unit and shortcut"),
        (_no_conv_on_the_first_shortcut, "expected a unit after layer0.0, received"),
        (_one_more_at_the_end, r"expected the graph to end after features, received \['Relu'\]"),
        (_one_more_branch, r"expected the graph to end after features, received \['Relu'\]"),
        (_computed_kernel, "conv1: expected a constant, received the computed 'absolute'"),
        (_no_tail, "flatten: expected Flatten or Reshape, received the end of the graph"),
    ],
)
def test_other_graphs_are_refused(tmp_path, small, change, message):
    net = OnnxNet(small)
    change(net)
    path = net.save(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=message) as error:
        read_iresnet(path)
    assert f"{path}: not an iresnet" in str(error.value)


def test_damaged_onnx_files_are_refused(tmp_path, small):
    path = tmp_path / "net.onnx"
    with pytest.raises(FileNotFoundError, match=r"net\.onnx"):
        load_insightface(path)
    whole = OnnxNet(small).save(path).read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"\x89PNG"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"net\.onnx: "):
            load_insightface(path)


@pytest.mark.parametrize(("prefix", "inside"), [("", None), ("module.", "state_dict_backbone")])
def test_a_state_dict_is_found_and_loaded(tmp_path, state, prefix, inside):
    path = tmp_path / "model.pt"
    write_state_dict(path, {**state, "bn1.num_batches_tracked": np.zeros((), np.float32)}, prefix, inside)
    for name, (variable, _, transform) in torch_variables(load_insightface(path)).items():
        np.testing.assert_array_equal(variable.numpy(), transform(state[name]), err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.1.bn2.running_var": None}, "156 .* 1 missing: layer3.1.bn2.running_var"),
        ({"layer3.1.se.weight": np.zeros(3, np.float32)}, "iresnet18 has no layer3.1.se.weight"),
        ({"layer4.1.conv1.weight": None}, r"\(2, 2, 2, 2\) \(18\), .* \(2, 2, 2, 1\)"),
        ({"conv1.weight": None}, r"conv1\.weight or .*, received 0: bn1\.weight"),
        (
            {"conv1.weight": np.zeros((64, 1, 3, 3), np.float32)},
            r"conv1\.weight: .*\(64, 3, 3, 3\), .*\(64, 1, 3, 3\)",
        ),
        ({"fc.weight": np.zeros((32, 3072), np.float32)}, "fc.weight: .* 512 .* 3072"),
        ({"fc.weight": None}, r"fc\.weight: .* \(\)"),
    ],
)
def test_state_dicts_of_other_nets_are_refused(tmp_path, state, change, message):
    path = tmp_path / "model.pt"
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    write_state_dict(path, changed)
    with pytest.raises(ValueError, match=message) as error:
        load_insightface(path)
    assert str(path) in str(error.value)


def test_a_file_of_two_nets_or_none_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    tensors = {"conv1.weight": np.zeros((1, 1), np.float32)}
    write_state_dict(path, tensors, inside="student")
    write_torch_zip(path, plain([1, 2]), {})
    with pytest.raises(ValueError, match="received 0: "):
        load_insightface(path)
    nets = a_dict({name: a_dict({"conv1.weight": tensor()}) for name in ("student", "teacher")})
    write_torch_zip(path, nets, {"0": bytes(24)})
    with pytest.raises(ValueError, match="received 2: student, teacher"):
        load_insightface(path)


def test_a_file_that_names_one_storage_many_times_takes_little_memory(tmp_path):
    path, size = tmp_path / "model.pt", 10**7
    names = [*random_state(18, widths=(1, 1, 1, 1)), *(f"extra{number}" for number in range(20))]
    tensors = dict.fromkeys(names, tensor("HalfStorage", "0", size, 0, (size,), (1,)))
    tensors["fc.weight"] = tensor("HalfStorage", "0", size, 0, (8, 2048), (2048, 1))
    write_torch_zip(path, a_dict(tensors), {"0": bytes(2 * size)})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        load_insightface(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + 10**8


def test_shapes_tell_depth_and_sizes():
    for depth, units in {**UNITS, 200: (6, 26, 60, 6)}.items():
        shapes = {
            f"layer{stage}.{unit}.conv1.weight": (1, 1, 3, 3)
            for stage, num_units in enumerate(units, start=1)
            for unit in range(num_units)
        }
        received = identify_net({**shapes, "fc.weight": (256, 512 * 7 * 7)})
        assert received == {
            "architecture": f"iresnet{depth}",
            "image_size": (112, 112),
            "embedding_size": 256,
        }


def test_a_keras_file_gives_the_same_embeddings(tmp_path, state, faces, caplog):
    caplog.set_level("INFO")
    path, out = OnnxNet(state).save(tmp_path / "net.onnx"), tmp_path / "net.keras"
    out.symlink_to(tmp_path / "disk" / "net")
    save_keras_file(load_backbone(path), out)
    assert out.is_symlink() and [file.name for file in (tmp_path / "disk").iterdir()] == ["net"]
    assert f"{path}.input.json does not exist" in caplog.messages[0]
    assert "iresnet18" in caplog.messages[1]
    assert caplog.messages[2:] == ["mapped: 156 tensors, none missing", "ignored: 0 num_batches_tracked"]
    images = preprocess(faces, IMAGE_SIZE)
    np.testing.assert_array_equal(load_backbone(out)(images), load_insightface(path)(images))
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        load_backbone(tmp_path / "none.onnx")


def test_one_dict_under_many_names_is_read_once(tmp_path):
    """If each name were read, the time would grow with the square of the file's size."""
    path = tmp_path / "net.pth"
    state = a_dict({"conv1.weight": tensor()}) + b"r\xff\x00\x00\x00"  # place 255 of the memo
    names = b"".join(plain(str(number)) + b"j\xff\x00\x00\x00" for number in range(100))
    write_torch_zip(path, b"}(" + plain("first") + state + names + b"u", {"0": bytes(24)})
    with pytest.raises(ValueError, match=r"received units \(0, 0, 0, 0\)"):
        load_insightface(path)


def test_a_small_file_that_names_a_large_net_builds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("nets.importers.insightface_weights.Backbone", None)
    names = [f"layer{s + 1}.{u}.conv1.weight" for s, count in enumerate((6, 26, 60, 6)) for u in range(count)]
    fc = tensor("FloatStorage", "1", 512, 0, (1, 512), (512, 1))
    program = a_dict({"conv1.weight": tensor(), **dict.fromkeys(names, tensor()), "fc.weight": fc})
    path = tmp_path / "net.pth"
    write_torch_zip(path, program, {"0": bytes(24), "1": bytes(2048)})
    with pytest.raises(ValueError, match=r"net\.pth: .*weights of iresnet200, received"):
        load_insightface(path)
