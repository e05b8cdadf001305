"""Compares the whole loop of `train_centre` with the bare training step of a plain Keras model.

    python -m benchmarks.training_step

Our side is `train_centre` itself on made-up faces in TFRecords, with everything that it does: reading,
decoding, losses, decay, norm of the gradient, metrics, log lines and TensorBoard scalars. The last two come
once per turn, which is more often than by default. The reference has the same layers, loss, decay and
momentum in one `tf.function`, one batch that stays in memory, and nothing else.

The two take turns of a few steps each, within one process. During the reference's turn, our pipeline reads
ahead. To account for this, our time also includes the time to make all batches of a turn, measured with
nothing else running. The time of some batches is therefore added twice, so the real ratio is slightly better.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks.comparison import Row, report

# Steps before the first turn, because the first step traces the graph.
_WARM_UP = 2
_FACES = {"identities": 60, "images": 16, "held_out": 5, "pairs": 20, "videos": 4, "frames": 1}


class _StopLoop(Exception):
    """Ends the run after the last turn, before it saves and exports."""


class Turns:
    """Passes batches to the training loop, and runs the reference after every few batches.

    Args:
        batches: `dataset.pipeline.TrainingBatches`.
        reference: function without arguments that does one turn of the reference.
        steps: int > 0, batches in each of our turns.
        rounds: int > 0, number of turns.
        clock: function that returns seconds. Defaults to `time.perf_counter`.

    Attributes:
        ours: list of float, the seconds of each of our turns.
        references: list of float, the seconds of each turn of the reference.
    """

    def __init__(self, batches, reference, steps, rounds, clock=time.perf_counter):
        self.batches = batches
        self.sampler = batches.sampler
        self.bad_images = {}
        self.reference = reference
        self.steps = steps
        self.rounds = rounds
        self.clock = clock
        self.ours = []
        self.references = []

    def start_at(self, step):
        """Yields the batches. Raises `_StopLoop` after the last turn."""
        start = None
        for count, batch in enumerate(self.batches.start_at(step), 1 - _WARM_UP):
            yield batch
            # The loop asks for the next batch, so the step on this one and the work after it are done.
            if count < 0 or count % self.steps:
                continue
            stop = self.clock()
            if start is not None:
                self.ours.append(stop - start)
            if len(self.ours) == self.rounds:
                raise _StopLoop
            self.reference()
            start = self.clock()
            self.references.append(start - stop)


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--net_depth", type=int, default=50, help="depth of the net (default: %(default)s)")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        default=(112, 96),
        metavar=("H", "W"),
        help="height and width of the images (default: 112 96)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images in a batch (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps in a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="number of turns (default: %(default)s)")
    report(rows(parser.parse_args(argv)))


def rows(args):
    """Yields the row of the table for the flags that `main` has parsed."""
    turns, input_rate = measure(args)
    images = args.steps * args.batch_size
    ours = images / (statistics.median(turns.ours) + images / input_rate)
    reference = images / statistics.median(turns.references)
    height, width = args.image_size
    yield Row(
        f"training step, IR-{args.net_depth} {height}x{width}, batch {args.batch_size}, float32: all of "
        f"train_centre",
        "plain Keras model of our layers in a tf.function, no data, no log",
        "images/s",
        ours,
        reference,
        ours / reference,
        "at least 0.97",
    )


def measure(args):
    """Trains in turns with the reference.

    Returns:
        `(turns, input_rate)`: the `Turns`, and the images/s of the input pipeline with nothing else running.

    Raises:
        RuntimeError: `train_centre` failed.
    """
    import train_centre
    from benchmarks.plain_net import PlainStep, made_up_batch, plain_net
    from dataset.synthetic import FaceSetOptions, write_set
    from training.loop import TrainingLoop
    from training.preflight import input_speed

    size = tuple(args.image_size)
    taken = []

    def loop(trainer, batches, *others):
        taken.append(Turns(batches, reference, args.steps, args.rounds))
        return TrainingLoop(trainer, taken[0], *others)

    with tempfile.TemporaryDirectory() as folder:
        write_set(FaceSetOptions(out=Path(folder, "faces"), **_FACES))
        plain = PlainStep(plain_net(args.net_depth, size), _FACES["identities"])
        batch = made_up_batch(args.batch_size, size, _FACES["identities"])
        plain(*batch)

        def reference():
            for _ in range(args.steps):
                plain(*batch)

        with mock.patch("training.session.TrainingLoop", loop), contextlib.suppress(_StopLoop):
            train_centre.main(_flags(Path(folder), args))
        if not taken or len(taken[0].ours) < args.rounds:
            raise RuntimeError("train_centre ended too early. See its log for the reason.")
        return taken[0], input_speed(taken[0].batches.start_at(0), args.batch_size)


def _flags(folder, args):
    # Validation is off, because it would run during the first turn.
    config = folder / "faces" / "config.ini"
    config.write_text(config.read_text().replace("enable = true", "enable = false"))
    values = {
        "config": config,
        "net_depth": args.net_depth,
        "batch_size": args.batch_size,
        "show_info_interval": args.steps,
        "summary_interval": args.steps,
        **{f"{name}_path": folder / name for name in ("summary", "ckpt", "saved_model", "log_file")},
    }
    size = ("--image_size", *map(str, args.image_size))
    return [*size, *(f"--{name}={value}" for name, value in values.items())]


if __name__ == "__main__":
    main()
