"""Measures all nets: parameters, multiply-adds, file sizes, and images per second.

    python -m benchmarks.nets

Each net has random weights, takes faces of 112x112, and is measured in its own processes. The training step
is that of `train_centre` without its input: batch 32, float32, 1,000 identities. The formats of a net take
turns, so that a busy machine slows all of them. The program saves the results of each net in a folder. Run
the same command again to continue.
"""

import argparse
import concurrent.futures
import functools
import itertools
import json
import math
import multiprocessing
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.comparison import machine
from common.files import readable_size, write_json
from nets.variants import VARIANTS

FACE_SIZE = (112, 112)
BATCH_SIZES = (1, 32)
FORMS = ("SavedModel", "ONNX float32", "OpenVINO float32", "OpenVINO int8", "TFLite float32")
_NUM_IDENTITIES = 1000
_NUM_CALIBRATION = 50  # images of noise, because accuracy is not measured


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nets", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NET", help="nets to measure (default: all)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("output/nets"),
        help="folder for results and exported files (default: %(default)s)",
    )
    parser.add_argument("--count_only", action="store_true", help="only count parameters and multiply-adds")
    parser.add_argument("--export_only", action="store_true", help="only count, and write the files")
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="time to measure each speed for (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=600,
        help="start nothing new after this many minutes (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    unknown = sorted(set(args.names) - set(VARIANTS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known nets: {', '.join(VARIANTS)}")
    names = args.names or list(VARIANTS)
    stages = {"count": count}
    if not args.count_only:
        stages["export"] = export
        if not args.export_only:
            stages["measure"] = functools.partial(measure, seconds=args.seconds)
    args.folder.mkdir(parents=True, exist_ok=True)
    run(names, stages, args.folder, args.minutes)
    results = {name: _read(args.folder, name) for name in names}
    print("\n".join(table({name: result for name, result in results.items() if result})))


def run(names, stages, folder, minutes):
    """Runs the missing stages of each net, and saves each result at once.

    Args:
        names: list of str, names of nets.
        stages: dict from the name of a stage to a function of a net's name and the folder.
        folder: Path of the results.
        minutes: float; no stage starts later.
    """
    start = time.monotonic()
    for name, (stage, function) in itertools.product(names, stages.items()):
        result = _read(folder, name)
        if stage in result:
            continue
        if time.monotonic() - start > 60 * minutes:
            break
        print(f"{name}: {stage}", file=sys.stderr, flush=True)
        # In another process, because this frees its memory, and a crash does not stop the other nets.
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            future = pool.submit(function, name, folder)
            error = future.exception()
        if error is not None:
            print(f"{name}: {stage}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        write_json(folder / f"{name}.json", {**result, stage: future.result()})


def count(name, folder):
    """Returns the numbers of parameters, multiply-adds and embedding components of a net: dict of int."""
    from nets.backbone import Backbone
    from tests.nets.counting import multiply_adds, num_parameters

    net = Backbone(name, FACE_SIZE)
    sizes = {"embedding_size": net.output_shape[-1]}
    return {"parameters": num_parameters(net), "multiply_adds": multiply_adds(net), **sizes}


def export(name, folder):
    """Exports a net to all formats. Returns a dict from format to its file's `path` and `size` in bytes."""
    import tensorflow as tf

    from benchmarks.exports import file_size, make_forms
    from dataset.preprocess import preprocess
    from nets.backbone import Backbone
    from nets.layers.batch_norm import BatchNorm

    files = folder / name
    shutil.rmtree(files, ignore_errors=True)  # left by a process that was killed
    files.mkdir()
    net = Backbone(name, FACE_SIZE)
    for variable in net.trainable_variables:
        # TensorFlow removes a bias of zeros, and tf2onnx then fails.
        if variable.name == "bias":
            variable.assign(np.full(variable.shape, 0.01))
    # The moving statistics become those of one batch, because the embeddings of deep nets overflow without.
    for layer in net.layers:
        if isinstance(layer, BatchNorm):
            layer.momentum = 0.0
    images = np.random.default_rng(0).integers(0, 256, (_NUM_CALIBRATION, *FACE_SIZE, 3), np.uint8)
    net(preprocess(tf.constant(images), FACE_SIZE), training=True)
    path = files / "net.keras"
    net.save(path)
    paths = make_forms(path, files, FACE_SIZE, images, FORMS)
    path.unlink()
    return {form: {"path": paths[form].name, "size": file_size(paths[form])} for form in FORMS}


def measure(name, folder, seconds):
    """Measures images per second of training, and of embedding by batch size and format."""
    from eval.embedding.embedder import load_embedder

    exported = _read(folder, name)["export"]
    paths = {form: folder / name / entry["path"] for form, entry in exported.items()}
    models = {form: load_embedder(path, FACE_SIZE).model for form, path in paths.items()}
    faces = np.random.default_rng(0).integers(0, 256, (max(BATCH_SIZES), *FACE_SIZE, 3), np.uint8)
    speeds = {"machine": machine()}
    for size in BATCH_SIZES:
        ways = {form: functools.partial(model.embed, faces[:size]) for form, model in models.items()}
        taken = turns(ways, seconds)
        speeds[f"batch {size}"] = {form: size / taken[form] for form in models}
    del models, ways
    step = _training_step(name)
    speeds["training"] = 32 / turns({"step": step}, seconds)["step"]
    return speeds


def turns(ways, seconds, num_turns=5, clock=time.perf_counter):
    """Times several functions in turns, each for about the same time and at least one call.

    Args:
        ways: dict from name to a function without arguments.
        seconds: float, least time to measure each function for.
        num_turns: int > 0, number of turns that this time is split into.
        clock: function that returns seconds. Defaults to `time.perf_counter`.

    Returns:
        dict from name to the seconds of a call in its fastest turn, which other programs disturbed least.
    """
    for way in ways.values():
        way()
    fastest, spent = dict.fromkeys(ways, math.inf), dict.fromkeys(ways, 0.0)
    while pending := [name for name in ways if spent[name] < seconds]:
        for name in pending:
            start, num_calls, taken = clock(), 0, 0.0
            while taken < seconds / num_turns:
                ways[name]()
                num_calls += 1
                taken = clock() - start
            spent[name] += taken
            fastest[name] = min(fastest[name], taken / num_calls)
    return fastest


def _training_step(name):
    from benchmarks.plain_net import made_up_batch, our_step

    step = our_step(name, FACE_SIZE, _NUM_IDENTITIES)
    return functools.partial(step, *made_up_batch(32, FACE_SIZE, _NUM_IDENTITIES))


def table(results):
    """Yields the lines of docs/nets.md: a table of costs and sizes, then one of speeds for each machine."""
    yield from _rows(("net", "parameters", "multiply-adds", "numbers", *FORMS), results, _costs)
    measured = {name: result["measure"] for name, result in results.items() if "measure" in result}
    for name in sorted({speeds["machine"] for speeds in measured.values()}):
        yield f"\n{name}\n"
        on_it = {net: speeds for net, speeds in measured.items() if speeds["machine"] == name}
        yield from _rows(("net", "training", *FORMS), on_it, _speeds)


def _rows(headings, entries, describe):
    """Yields the headings and one row for each entry. Nets with equal cells share a row."""
    yield f"| {' | '.join(headings)} |"
    yield "|---" * len(headings) + "|"
    names = {}
    for name, entry in entries.items():
        names.setdefault(describe(entry), []).append(f"`{name}`")
    for cells, nets in names.items():
        yield f"| {' | '.join([', '.join(nets), *cells])} |"


def _costs(result):
    counted, files = result["count"], result.get("export", {})
    sizes = [readable_size(files[form]["size"]) if form in files else "" for form in FORMS]
    numbers = map(_in_millions, (counted["parameters"], counted["multiply_adds"]))
    return *numbers, str(counted["embedding_size"]), *sizes


def _speeds(speeds):
    cells = [_rate(speeds["training"])]
    for form in FORMS:
        rates = [speeds[f"batch {size}"].get(form) for size in BATCH_SIZES]
        cells.append(" / ".join(_rate(rate) for rate in rates if rate is not None))
    return tuple(cells)


def _in_millions(number):
    millions = number / 1e6
    return f"{millions:,.0f} M" if millions >= 100 else f"{millions:#.3g} M"


def _rate(rate):
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _read(folder, name):
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    main()
