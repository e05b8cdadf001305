"""Runs ONNX files in ONNX Runtime."""

import importlib
from pathlib import Path

import numpy as np

from eval.embedding.file_model import FileModel, NetInput
from nets.importers.model_files import read_onnx

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxModel(FileModel):
    """Embeds aligned faces with an ONNX file."""

    _runtime = "ONNX Runtime"

    def _errors(self):
        # ONNX Runtime's errors have no common base class and no public names.
        module = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        kinds = vars(module).values()
        return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))

    def _open(self, path: Path):
        import onnxruntime

        read_onnx(path)  # Refuses a file that refers to files outside its folder.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = []
        for entry in self._session.get_inputs():
            if entry.type not in _TYPES:
                raise ValueError(f"{path}: {entry.name}: expected {', '.join(_TYPES)}, received {entry.type}")
            # A size that the file leaves open is a name or `None`.
            shape = tuple(size if isinstance(size, int) else None for size in entry.shape)
            inputs.append(NetInput(entry.name, shape, np.dtype(_TYPES[entry.type])))
        return inputs, [output.name for output in self._session.get_outputs()]

    def _run(self, images, names):
        return self._session.run(names, {self._input.name: images})
