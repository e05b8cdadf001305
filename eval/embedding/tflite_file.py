"""Runs TFLite files in LiteRT."""

import os
from pathlib import Path

import numpy as np

from eval.embedding.file_model import FileModel, NetInput


class TfliteModel(FileModel):
    """Embeds aligned faces with a TFLite file. If it has several signatures, the first one is used.

    A malicious file can crash LiteRT and with it the process. Load a file only from a source that you trust.
    """

    _runtime = "LiteRT"

    def _errors(self):
        return RuntimeError, ValueError

    def _open(self, path: Path):
        from ai_edge_litert.interpreter import Interpreter

        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        self._net = net = Interpreter(model_path=str(path), num_threads=os.cpu_count())
        signatures = net.get_signature_list()
        if signatures:
            signature = net.get_signature_runner(next(iter(signatures)))
            inputs, self._tensors = signature.get_input_details(), signature.get_output_details()
        else:
            inputs = {entry["name"]: entry for entry in net.get_input_details()}
            self._tensors = {entry["name"]: entry for entry in net.get_output_details()}
        self._shape = None
        return [_net_input(name, entry) for name, entry in inputs.items()], list(self._tensors)

    def _run(self, images, names):
        index = self._net.get_input_details()[0]["index"]
        if images.shape != self._shape:
            self._net.resize_tensor_input(index, images.shape)
            self._net.allocate_tensors()
            self._shape = images.shape
        self._net.set_tensor(index, images)
        self._net.invoke()
        return [self._output(self._tensors[name]) for name in names]

    def _output(self, entry):
        values = self._net.get_tensor(entry["index"])
        quantization = _quantization(entry)
        if quantization:
            scale, zero_point = quantization
            values = (values.astype(np.float32) - zero_point) * np.float32(scale)
        return values


def _net_input(name, entry):
    shape = tuple(int(size) if size > 0 else None for size in entry["shape_signature"])
    return NetInput(name, shape, np.dtype(entry["dtype"]), _quantization(entry))


def _quantization(entry):
    scale, zero_point = entry["quantization"]
    return (scale, zero_point) if scale else None
