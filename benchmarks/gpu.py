"""Measures the speed of `train_centre` on the GPUs of this machine.

    ./bench.sh gpu --quick                  # bfloat16, with and without XLA, on 1, 2, 4 ... GPUs
    ./bench.sh gpu                          # all rows
    ./bench.sh gpu --only ir100 xla         # only rows with both words in their name

Each row is measured in its own process, so a row that runs out of memory does not stop the others. The
process runs `train_centre` on made-up faces, then times the step without input and the input without steps.
docs/gpus.md explains the columns.

Each result is saved to a file at once. Rows with a result in the file are printed and not measured again,
unless they failed. After an interruption, run the same command again to continue.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks.scaling import PUBLISHED
from common.files import one_line, write_file
from nets.start_tensorflow import start_tensorflow

PRECISIONS = {
    "float32": ("--precision=float32", "--tf32=off"),
    "tf32": ("--precision=float32", "--tf32=on"),
    "bfloat16": ("--precision=mixed_bfloat16",),
    "float16": ("--precision=mixed_float16",),
}
HEADS = {"dense": (), "sampled": ("--sample_rate=0.1",), "sharded": ("--shard_centres",)}
SAMPLE_RATE = 0.1

# Peak speed of each card by precision, in TFLOP/s, for dense matrix products with sums in float32. `None`:
# the card has no hardware for this precision. The numbers are from NVIDIA's data sheets, halved where a sheet
# assumes sparsity; those of the RTX 4090 are from the appendix of "NVIDIA Ada GPU architecture".
PEAKS = {
    "H100 PCIe": {"float32": 51, "tf32": 378, "bfloat16": 756, "float16": 756},
    "H100 NVL": {"float32": 60, "tf32": 418, "bfloat16": 836, "float16": 836},
    "H100": {"float32": 67, "tf32": 494, "bfloat16": 989, "float16": 989},
    "H200": {"float32": 67, "tf32": 494, "bfloat16": 989, "float16": 989},
    "A100": {"float32": 19.5, "tf32": 156, "bfloat16": 312, "float16": 312},
    "L40S": {"float32": 91.6, "tf32": 183, "bfloat16": 362, "float16": 362},
    "RTX 4090": {"float32": 82.6, "tf32": 82.6, "bfloat16": 165, "float16": 165},
    "V100": {"float32": 15.7, "tf32": None, "bfloat16": None, "float16": 125},
    "T4": {"float32": 8.1, "tf32": None, "bfloat16": None, "float16": 65},
}
# Our number of identities -> the nearest one in arcface_torch's table, see `benchmarks.scaling.PUBLISHED`.
_PUBLISHED_IDENTITIES = {94_000: 125_000, 1_000_000: 1_400_000}
_PUBLISHED_GPUS = 8

_NUM_IMAGES, _NUM_DRAWINGS = 4096, 512
_ROW_TIMEOUT = 1800  # seconds; every GPU compiles its own step
_INTERVAL = 20  # steps between two lines of the log, the default of `train_centre`
_HEADINGS = (
    *("net", "precision", "XLA", "identities", "centres", "GPUs", "images a GPU", "loop, images/s"),
    *("step, images/s", "input, images/s", "loop / step", "GB", "share of peak", "scaling", "first step, s"),
    "arcface_torch, images/s",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings of one row.

    Attributes:
        net: name of a backbone.
        precision: a key of `PRECISIONS`.
        xla: whether XLA compiles the step.
        identities: number of identities, > 0.
        head: how the centres are trained, a key of `HEADS`.
        gpus: number of GPUs, > 0.
        batch_size: images on each GPU, > 0.
        image_size: `(height, width)`.
    """

    net: str = "ir50"
    precision: str = "bfloat16"
    xla: bool = True
    identities: int = 94_000
    head: str = "dense"
    gpus: int = 1
    batch_size: int = 128
    image_size: tuple[int, int] = (112, 112)

    @property
    def name(self):
        """Returns the words that `--only` can select this row by, separated by spaces."""
        xla = "xla" if self.xla else "plain"
        size = "x".join(map(str, self.image_size))
        words = (self.net, self.precision, xla, str(self.identities), self.head, f"{self.gpus}gpu")
        return " ".join((*words, f"batch{self.batch_size}", size))

    def flags(self):
        """Returns the flags of `train_centre` for this row."""
        return [
            *(f"--backbone={self.net}", *PRECISIONS[self.precision], *HEADS[self.head]),
            f"--xla={'on' if self.xla else 'off'}",
            *("--image_size", *map(str, self.image_size)),
            f"--batch_size={self.batch_size * self.gpus}",
        ]


class _StopLoop(Exception):
    """Ends a run after the measurement, before it saves and exports."""


class LoopClock:
    """Times a training loop, then ends it.

    The loop waits for the device only when it logs. The clock is therefore read right after a log line, when
    all earlier steps are done. Steps before the first log line are not timed, because they trace the graph,
    compile it and choose kernels.

    Args:
        interval: steps between two log lines.
        seconds: least time to measure for.
        clock: function that returns seconds. Defaults to `time.perf_counter`.

    Attributes:
        first_step: seconds of the first step, `None` before it.
        steps_per_second: speed of the loop, `None` until it is measured.
    """

    def __init__(self, interval, seconds, clock=time.perf_counter):
        self.interval = interval
        self.seconds = seconds
        self.clock = clock
        self.first_step = self.steps_per_second = None

    def time(self, batches):
        """Yields the batches to the loop. Raises `_StopLoop` when the loop has been timed."""
        start = first = 0.0
        for count, batch in enumerate(batches, 1):
            if count == 1:
                start = self.clock()
            yield batch
            # The loop asks for the next batch, so the step is done or queued.
            now = self.clock()
            if count == 1:
                self.first_step = now - start
            if count == self.interval:
                first = now
            elif count % self.interval == 0 and now - first >= self.seconds:
                self.steps_per_second = (count - self.interval) / (now - first)
                raise _StopLoop


def main(argv=None):
    """Runs the program. Returns the exit code."""
    args = parse_arguments(argv)
    if args.one:
        print(json.dumps(measure_or_fail(read_setting(json.loads(args.one)), args)))
        return 0
    num_gpus = args.cpus or count_gpus()
    if not num_gpus:
        print("TensorFlow finds no GPU. See docs/gpus.md, Install.", file=sys.stderr)
        return 1
    results = read_results(args.out)
    print("| " + " | ".join(_HEADINGS) + " |\n" + "|---" * len(_HEADINGS) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for setting in chosen(settings(num_gpus, args), args.only):
            if "failed" in results.get(setting, {"failed": "not measured"}):
                results[setting] = run_alone(setting, args, data_folder(Path(folder), setting.identities))
                write_results(args.out, results)
            print(row(setting, results), flush=True)
    return 0


def parse_arguments(argv=None):
    """Parses the flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure only the first net, in one precision")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="measure only rows that have all of these words in their name, such as ir100 float16 xla plain "
        "94000 dense sharded 2gpu",
    )
    parser.add_argument(
        "--out", type=Path, default="output/gpu.jsonl", help="file of results (default: %(default)s)"
    )
    parser.add_argument(
        "--nets", nargs="+", default=["ir50", "ir100"], metavar="NET", help="backbones (default: ir50 ir100)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="bfloat16",
        help="precision of most rows; choose float16 for a V100 or a T4 (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size", type=int, default=128, help="images on each GPU (default: %(default)s)"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        default=(112, 112),
        metavar=("H", "W"),
        help="height and width of the images (default: 112 112)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="time to measure each of the three speeds of a row for (default: %(default)s)",
    )
    parser.add_argument(
        "--cpus",
        type=int,
        metavar="N",
        help="use N parts of the processor instead of GPUs, to try this program",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the settings of the row that this process measures
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def count_gpus():
    """Counts the GPUs in another process, so that this one does not hold their memory."""
    code = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def settings(num_gpus, args):
    """Lists the settings of all rows, the most important first.

    Args:
        num_gpus: int > 0, GPUs of this machine.
        args: parsed flags.
    """
    net, *others = args.nets
    base = Setting(
        net=net,
        precision=args.precision,
        batch_size=args.batch_size,
        image_size=tuple(args.image_size),
    )
    powers = itertools.takewhile(lambda count: count < num_gpus, (2**n for n in itertools.count()))

    def variants(**changes):
        return [dataclasses.replace(base, xla=xla, **changes) for xla in (False, True)]

    rows = [each for gpus in (*powers, num_gpus) for each in variants(gpus=gpus)]
    if args.quick:
        return rows
    for precision in PRECISIONS:
        rows += variants(precision=precision)
    for gpus in (1, num_gpus):
        rows += [each for other in others for each in variants(net=other, gpus=gpus)]
        for identities in (base.identities, 1_000_000):
            rows += variants(gpus=gpus, identities=identities)
            # `train_centre` refuses `--xla on` with sampled and sharded heads.
            rows.append(variants(gpus=gpus, identities=identities, head="sampled")[0])
            if gpus > 1:
                rows.append(variants(gpus=gpus, identities=identities, head="sharded")[0])
    return list(dict.fromkeys(rows))


def chosen(rows, words):
    """Returns the settings that have all words in their name."""
    return [setting for setting in rows if set(words) <= set(setting.name.split())]


def data_folder(folder, num_identities):
    """Returns a folder with made-up faces of `num_identities` identities, and writes it if it is missing."""
    from benchmarks.made_up_faces import made_up_faces
    from benchmarks.made_up_sets import write_list

    path = folder / str(num_identities)
    if not path.exists():
        path.mkdir()
        faces = made_up_faces(_NUM_DRAWINGS)
        write_list(path, list(itertools.islice(itertools.cycle(faces), _NUM_IMAGES)), num_identities)
    return path


def run_alone(setting, args, data):
    """Runs `measure` in its own process, which sees as many GPUs as the setting needs.

    Args:
        setting: `Setting`.
        args: parsed flags.
        data: Path from `data_folder`.

    Returns:
        The dict of `measure`, or `{"failed": str}`.
    """
    command = [sys.executable, "-m", "benchmarks.gpu", f"--seconds={args.seconds}", f"--data={data}"]
    command += [f"--one={json.dumps(dataclasses.asdict(setting))}"]
    environment = dict(os.environ)
    if args.cpus:
        command.append(f"--cpus={args.cpus}")
    else:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(setting.gpus))))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[: setting.gpus])
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_ROW_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {_ROW_TIMEOUT} s"}
    if done.returncode:
        last = "".join(done.stderr.strip().splitlines()[-1:])
        return {"failed": one_line(f"exit code {done.returncode}: {last}")[:200]}
    return json.loads(done.stdout.splitlines()[-1])


def measure_or_fail(setting, args):
    """Runs `measure` in this process. Returns its result, or `{"failed": str}`."""
    start_tensorflow()
    import tensorflow as tf

    strategy = None
    try:
        if args.cpus:
            from training.distribution import make_strategy

            parts = [tf.config.LogicalDeviceConfiguration()] * setting.gpus
            tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
            strategy = make_strategy([f"CPU:{number}" for number in range(setting.gpus)])
        return measure(setting, args.data, args.seconds, strategy)
    except tf.errors.ResourceExhaustedError:
        return {"failed": "out of memory"}
    except (ValueError, RuntimeError, OSError, ArithmeticError, tf.errors.OpError) as error:
        return {"failed": f"{type(error).__name__}: {one_line(str(error))[:200]}"}


def measure(setting, data, seconds, strategy=None, interval=_INTERVAL):
    """Trains with one setting in this process, and measures three speeds.

    Args:
        setting: `Setting`.
        data: Path from `data_folder`.
        seconds: float, least time for each of the three speeds.
        strategy: `tf.distribute.Strategy`. Defaults to that of `train_centre`, which uses all visible GPUs.
        interval: int > 0, steps between two lines of the log.

    Returns:
        dict: `loop`, `step` and `input`, in images/s; `first_step`, in seconds; `card`, its name; `memory`,
        the most bytes in use on a GPU, or `None`; `tensorflow`, its version; `work`, the result of `work`.
    """
    import train_centre
    from training.loop import TrainingLoop
    from training.options import parse_centre_options
    from training.preflight import input_speed

    clock, taken = LoopClock(interval, seconds), []

    def loop(trainer, batches, *others):
        taken.extend((trainer, batches))
        start_at = batches.start_at
        batches.start_at = lambda step: clock.time(start_at(step))
        return TrainingLoop(trainer, batches, *others)

    with tempfile.TemporaryDirectory() as output:
        options = parse_centre_options(
            [
                *(*setting.flags(), f"--config={data / 'config.ini'}", "--source=made_up"),
                *(f"--output={output}", f"--show_info_interval={interval}", "--max_steps=1000000"),
                # The rate is so small that the loss stays finite. Nothing is saved to disk.
                *("--lr_values=1e-6", "--lr_steps", f"--save_interval={10**9}"),
            ]
        )
        with (
            mock.patch("training.session.TrainingLoop", loop),
            mock.patch("training.session.check_run"),
            contextlib.suppress(_StopLoop),
        ):
            train_centre.train(options, strategy)
    trainer, batches = taken
    del batches.start_at  # removes the replacement above, so that the method of the class is used again
    images = setting.batch_size * setting.gpus
    return {
        "loop": images * clock.steps_per_second,
        "step": images * steps_per_second(trainer, next(batches.start_at(0)), seconds, interval),
        "input": input_speed(batches.start_at(0), images, seconds),
        "first_step": clock.first_step,
        **device_facts(),
        "work": work(trainer.backbone, setting),
    }


def steps_per_second(trainer, batch, seconds, interval):
    """Measures the step alone, on one batch that stays on the device.

    Like the loop, it queues steps and waits for the device once per interval.
    """
    count, start, passed = 0, time.perf_counter(), 0.0
    while passed < seconds:
        for _ in range(interval):
            terms = trainer.train_step(*batch, with_decay=False)
        float(terms["loss"])
        count += interval
        passed = time.perf_counter() - start
    return count / passed


def device_facts():
    """Returns `card`, `memory` and `tensorflow` for the result of `measure`."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    cards = {tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in gpus}
    peaks = [
        tf.config.experimental.get_memory_info(device.name.removeprefix("/device:"))["peak"]
        for device in tf.config.list_logical_devices("GPU")
    ]
    card = " and ".join(sorted(cards)) or "processor"
    return {"card": card, "memory": max(peaks, default=None), "tensorflow": tf.__version__}


def work(net, setting):
    """Counts the multiplications and additions of a step on one GPU.

    Each product of the forward pass needs two more in the backward pass, and each counts as two operations.

    Returns:
        `(operations of the net, operations of the products with the centres)`.
    """
    from tests.nets.counting import multiply_adds

    num_shards = setting.gpus if setting.head == "sharded" else 1
    seen = setting.identities * (SAMPLE_RATE if setting.head == "sampled" else 1)
    net_work = 6 * setting.batch_size * multiply_adds(net)
    # Each shard multiplies the global batch with its own part of the centres.
    return net_work, 6 * setting.batch_size * num_shards * net.output_shape[-1] * seen / num_shards


def share_of_peak(setting, result):
    """Returns the ideal time of a step, at the peak speed of the card, as a share of the measured time.

    The ideal time is computed for the net in its own precision, and for the products with the centres in
    float32.

    Returns:
        float, usually in [0, 1]; `None` if the peak speed of the card is unknown.
    """
    card = next((name for name in PEAKS if re.search(rf"\b{name}\b", result["card"])), None)
    if card is None or "MIG" in result["card"] or PEAKS[card][setting.precision] is None:
        return None
    net, head = result["work"]
    least = (net / PEAKS[card][setting.precision] + head / PEAKS[card]["float32"]) / 1e12
    return least * result["step"] / (setting.batch_size * setting.gpus)


def scaling(setting, results):
    """Returns the images/s of the loop per GPU, divided by those on one GPU; `None` if those are unknown."""
    alone = results.get(dataclasses.replace(setting, gpus=1), {})
    if setting.gpus == 1 or "loop" not in alone:
        return None
    return results[setting]["loop"] / setting.gpus / alone["loop"]


def published(setting):
    """Returns the images/s that arcface_torch published for 8 V100 in the most similar setting.

    The number is scaled from 8 GPUs to those of the setting. `None` if no published setting is similar.
    """
    identities = _PUBLISHED_IDENTITIES.get(setting.identities)
    is_16_bit = setting.precision in ("bfloat16", "float16")
    if setting.net not in ("ir50", "iresnet50") or not is_16_bit or identities is None:
        return None
    place = list(HEADS).index(setting.head)
    data_parallel, model_parallel, partial_fc = PUBLISHED[identities]
    speed = (data_parallel, partial_fc, model_parallel)[place]
    return speed / _PUBLISHED_GPUS * setting.gpus


def row(setting, results):
    """Formats the row of a setting; `results` is a dict by setting."""
    result = results[setting]
    precision, xla = setting.precision, "yes" if setting.xla else "no"
    cells = [setting.net, precision, xla, f"{setting.identities:,}", setting.head]
    cells += [str(setting.gpus), str(setting.batch_size)]
    if "failed" in result:
        cells += [result["failed"].replace("|", "/"), *[""] * (len(_HEADINGS) - len(cells) - 1)]
        return "| " + " | ".join(cells) + " |"
    memory = result["memory"]
    cells += [f"{result[name]:,.0f}" for name in ("loop", "step", "input")]
    cells.append(f"{result['loop'] / result['step']:.2f}")
    cells.append("" if memory is None else f"{memory / 1e9:.1f}")
    cells += [
        _format_number(value, ".2f") for value in (share_of_peak(setting, result), scaling(setting, results))
    ]
    cells += [f"{result['first_step']:.0f}", _format_number(published(setting), ",.0f")]
    return "| " + " | ".join(cells) + " |"


def _format_number(number, form):
    return "" if number is None else format(number, form)


def read_results(path):
    """Reads a file of `write_results`: dict from `Setting` to result, empty if the file is missing."""
    results = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        result = json.loads(line)
        results[read_setting(result.pop("setting"))] = result
    return results


def read_setting(values):
    """Returns the `Setting` of a dict from JSON, in which the tuple is a list."""
    return Setting(**{**values, "image_size": tuple(values["image_size"])})


def write_results(path, results):
    """Writes a line of JSON for each result."""
    lines = [
        json.dumps({"setting": dataclasses.asdict(setting), **result}) for setting, result in results.items()
    ]
    write_file(path, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
