"""The OpenVINO engine."""

import tempfile
from pathlib import Path

import numpy as np
import openvino

# This is not part of TensorFlow's public API, which cannot turn variables into constants.
# `openvino.convert_model` can, but takes one and a half times as long. `tests/eval/test_engines.py` fails if
# the function goes away.
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from eval.embedding.engines import check_faces
from eval.embedding.face_model import FaceModel, load_face_model

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoModel:
    """Embeds aligned faces on the CPU, like the `FaceModel` that it is made from.

    OpenVINO reads TensorFlow's graph itself, so every format that a `FaceModel` can be loaded from works.

    Args:
        model: the model to convert.
        precision: `"float32"` or `"bfloat16"`.

    Raises:
        RuntimeError: OpenVINO cannot read the graph.
    """

    def __init__(self, model: FaceModel, precision: str) -> None:
        self.face_size = model.face_size
        graph = convert_variables_to_constants_v2(model.function.get_concrete_function()).graph.as_graph_def()
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.pb")
            path.write_bytes(graph.SerializeToString())
            hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
            self._net = core.compile_model(core.read_model(path), "CPU", hints)

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """See `eval.embedding.engines.EmbeddingModel`."""
        check_faces(faces, self.face_size)
        return self._net(np.ascontiguousarray(faces))[0].copy()


def load_model(path: Path, face_size: tuple[int, int], precision: str) -> OpenVinoModel:
    """Loads a model for OpenVINO; see `eval.embedding.face_model.load_face_model`."""
    model = load_face_model(path, face_size, rectified=True)
    if not isinstance(model, FaceModel):
        raise RuntimeError("expected a model of this project. Leave out --engine and --precision.")
    return OpenVinoModel(model, precision)
