"""Compares the speed of embedding with a SavedModel, ONNX Runtime and OpenVINO.

    python -m benchmarks.embedding

The net is an LResNet-E-IR with made-up weights, and its images are in memory. ONNX Runtime gets the net in
the form of InsightFace's files: channels first, and each PReLU a single node (see `benchmarks.onnx_net`).
OpenVINO gets it from `eval.embedding.openvino`. The program first checks that all engines give the same
embeddings.
"""

import argparse
import functools
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.comparison import Row, interleaved, medians, report
from nets.start_tensorflow import start_tensorflow

_MAX_DIFFERENCE = 1e-4  # largest allowed difference between components of unit embeddings in float32
FACE_SIZE, IMAGE_SIZE = (112, 112), (112, 96)


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedding", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--net_depth", type=int, default=50, help="depth of the net (default: %(default)s)")
    parser.add_argument(
        "--batch_size",
        type=int,
        nargs="+",
        default=[32, 1],
        metavar="N",
        help="batch sizes to measure (default: 32 1)",
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of each engine (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=4,
        help="number of measurements, each of 32 images or one larger batch (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    start_tensorflow()
    # OpenVINO starts as many threads as the process has cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    report(rows(args))


def rows(args):
    """Yields the rows of the table."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    faces = np.random.default_rng(0).integers(0, 256, (max(args.batch_size), *FACE_SIZE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        engines = load_engines(made_up_net(f"ir{args.net_depth}"), Path(folder, "model"), args.threads)
    compare(engines, faces)
    for batch_size in args.batch_size:
        batch, repeats = faces[:batch_size], max(1, 32 // batch_size)
        ways = {name: functools.partial(repeat, embed, batch, repeats) for name, embed in engines.items()}
        seconds = medians(interleaved(ways, args.rounds))
        rates = {name: batch_size * repeats / taken for name, taken in seconds.items()}
        for name in list(rates)[1:]:
            is_goal = name == "ONNX Runtime, float32" and batch_size == 32
            yield Row(
                f"embedding, IR-{args.net_depth}, batch {batch_size}, SavedModel",
                name,
                "images/s",
                rates["SavedModel"],
                rates[name],
                rates["SavedModel"] / rates[name],
                "at least 1.0" if is_goal else "",
            )


def repeat(embed, batch, times):
    """Embeds a batch `times` times."""
    for _ in range(times):
        embed(batch)


def compare(engines, faces):
    """Prints the largest difference between each engine's unit embeddings and the SavedModel's.

    Raises:
        ValueError: in float32, a difference is larger than rounding can explain.
    """
    expected = engines["SavedModel"](faces)
    for name, embed in list(engines.items())[1:]:
        difference = np.abs(embed(faces) - expected).max()
        print(
            f"{name}: unit embeddings differ from the SavedModel's by up to {difference:.1e}", file=sys.stderr
        )
        if "float32" in name and not difference <= _MAX_DIFFERENCE:
            raise ValueError(
                f"{name}: expected embeddings within {_MAX_DIFFERENCE} of the SavedModel's, "
                f"received {difference}"
            )


def load_engines(net, path, threads):
    """Loads the net into every engine.

    Args:
        net: `nets.backbone.Backbone`.
        path: Path to write a SavedModel to.
        threads: int > 0, threads of ONNX Runtime.

    Returns:
        dict from the name of an engine, the SavedModel first, to a function from uint8 faces
        `(n, *FACE_SIZE, 3)` to unit embeddings `(n, dim)`.
    """
    import onnxruntime
    import tensorflow as tf

    from benchmarks.onnx_net import onnx_net
    from eval.embedding.face_model import load_face_model
    from eval.embedding.openvino import OpenVinoModel
    from export.saved_model import export_saved_model

    export_saved_model(net, path, FACE_SIZE)
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        onnx_net(net).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def saved_model(faces, loaded=loaded):  # `serve` alone would not keep the variables of `loaded` alive.
        return serve(images=tf.constant(faces))["embedding"].numpy()

    def onnx_runtime(faces):
        top, left = ((have - want) // 2 for have, want in zip(FACE_SIZE, IMAGE_SIZE, strict=True))
        cropped = faces[:, top : top + IMAGE_SIZE[0], left : left + IMAGE_SIZE[1], ::-1].transpose(0, 3, 1, 2)
        images = (np.ascontiguousarray(cropped, np.float32) - np.float32(127.5)) / np.float32(128)
        return _normalize(session.run(None, {"images": images})[0])

    engines = {"SavedModel": saved_model, "ONNX Runtime, float32": onnx_runtime}
    rectified = load_face_model(path, FACE_SIZE, rectified=True)
    for precision in ("float32", "bfloat16"):
        model = OpenVinoModel(rectified, precision)
        engines[f"OpenVINO, {precision}"] = lambda faces, model=model: _normalize(model.embed(faces))
    return engines


def made_up_net(name, image_size=IMAGE_SIZE):
    """Returns a net whose moving statistics and PReLU slopes differ from their initial values."""
    from nets.backbone import Backbone

    net = Backbone(name, image_size)
    rng = np.random.default_rng(0)
    ranges = {
        "moving_variance": (0.5, 2),
        "moving_mean": (-0.1, 0.1),
        "beta": (-0.1, 0.1),
        "alphas": (0, 0.4),
    }
    for variable in net.variables:
        if (name := variable.path.rpartition("/")[2]) in ranges:
            variable.assign(rng.uniform(*ranges[name], variable.shape))
    return net


def _normalize(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
