"""The model card: what a model is, how well it scores, and the thresholds that were measured for it.

The card of a SavedModel is the file `model_card.json` in its folder. The card of any other model is the file
`NAME.model_card.json` in the folder of the model. If there is no such file, the model itself has the card:

- ONNX: the metadata `model_card`
- TFLite: the file `model_card.json` in a zip archive appended to the model
- OpenVINO: `model_card` in the `rt_info` of the .xml file

Reading a card does not import TensorFlow or any other library that runs models.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from common.files import file_sha256, write_json
from common.typed_json import from_json, parse_json, read_json
from eval.scoring.calibration import Calibration
from nets.importers.model_files import find_model, model_sha256, read_onnx
from nets.importers.saved_model import CARD_NAME, is_saved_model

METADATA_KEY = "model_card"  # in ONNX and OpenVINO files

_DIGEST = "sha256"
_CALIBRATIONS = "calibrations"


class ModelCard(dict[str, Any]):
    """The values of a card, as JSON. Any of these keys may be absent:

    - `sha256`: digest of the model that the card belongs to
    - `net`, `embedding_size`, `preprocessing`: see `export.card.describe_net`
    - `signatures`, `pooling`: only for a SavedModel; see `export.saved_model.export_saved_model`
    - `run`, `step`, `precision`: the training run behind the model; see `export.card.describe_run`
    - `scores`: for each set, by name, the accuracy with its interval and protocol
    - `calibrations`: `eval.scoring.calibration.Calibration` by kind
    """

    def calibration(self, prefer: str = "template") -> Calibration | None:
        """Returns the thresholds of this `Calibration.kind`, else of the other kind, else `None`."""
        found = self.get(_CALIBRATIONS) or {}
        value = found.get(prefer) or next(iter(found.values()), None)
        return value and from_json(Calibration, value, Path(CARD_NAME))

    def with_calibration(self, calibration: Calibration) -> ModelCard:
        """Returns a card in which these thresholds replace those of the same kind."""
        value = json.loads(json.dumps(dataclasses.asdict(calibration)))
        calibrations = {**(self.get(_CALIBRATIONS) or {}), calibration.kind: value}
        return ModelCard({**self, _CALIBRATIONS: calibrations})

    def to_embed(self) -> str:
        """Returns the JSON to store inside a model file, without the digest of that file."""
        return json.dumps({key: value for key, value in self.items() if key != _DIGEST})


def card_path(model: str | Path) -> Path:
    """Returns the path of the card of a model. The file may not exist."""
    model = find_model(model)
    return model / CARD_NAME if is_saved_model(model) else model.with_name(f"{model.name}.{CARD_NAME}")


def read_card(model: str | Path) -> ModelCard:
    """Reads the card of a model.

    Args:
        model: any path that `nets.importers.model_files.find_model` takes.

    Returns:
        An empty card if the model has none.

    Raises:
        FileNotFoundError: the model does not exist.
        ValueError: the card is damaged, or belongs to another model. The message names the file.
    """
    model = find_model(model)
    path = card_path(model)
    if path.is_file():
        card = _checked(read_json(path), path)
        # SavedModels of earlier versions have a card without a digest.
        is_old = card.get(_DIGEST) is None and is_saved_model(model)
        if not is_old and card.get(_DIGEST) != _digest(model):
            raise ValueError(
                f"{path}: the card does not belong to {model.name}: the {_DIGEST} differs. Delete the card, "
                f"then measure thresholds: python -m export.calibrate {model} --pairs lfw.bin"
            )
        return card
    read = _READERS.get(model.suffix) if model.is_file() else None
    content = read(model) if read else None
    return ModelCard() if content is None else _checked(parse_json(content, model), model)


def write_card(model: str | Path, card: dict[str, Any]) -> Path:
    """Writes the card of a model, with the model's digest, replaces an older card, and returns the path."""
    model = find_model(model)
    path = card_path(model)
    write_json(path, {**card, _DIGEST: _digest(model)})
    return path


def no_thresholds(model: str | Path) -> str:
    """Returns the sentence to show if a model has no thresholds."""
    return f"{model}: has no thresholds. Measure them: python -m export.calibrate {model} --pairs lfw.bin"


def _checked(values: Any, path: Path) -> ModelCard:
    calibrations = values.get(_CALIBRATIONS) if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(calibrations, dict | None):
        raise ValueError(f"{path}: expected a JSON object, with {_CALIBRATIONS} as an object if present")
    for kind, value in (calibrations or {}).items():
        place = Path(f"{path}, {_CALIBRATIONS}.{kind}")
        if from_json(Calibration, value, place).kind != kind:
            raise ValueError(f"{place}: expected kind {kind!r}, received {value['kind']!r}")
    return ModelCard(values)


def _digest(model):
    """Returns the digest that ties a card to its model.

    For a SavedModel it covers the graph and the index of the variables, which contains a checksum of each
    weight. People add other files to the folder, so these are left out.
    """
    if not is_saved_model(model):
        return model_sha256(model)
    files = (model / "saved_model.pb", model / "variables" / "variables.index")
    digests = [file_sha256(file) for file in files if file.is_file()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _in_onnx(path):
    metadata = {item.key: item.value for item in read_onnx(path)[0].metadata_props}
    return metadata.get(METADATA_KEY)


def _in_tflite(path):
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(CARD_NAME) if CARD_NAME in archive.namelist() else None
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: {CARD_NAME}: {error}") from None


def _in_openvino(path):
    try:
        entry = ElementTree.parse(path).find(f"rt_info/{METADATA_KEY}")
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: expected the XML of OpenVINO: {error}") from None
    return None if entry is None else entry.get("value")


_READERS = {".onnx": _in_onnx, ".tflite": _in_tflite, ".xml": _in_openvino}
