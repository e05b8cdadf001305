"""Compares our nets with the PyTorch nets that `tests.torch_iresnet` and `tests.torch_small_nets` wrote.

`.ci/torch.sh` runs this program.

python -m tests.torch_agreement FOLDER
"""

import argparse
import itertools
import logging
import sys
from pathlib import Path

import numpy as np

from dataset.preprocess import preprocess
from nets.importers.insightface_weights import load_insightface, torch_variables
from nets.importers.torch_file import TorchFile

logger = logging.getLogger("torch_agreement")

GOLDEN = Path(__file__).parent / "golden" / "torch"


def main(argv=None):
    """Runs the program. Returns 0 if every comparison holds, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with the files of both programs")
    folder = parser.parse_args(argv).folder
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)

    failed = 0
    for name, difference, tolerance in itertools.chain(compare_tensors(folder), compare_nets(folder)):
        failed += not difference <= tolerance
        logger.info("%s: %.1e%s", name, difference, "" if difference <= tolerance else f", over {tolerance}")
    logger.info("%d failed", failed)
    return 1 if failed else 0


def compare_tensors(folder):
    """Reads the file of tensors, as PyTorch just wrote it and as it is in the repository.

    Yields:
        `(name, difference, tolerance)`.
    """
    for path in (folder / "tensors.pth", GOLDEN / "tensors.pth"):
        expected = np.load(path.with_suffix(".npz"))
        with TorchFile(path) as file:
            received = {name: file.read(tensor) for name, tensor in file.contents.items()}
        same = received.keys() == set(expected.files) and all(
            received[name].dtype == expected[name].dtype and np.array_equal(received[name], expected[name])
            for name in expected.files
        )
        yield str(path), 0.0 if same else 1.0, 0.0


def compare_nets(folder):
    """Compares embeddings of the `.pth` and `.onnx` files, and the moving statistics after a training step.

    Yields:
        `(name, difference, tolerance)`.
    """
    for path in sorted([*folder.glob("*.pth"), *folder.glob("*.onnx")]):
        if path.name == "tensors.pth":
            continue
        expected = np.load(folder / f"{path.stem.split('_')[0]}.npz")
        backbone = load_insightface(path)
        images = preprocess(expected["faces"], (112, 112))
        yield f"{path.name}, inference", _difference(backbone(images), expected["embedding"]), 1e-4
        if "embedding_train" in expected.files and path.suffix == ".pth":
            embedding = backbone(images, training=True)
            yield f"{path.name}, training mode", _difference(embedding, expected["embedding_train"]), 1e-3
            variables = torch_variables(backbone)
            for leaf in ("running_mean", "running_var"):
                names = [name for name in expected.files if name.endswith(leaf)]
                differences = [_difference(variables[name].variable, expected[name]) for name in names]
                yield f"{path.name}, {len(names)} {leaf} after a step", max(differences), 1e-3


def _difference(received, expected):
    return float(np.abs(np.asarray(received) - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    sys.exit(main())
