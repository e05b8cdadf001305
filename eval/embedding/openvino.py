"""A face model that OpenVINO runs."""

import tempfile
from pathlib import Path

import numpy as np
import openvino
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoModel:
    """Embeds aligned faces as the `FaceModel` does that it is made from, on the CPU.

    OpenVINO reads TensorFlow's graph itself, so no converter is needed, and whatever a `FaceModel` can be
    loaded from can be run.

    Args:
        model: `eval.embedding.face_model.FaceModel`.
        precision: `"float32"` or `"bfloat16"`. Defaults to `"float32"`.
        threads: int > 0. Defaults to what OpenVINO finds best.

    Raises:
        RuntimeError: a graph that OpenVINO cannot read.
    """

    def __init__(self, model, precision="float32", threads=None):
        self.face_size = model.face_size
        graph = convert_variables_to_constants_v2(model.function.get_concrete_function()).graph.as_graph_def()
        hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.pb")
            path.write_bytes(graph.SerializeToString())
            self._net = core.compile_model(core.read_model(path), "CPU", hints)

    def embed(self, faces):
        """Embeddings as the net puts them out: not normalised.

        Args:
            faces: uint8 `(batch, *face_size, 3)`, RGB.

        Returns:
            float32 array `(batch, dim)`.
        """
        if tuple(faces.shape[1:]) != (*self.face_size, 3):
            raise ValueError(f"faces: expected shape (batch, *{self.face_size}, 3), received {faces.shape}")
        return self._net(np.ascontiguousarray(faces))[0].copy()
