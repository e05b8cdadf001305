import numpy as np
import onnxruntime

from benchmarks.embedding import made_up_net
from benchmarks.onnx_net import onnx_net


def test_the_onnx_model_gives_the_embeddings_of_the_net():
    net = made_up_net("ir8", (32, 24))
    images = np.random.default_rng(0).normal(size=(3, 32, 24, 3)).astype(np.float32)
    model = onnx_net(net)
    # There is one PReLU in each unit, and one before the units.
    assert sum(node.op_type == "PRelu" for node in model.graph.node) == 4 + 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (received,) = session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    expected = net(images, training=False).numpy()
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
