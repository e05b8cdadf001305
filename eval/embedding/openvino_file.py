"""Runs OpenVINO files: `NAME.xml`, with the weights in `NAME.bin`."""

from pathlib import Path

from eval.embedding.file_model import FileModel, NetInput


class OpenVinoFileModel(FileModel):
    """Embeds aligned faces on the CPU with an OpenVINO file, in float32."""

    _runtime = "OpenVINO"

    def _errors(self):
        return (RuntimeError,)

    def _open(self, path: Path):
        import openvino

        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        core = openvino.Core()
        # By default, OpenVINO would use bfloat16 on some processors.
        self._net = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        inputs = [
            NetInput(_name(port), _shape(port), port.get_element_type().to_dtype())
            for port in self._net.inputs
        ]
        self._ports = {_name(port): port for port in self._net.outputs}
        return inputs, list(self._ports)

    def _run(self, images, names):
        results = self._net(images)
        return [results[self._ports[name]] for name in names]


def _name(port):
    return min(port.get_names(), default=port.get_node().get_friendly_name())


def _shape(port):
    return tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
