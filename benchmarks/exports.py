"""Compares all export formats of a net: size, accuracy and speed.

    python -m benchmarks.exports MODEL --pairs lfw.bin --calibration records/ms1m

The program exports the net to every format, loads each file like any model (`eval.embedding.embedder`), and
scores it on the pairs. The formats take turns when their speed is measured, so that a busy machine slows all
of them.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.comparison import interleaved, machine, medians
from common.files import readable_size
from dataset.pairs.image_pairs import read_pairs
from export.calibration_images import read_calibration_images
from export.file_export import PRECISIONS
from nets.start_tensorflow import start_tensorflow

_BATCH_SIZES = (1, 32)


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__.splitlines()[0])
    parser.add_argument("model_path", type=Path, help="a trained net")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs to score the files on")
    parser.add_argument(
        "--calibration", type=Path, required=True, help="faces to calibrate int8 with, as in export.onnx"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of measurements of each speed (default: %(default)s)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="FORMAT",
        help="formats to compare with the SavedModel, such as 'ONNX int8' (default: all)",
    )
    args = parser.parse_args(argv)
    start_tensorflow()
    print(machine(), "\n")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(args, Path(folder)):
            print("| " + " | ".join(row) + " |", flush=True)


def rows(args, folder):
    """Yields the cells of each row of the table, starting with the headings."""
    from eval.embedding.embedder import load_embedder
    from export.scoring import compare, score_model

    pairs = read_pairs(args.pairs)
    images = read_calibration_images(args.calibration, pairs.image_size)
    forms = make_forms(args.model_path, folder, pairs.image_size, images, args.only)
    models = {name: load_embedder(path, pairs.image_size).model for name, path in forms.items()}
    speeds = measure(models, pairs.batch(0, max(_BATCH_SIZES)), args.rounds)
    yield (
        *("format", "size", "largest difference", "accuracy", "difference, 95 % interval"),
        *("TAR at FAR 0.01", "difference, 95 % interval"),
        *(f"images/s, batch {size}" for size in _BATCH_SIZES),
    )
    yield ("---",) * 9
    reference = None
    for name, model in models.items():
        scores = score_model(model, pairs)
        reference = reference or scores
        compared = compare(reference, scores)
        cells = [f"{compared.largest_difference:.1e}" if scores is not reference else ""]
        for metric in ("accuracy", "tar@far=0.01"):
            cells.append(f"{scores.metrics[metric]:.4f}")
            change = compared.differences[metric]
            low, high = change.interval
            is_shown = scores is not reference
            cells.append(f"{change.value:+.4f} [{low:+.4f}, {high:+.4f}]" if is_shown else "")
        size = readable_size(file_size(forms[name]))
        yield name, size, *cells, *(f"{speeds[size][name]:.0f}" for size in _BATCH_SIZES)


def make_forms(model_path, folder, face_size, images, only=()):
    """Exports a net to all formats.

    Args:
        model_path: path of the net.
        folder: Path to write the files to.
        face_size: `(height, width)` of the faces.
        images: uint8 `(n, *face_size, 3)`, RGB, to calibrate int8 with.
        only: names of formats, such as `"ONNX int8"`. Defaults to all. The SavedModel is always written.

    Returns:
        dict from the name of the format to its path, the SavedModel first.
    """
    from export import onnx, openvino, tflite
    from export.saved_model import export_saved_model
    from nets.backbone import load_backbone
    from nets.inference import in_float32

    net = in_float32(load_backbone(model_path))
    forms = {"SavedModel": folder / "model"}
    export_saved_model(net, forms["SavedModel"], face_size)
    writers = (
        ("ONNX", ".onnx", onnx.write_onnx),
        ("TFLite", ".tflite", tflite.write_tflite),
        ("OpenVINO", ".xml", openvino.write_openvino),
    )
    for kind, suffix, write in writers:
        for precision in PRECISIONS:
            name = f"{kind} {precision}"
            if not only or name in only:
                forms[name] = folder / f"{precision}{suffix}"
                write(net, forms[name], face_size, precision, images if precision == "int8" else None)
    return forms


def measure(models, faces, rounds):
    """Measures models in turns. Returns their median images/s: a dict by batch size of dicts by name."""
    speeds = {}
    for size in _BATCH_SIZES:
        batch, repeats = faces[:size], max(1, 32 // size)
        ways = {
            name: lambda model=model, batch=batch, repeats=repeats: [
                model.embed(batch) for _ in range(repeats)
            ]
            for name, model in models.items()
        }
        seconds = medians(interleaved(ways, rounds))
        speeds[size] = {name: size * repeats / seconds[name] for name in models}
    return speeds


def file_size(path):
    """Returns the bytes of an exported model: a file, a folder with all its files, or `.xml` and `.bin`."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    else:
        files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()
