"""Measures the speed of `train_centre` on the GPUs of this machine.

    ./bench.sh gpu --quick                  # bfloat16, with and without XLA, on 1, 2, 4 ... GPUs
    ./bench.sh gpu                          # all rows
    ./bench.sh gpu --only ir100 xla         # those rows that have both words in their name

Every row is a run of its own in a process of its own, so one that runs out of memory costs only itself. The
run is `train_centre` itself on made-up faces, as its flags set it up. Once it has been timed, the same
process times the step without input and the input without steps. docs/gpus.md explains the columns.

Results are added to a file as they come. A row that the file has is printed and not measured again, unless it
failed. After an interruption, run the same command again.
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

# Peaks of a card by precision, in TFLOP/s: dense products that are summed in float32. `None` where the card
# has no units for a precision. From NVIDIA's data sheets, halved where a sheet counts with sparsity, and for
# the RTX 4090 from the appendix of "NVIDIA Ada GPU architecture".
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
# Published by arcface_torch (see `benchmarks.scaling.PUBLISHED`): the number of identities next to ours.
_PUBLISHED_IDENTITIES = {94_000: 125_000, 1_000_000: 1_400_000}
_PUBLISHED_GPUS = 8

_NUM_IMAGES, _NUM_DRAWINGS = 4096, 512
_LONGEST_ROW = 1800  # seconds; every GPU compiles its own step
_INTERVAL = 20  # steps between two lines of the log, as by default
_HEADINGS = (
    *("net", "precision", "XLA", "identities", "centres", "GPUs", "images a GPU", "loop, images/s"),
    *("step, images/s", "input, images/s", "loop / step", "GB", "share of peak", "scaling", "first step, s"),
    "arcface_torch, images/s",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings of one row.

    Attributes:
        net: a backbone.
        precision: a key of `PRECISIONS`.
        xla: whether the step is compiled.
        identities: int > 0.
        head: a key of `HEADS`.
        gpus: int > 0.
        batch_size: int > 0, images of one GPU.
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
        """All words that `--only` can ask for."""
        xla = "xla" if self.xla else "plain"
        size = "x".join(map(str, self.image_size))
        words = (self.net, self.precision, xla, str(self.identities), self.head, f"{self.gpus}gpu")
        return " ".join((*words, f"batch{self.batch_size}", size))

    def flags(self):
        """The flags of `train_centre`."""
        return [
            *(f"--backbone={self.net}", *PRECISIONS[self.precision], *HEADS[self.head]),
            f"--xla={'on' if self.xla else 'off'}",
            *("--image_size", *map(str, self.image_size)),
            f"--batch_size={self.batch_size * self.gpus}",
        ]


class _Timed(Exception):
    """Ends a run that has been timed, before it saves and exports."""


class LoopClock:
    """Times the loop that takes batches, and ends it.

    The loop waits for the device only when it logs, so the clock is read after log lines, when all steps are
    done. The steps before the first line are not timed: they trace, compile and choose kernels.

    Args:
        interval: steps between two lines.
        seconds: of the loop that are timed at least.
        clock: function that returns seconds. Defaults to `time.perf_counter`.

    Attributes:
        first_step: seconds of the first step.
        steps_per_second: of the loop.
    """

    def __init__(self, interval, seconds, clock=time.perf_counter):
        self.interval = interval
        self.seconds = seconds
        self.clock = clock
        self.first_step = self.steps_per_second = None

    def time(self, batches):
        """Yields the batches; raises when the loop has been timed."""
        start = first = 0.0
        for count, batch in enumerate(batches, 1):
            if count == 1:
                start = self.clock()
            yield batch
            # The loop is back: the step is done, or on its way.
            now = self.clock()
            if count == 1:
                self.first_step = now - start
            if count == self.interval:
                first = now
            elif count % self.interval == 0 and now - first >= self.seconds:
                self.steps_per_second = (count - self.interval) / (now - first)
                raise _Timed


def main(argv=None):
    """The program; returns the exit code."""
    args = parse_arguments(argv)
    if args.one:
        print(json.dumps(measure_or_fail(read_setting(json.loads(args.one)), args)))
        return 0
    num_gpus = args.cpus or count_gpus()
    if not num_gpus:
        print("TensorFlow sees no GPU: see docs/gpus.md, Install.", file=sys.stderr)
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
    """The parsed flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first net in one precision only")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="rows with all of these words, such as ir100 float16 xla plain 94000 dense sharded 2gpu",
    )
    parser.add_argument("--out", type=Path, default="output/gpu.jsonl", help="file of results (%(default)s)")
    parser.add_argument("--nets", nargs="+", default=["ir50", "ir100"], metavar="NET", help="(%(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="bfloat16",
        help="of most rows; float16 for a V100 or a T4 (%(default)s)",
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images of one GPU (%(default)s)")
    parser.add_argument("--image_size", type=int, nargs=2, default=(112, 112), metavar=("H", "W"))
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each of a row's three speeds (%(default)s)"
    )
    parser.add_argument("--cpus", type=int, help="try this program on parts of the processor, not on GPUs")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the row that this process measures
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def count_gpus():
    """Counts the GPUs in another process, so that this one does not hold their memory."""
    code = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def settings(num_gpus, args):
    """The settings of all rows, the most important first.

    Args:
        num_gpus: int > 0.
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
            # Nothing of these is compiled.
            rows.append(variants(gpus=gpus, identities=identities, head="sampled")[0])
            if gpus > 1:
                rows.append(variants(gpus=gpus, identities=identities, head="sharded")[0])
    return list(dict.fromkeys(rows))


def chosen(rows, words):
    """The settings that have all words in their name."""
    return [setting for setting in rows if set(words) <= set(setting.name.split())]


def data_folder(folder, num_identities):
    """Faces of so many identities, made if they are not there yet: the Path of their folder."""
    from benchmarks.made_up_faces import made_up_faces
    from benchmarks.made_up_sets import write_list

    path = folder / str(num_identities)
    if not path.exists():
        path.mkdir()
        faces = made_up_faces(_NUM_DRAWINGS)
        write_list(path, list(itertools.islice(itertools.cycle(faces), _NUM_IMAGES)), num_identities)
    return path


def run_alone(setting, args, data):
    """Runs `measure` in a process that sees as many GPUs as the setting has. Returns result or error."""
    command = [sys.executable, "-m", "benchmarks.gpu", f"--seconds={args.seconds}", f"--data={data}"]
    command += [f"--one={json.dumps(dataclasses.asdict(setting))}"]
    environment = dict(os.environ)
    if args.cpus:
        command.append(f"--cpus={args.cpus}")
    else:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(setting.gpus))))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[: setting.gpus])
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_LONGEST_ROW)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {_LONGEST_ROW} s"}
    if done.returncode:
        last = "".join(done.stderr.strip().splitlines()[-1:])
        return {"failed": one_line(f"exit code {done.returncode}: {last}")[:200]}
    return json.loads(done.stdout.splitlines()[-1])


def measure_or_fail(setting, args):
    """Runs `measure` in a process of its own. Returns its result, or `{"failed": str}`."""
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
    """Trains with one setting, in this process.

    Args:
        setting: `Setting`.
        data: Path of a folder of `data_folder`.
        seconds: float, of each of the three speeds.
        strategy: Defaults to that of `train_centre`, which uses all GPUs that it sees.
        interval: int > 0, steps between two lines of the log.

    Returns:
        dict: images/s of `loop`, `step` and `input`; `first_step`, in seconds; `card`; `memory`, the largest
        number of bytes in use on a GPU, or `None`; `tensorflow`, its version; `work`, see there.
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
                # So small that the loss stays finite. Nothing is saved, so the disk need not have room.
                *("--lr_values=1e-6", "--lr_steps", f"--save_interval={10**9}"),
            ]
        )
        with (
            mock.patch("training.session.TrainingLoop", loop),
            mock.patch("training.session.check_run"),
            contextlib.suppress(_Timed),
        ):
            train_centre.train(options, strategy)
    trainer, batches = taken
    del batches.start_at  # the object's own, which the loop has used
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
    """Speed of the step on a batch that stays: queued as in the loop, and waited for at every interval."""
    count, start, passed = 0, time.perf_counter(), 0.0
    while passed < seconds:
        for _ in range(interval):
            terms = trainer.train_step(*batch, with_decay=False)
        float(terms["loss"])
        count += interval
        passed = time.perf_counter() - start
    return count / passed


def device_facts():
    """`card` and `memory` of `measure`, and TensorFlow's version."""
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
    """Multiplications and additions of a step on one GPU: those of the net, and of the products with centres.

    Each product of a forward pass has two products in the backward pass.
    """
    from tests.nets.counting import multiply_adds

    num_shards = setting.gpus if setting.head == "sharded" else 1
    seen = setting.identities * (SAMPLE_RATE if setting.head == "sampled" else 1)
    of_net = 6 * setting.batch_size * multiply_adds(net)
    # A shard has products of the global batch with its part of the centres.
    return of_net, 6 * setting.batch_size * num_shards * net.output_shape[-1] * seen / num_shards


def share_of_peak(setting, result):
    """The time that the work of a step takes at the peak of the card, as a share of the step's time.

    The net is counted in its precision, and the products with the centres in float32.

    Returns:
        float, or `None` if the card's peak is not known.
    """
    card = next((name for name in PEAKS if re.search(rf"\b{name}\b", result["card"])), None)
    if card is None or "MIG" in result["card"] or PEAKS[card][setting.precision] is None:
        return None
    net, head = result["work"]
    least = (net / PEAKS[card][setting.precision] + head / PEAKS[card]["float32"]) / 1e12
    return least * result["step"] / (setting.batch_size * setting.gpus)


def scaling(setting, results):
    """Images/s of the loop per GPU, as a share of those of one GPU; `None` if these are not known."""
    alone = results.get(dataclasses.replace(setting, gpus=1), {})
    if setting.gpus == 1 or "loop" not in alone:
        return None
    return results[setting]["loop"] / setting.gpus / alone["loop"]


def published(setting):
    """Images/s of so many V100, by arcface_torch's table for 8, of what is most like this; or `None`."""
    identities = _PUBLISHED_IDENTITIES.get(setting.identities)
    is_16_bit = setting.precision in ("bfloat16", "float16")
    if setting.net not in ("ir50", "iresnet50") or not is_16_bit or identities is None:
        return None
    place = list(HEADS).index(setting.head)
    data_parallel, model_parallel, partial_fc = PUBLISHED[identities]
    speed = (data_parallel, partial_fc, model_parallel)[place]
    return speed / _PUBLISHED_GPUS * setting.gpus


def row(setting, results):
    """A row of the table; `results` by setting."""
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
    cells += [_shown(value, ".2f") for value in (share_of_peak(setting, result), scaling(setting, results))]
    cells += [f"{result['first_step']:.0f}", _shown(published(setting), ",.0f")]
    return "| " + " | ".join(cells) + " |"


def _shown(number, form):
    return "" if number is None else format(number, form)


def read_results(path):
    """Results by setting, from a file of `write_results`; none if it is missing."""
    results = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        result = json.loads(line)
        results[read_setting(result.pop("setting"))] = result
    return results


def read_setting(values):
    """The `Setting` of a dict from JSON, which has no tuples."""
    return Setting(**{**values, "image_size": tuple(values["image_size"])})


def write_results(path, results):
    """Writes a line of JSON for each result."""
    lines = [
        json.dumps({"setting": dataclasses.asdict(setting), **result}) for setting, result in results.items()
    ]
    write_file(path, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
