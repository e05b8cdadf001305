"""Batch normalisation on the fused kernel, compared with Keras's own, which is made of single operations.

    python -m benchmarks.batch_norm

A whole training step of the same net, float32: only these layers differ.
"""

import argparse

from benchmarks.comparison import Row, interleaved, medians, report

_NUM_IDENTITIES = 1000


def main(argv=None):
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_norm", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--net_depth", type=int, default=50)
    parser.add_argument("--image_size", type=int, nargs=2, default=(112, 96), metavar=("H", "W"))
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    report(rows(parser.parse_args(argv)))


def rows(args):
    """Yields the row; `args` as parsed by `main`."""
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
