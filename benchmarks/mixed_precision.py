"""Compares our training step in bfloat16 and in float32 with a plain Keras model.

    python -m benchmarks.mixed_precision

The reference computes in float32 with Keras's own layers, including batch normalisation and PReLU, in one
`tf.function`. All have the same loss, decay and momentum, and one batch that stays in memory.
"""

import argparse
from pathlib import Path

from benchmarks.comparison import Row, interleaved, medians, report

# Processors with one of these features compute in bfloat16. Others emulate it.
_FEATURES = ("avx512_bf16", "amx_bf16")
_NUM_IDENTITIES = 1000


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mixed_precision", description=__doc__.splitlines()[0]
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
    parser.add_argument(
        "--rounds", type=int, default=6, metavar="N", help="number of measurements (default: %(default)s)"
    )
    report(rows(parser.parse_args(argv)))


def rows(args):
    """Yields a row for each precision, for the flags that `main` has parsed."""
    from benchmarks.plain_net import PlainStep, made_up_batch, our_step, plain_net

    size = tuple(args.image_size)
    batch = made_up_batch(args.batch_size, size, _NUM_IDENTITIES)
    plain = PlainStep(plain_net(args.net_depth, size, keras_norm=True, keras_prelu=True), _NUM_IDENTITIES)
    steps = {dtype: our_step(f"ir{args.net_depth}", size, _NUM_IDENTITIES, dtype) for dtype in _GOALS}
    ways = {name: lambda step=step: step(*batch) for name, step in {"plain": plain, **steps}.items()}
    seconds = medians(interleaved(ways, args.rounds, warm_up=2))
    for dtype, goal in _GOALS.items():
        yield Row(
            f"training step, IR-{args.net_depth} {size[0]}x{size[1]}, batch {args.batch_size}, {dtype}",
            "float32, Keras's own layers in a tf.function",
            "images/s",
            args.batch_size / seconds[dtype],
            args.batch_size / seconds["plain"],
            seconds["plain"] / seconds[dtype],
            goal,
        )


def _has_bfloat16():
    info = Path("/proc/cpuinfo")
    return info.exists() and any(feature in info.read_text().split() for feature in _FEATURES)


_GOALS = {"mixed_bfloat16": "at least 2.0" if _has_bfloat16() else "", "float32": ""}


if __name__ == "__main__":
    main()
