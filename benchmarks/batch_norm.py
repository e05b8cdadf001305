"""Compares our batch normalisation, which uses the fused kernel, with Keras's separate operations.

    python -m benchmarks.batch_norm

Times a whole training step in float32 of two nets that differ only in these layers.
"""

import argparse

from benchmarks.comparison import Row, interleaved, medians, report

_NUM_IDENTITIES = 1000


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_norm", description=__doc__.splitlines()[0]
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
        "--rounds", type=int, default=7, metavar="N", help="number of measurements (default: %(default)s)"
    )
    report(rows(parser.parse_args(argv)))


def rows(args):
    """Yields the row of the table for the flags that `main` has parsed."""
    from benchmarks.plain_net import PlainStep, made_up_batch, plain_net

    size = tuple(args.image_size)
    batch = made_up_batch(args.batch_size, size, _NUM_IDENTITIES)
    steps = {
        name: PlainStep(plain_net(args.net_depth, size, keras_norm=name == "unfused"), _NUM_IDENTITIES)
        for name in ("fused", "unfused")
    }
    ways = {name: lambda step=step: step(*batch) for name, step in steps.items()}
    seconds = medians(interleaved(ways, args.rounds, warm_up=2))
    yield Row(
        f"training step, IR-{args.net_depth} {size[0]}x{size[1]}, batch {args.batch_size}, float32: fused "
        f"batch norm",
        "the same net with keras.layers.BatchNormalization",
        "images/s",
        args.batch_size / seconds["fused"],
        args.batch_size / seconds["unfused"],
        seconds["unfused"] / seconds["fused"],
        "at least 1.12",
    )


if __name__ == "__main__":
    main()
