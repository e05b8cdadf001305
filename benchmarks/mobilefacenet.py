"""Compares MobileFaceNet with the same net in PyTorch: training steps, and embedding in all formats.

    python -m benchmarks.mobilefacenet --torch_python .venv-torch/bin/python

PyTorch runs in its own process, in the environment that `.ci/torch.sh` creates, both eagerly and compiled by
`torch.compile`. Both sides train with softmax, decay and momentum on one batch that stays in memory. PyTorch
uses the memory layout that is faster for it: channels first for training, channels last for embedding.
"""

import argparse
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.comparison import Row, interleaved, medians, report
from nets.start_tensorflow import start_tensorflow

FACE_SIZE = (112, 112)
FORMS = [
    f"{kind} {precision}" for kind in ("ONNX", "OpenVINO", "TFLite") for precision in ("float32", "int8")
]
_NUM_IDENTITIES = 1000
_NUM_CALIBRATION = 50  # images of noise, because accuracy is not measured
_COMPILED, _EAGER = "PyTorch, compiled", "PyTorch, eager"
_GOALS = {"float32": "at least 1.15", "SavedModel": "400 images/s", "best export": "600 images/s"}


class Torch:
    """PyTorch in another process, which runs `tests.torch_mobilefacenet`.

    Args:
        python: path of a Python interpreter with PyTorch.
        batch_size: int > 0.
        threads: int > 0, threads of PyTorch.
    """

    def __init__(self, python, batch_size, threads):
        command = [python, "-m", "tests.torch_mobilefacenet", f"--batch_size={batch_size}"]
        command += [f"--identities={_NUM_IDENTITIES}", f"--threads={threads}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, what, how):
        """Runs one batch; `what` is "train" or "embed", `how` is "eager" or "compiled"."""
        self._process.stdin.write(f"{what} {how}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"PyTorch ended with exit code {self._process.wait()}")

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mobilefacenet", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="number of measurements (default: %(default)s)"
    )
    parser.add_argument(
        "--torch_python",
        default=os.environ.get("TORCH_PYTHON", ".venv-torch/bin/python"),
        metavar="PATH",
        help="Python interpreter with PyTorch (default: $TORCH_PYTHON or .venv-torch/bin/python)",
    )
    parser.add_argument(
        "--xla", action="store_true", help="also measure training with XLA, which takes minutes to compile"
    )
    args = parser.parse_args(argv)
    start_tensorflow()
    report(rows(args))


def rows(args):
    """Yields the rows of the table for the flags that `main` has parsed."""
    torch = Torch(args.torch_python, args.batch_size, len(os.sched_getaffinity(0)))
    try:
        for measure in (training, embedding):
            yield from measure(args, torch)
    finally:
        torch.close()


def training(args, torch):
    """Yields the rows of the training step."""
    from benchmarks.plain_net import made_up_batch, our_step

    batch = made_up_batch(args.batch_size, FACE_SIZE, _NUM_IDENTITIES)
    ways = {_EAGER: lambda: torch("train", "eager"), _COMPILED: lambda: torch("train", "compiled")}
    for dtype in ("float32", "mixed_bfloat16"):
        for xla in (False, True) if args.xla else (False,):
            step = our_step("mobilefacenet", FACE_SIZE, _NUM_IDENTITIES, dtype, xla)
            ways[f"{dtype}, --xla" if xla else dtype] = functools.partial(step, *batch)
    rates = measured_rates(ways, args)
    for name in list(ways)[2:]:
        for reference in (_COMPILED, _EAGER) if name == "float32" else (_COMPILED,):
            goal = _GOALS.get(name, "") if reference == _COMPILED else ""
            yield _row("training step", args, name, reference, rates, goal)


def embedding(args, torch):
    """Yields the rows about embedding."""
    faces = np.random.default_rng(0).integers(0, 256, (args.batch_size, *FACE_SIZE, 3), np.uint8)
    ways = {_EAGER: lambda: torch("embed", "eager"), _COMPILED: lambda: torch("embed", "compiled")}
    with tempfile.TemporaryDirectory() as folder:
        models = load_models(Path(folder))
    ways |= {name: functools.partial(model.embed, faces) for name, model in models.items()}
    rates = measured_rates(ways, args)
    best = max(list(models)[1:], key=rates.get)
    for name in models:
        goal = _GOALS.get("best export" if name == best else name, "")
        yield _row("embedding", args, name, _COMPILED, rates, goal)
    yield _row("embedding", args, "SavedModel", _EAGER, rates)


def load_models(folder):
    """Exports the net to all formats and loads them. Returns a dict by format, the SavedModel first."""
    from benchmarks.embedding import made_up_net
    from benchmarks.exports import make_forms
    from eval.embedding import openvino
    from eval.embedding.embedder import load_embedder

    net = made_up_net("mobilefacenet", FACE_SIZE)
    net.save(folder / "net.keras")
    images = np.random.default_rng(0).integers(0, 256, (_NUM_CALIBRATION, *FACE_SIZE, 3), np.uint8)
    paths = make_forms(folder / "net.keras", folder, FACE_SIZE, images, FORMS)
    models = {name: load_embedder(path, FACE_SIZE).model for name, path in paths.items()}
    return models | {"OpenVINO bfloat16": openvino.load_model(paths["SavedModel"], FACE_SIZE, "bfloat16")}


def measured_rates(ways, args):
    """Returns the images per second of each way, by name."""
    seconds = medians(interleaved(ways, args.rounds, warm_up=2))
    return {name: args.batch_size / taken for name, taken in seconds.items()}


def _row(what, args, name, reference, rates, goal=""):
    ours, others = rates[name], rates[reference]
    what = f"{what}, mobilefacenet, batch {args.batch_size}, {name}"
    return Row(what, reference, "images/s", ours, others, ours / others, goal)


if __name__ == "__main__":
    main()
