"""Runs SavedModels and Keras files of other projects in TensorFlow."""

import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from eval.embedding.file_model import FileModel, NetInput
from nets.importers.saved_model import is_saved_model

_SIGNATURE = "serving_default"


class DescribedModel(FileModel):
    """Embeds aligned faces with a SavedModel or a `.keras` file whose input is described.

    Both formats can contain code. Keras refuses to load unsafe parts of a file. TensorFlow runs everything in
    a SavedModel.
    """

    _runtime = "TensorFlow"

    def _errors(self):
        # Keras raises each of these for some damaged files.
        errors = OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError
        return tf.errors.OpError, zipfile.BadZipFile, *errors

    def _open(self, path: Path):
        if is_saved_model(path):
            # The variables live only as long as this object.
            self._owner: Any = tf.saved_model.load(str(path))
            if _SIGNATURE not in self._owner.signatures:
                raise ValueError(
                    f"expected a signature {_SIGNATURE}, received {list(self._owner.signatures)}"
                )
            self._function = self._owner.signatures[_SIGNATURE]
            specs = self._function.structured_input_signature[1].items()
            names = list(self._function.structured_outputs)
        else:
            net: Any = keras.saving.load_model(path, compile=False, safe_mode=True)
            self._function = tf.function(
                lambda images: {names[0]: tf.nest.flatten(net(images, training=False))[0]}
            )
            specs = [("images", entry) for entry in net.inputs]
            names = ["embedding"]
        inputs = [
            NetInput(name, tuple(spec.shape), np.dtype(tf.as_dtype(spec.dtype).as_numpy_dtype))
            for name, spec in specs
        ]
        return inputs, names

    def _run(self, images, names):
        outputs = self._function(**{self._input.name: tf.constant(images)})
        return [outputs[name].numpy() for name in names]
