"""Computes the tables of docs/scaling.md: the time and memory that large sets need.

    python -m benchmarks.scaling

This program measures nothing. It computes from the constants below, which were measured in this project or
published elsewhere. Each names its source.
"""

import argparse
import dataclasses

from training.memory import centre_memory

DIM = 512
GIGA = 1e9

# Counted from the layers of nets.resnet_ir (IR-50, 112x96) and nets.iresnet (arcface_torch's r50, 112x112).
MULTIPLY_ADDS, PARAMETERS = 5.397e9, 41.8e6
THEIR_MULTIPLY_ADDS, THEIR_PARAMETERS = 6.309e9, 43.6e6

# Source: arcface_torch, README.md, speed table. Images/s of 8 V100 with 32 GB, IR-50 in float16, 128 images
# on each GPU. Number of identities -> data parallel, model parallel, Partial FC 0.1; `None`: out of memory.
PUBLISHED = {
    125_000: (4681, 4824, 5004),
    1_400_000: (1672, 3043, 4738),
    5_500_000: (None, 1389, 3975),
    8_000_000: (None, None, 3565),
    16_000_000: (None, None, 2679),
    29_000_000: (None, None, 1855),
}

# Operations for each multiply-add of the net: 2 in the forward pass, and twice as many in the backward pass.
_OPERATIONS = 6
# Operations/s of the net on a V100, from the setting with the fewest centres, where the head is negligible.
NET_SPEED = PUBLISHED[125_000][2] / 8 * _OPERATIONS * THEIR_MULTIPLY_ADDS
# V100: operations/s of a float32 matrix product, and bytes/s of memory, both 0.8 times the data sheet's.
HEAD_SPEED, MEMORY_SPEED = 0.8 * 15.7e12, 0.8 * 900e9
# How often a step reads or writes all logits, and all centres (norms, gradient, decay, momentum).
LOGIT_PASSES, CENTRE_PASSES = 10, 12
# Bytes/s of an all-reduce: over NVLink between 8 V100, and over 100 Gbit/s between machines.
LINK, NETWORK = 130e9, 12.5e9
GPUS_PER_MACHINE, GPU_MEMORY = 8, 32e9
# Bytes for each image: the outputs of all layers of the net in 16 bits, which the backward pass needs.
ACTIVATIONS = 36.6e6


@dataclasses.dataclass(frozen=True)
class FaceSet:
    """A set of faces, with its numbers of images and identities."""

    name: str
    num_images: float
    num_identities: int


SETS = (
    FaceSet("MS1M + VGGFace2", 8.9e6, 94_000),
    FaceSet("WebFace42M", 42e6, 2_000_000),
)


@dataclasses.dataclass(frozen=True)
class Head:
    """The way in which the centres are trained.

    Attributes:
        name: as in the tables.
        sample_rate: share of the centres that a step uses, in (0, 1].
        is_shared: whether each device holds only a part of the centres.
    """

    name: str
    sample_rate: float = 1.0
    is_shared: bool = False


HEADS = (Head("dense"), Head("sampled 0.1", 0.1), Head("sharded", is_shared=True))
# The heads of the published table. Its sampled centres are also spread over the devices.
THEIR_HEADS = (
    Head("data parallel"),
    Head("model parallel", is_shared=True),
    Head("Partial FC 0.1", 0.1, is_shared=True),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of a training step on GPUs: for the net, the head, and the exchange of gradients."""

    net: float
    head: float
    exchange: float

    @property
    def total(self):
        return self.net + self.head + self.exchange


def step(num_identities, head, num_gpus, batch_size, multiply_adds=MULTIPLY_ADDS, parameters=PARAMETERS):
    """Computes the time of a training step.

    Args:
        num_identities: int > 0.
        head: `Head`.
        num_gpus: int > 0.
        batch_size: int > 0, images on each GPU.
        multiply_adds: float, of the net for one image.
        parameters: float, number of parameters of the net.

    Returns:
        `Step`.
    """
    seen = head.sample_rate * num_identities / (num_gpus if head.is_shared else 1)
    rows = batch_size * (num_gpus if head.is_shared else 1)
    products = _OPERATIONS * rows * DIM * seen / HEAD_SPEED
    passes = 4 * seen * (LOGIT_PASSES * rows + CENTRE_PASSES * DIM) / MEMORY_SPEED
    exchanged = 4 * (parameters + (0 if head.is_shared else DIM * seen))
    return Step(
        net=batch_size * _OPERATIONS * multiply_adds / NET_SPEED,
        head=products + passes,
        exchange=all_reduce(exchanged, num_gpus),
    )


def all_reduce(num_bytes, num_gpus):
    """Computes the seconds to sum `num_bytes` of each GPU in a ring, which is as fast as its slowest link."""
    if num_gpus == 1:
        return 0.0
    speed = LINK if num_gpus <= GPUS_PER_MACHINE else NETWORK
    return 2 * num_bytes * (num_gpus - 1) / num_gpus / speed


def gpu_memory(num_identities, head, num_gpus, batch_size):
    """Computes the bytes on one GPU: weights, velocities, gradients, activations of the net, and the head."""
    num_shards = num_gpus if head.is_shared else 1
    centres = centre_memory(num_identities, DIM, batch_size, head.sample_rate, num_shards)
    return 3 * 4 * PARAMETERS + batch_size * ACTIVATIONS + centres.total


def main(argv=None):
    """Runs the program."""
    args = parse_arguments(argv)
    print("Needs of a set, on any hardware:\n")
    print(table(("", *(each.name for each in SETS)), needs(args)))
    print(f"\n{args.epochs} epochs, {args.batch_size} images on each GPU:\n")
    headings = ("set", "GPUs", "head", "GB a GPU", "net, ms", "head, ms", "exchange, ms", "images/s")
    print(table((*headings, "hours", "cores a GPU"), runs(args)))
    print("\nComputed and published speed, images/s on 8 V100:\n")
    headings = [f"{head.name}{what}" for head in THEIR_HEADS for what in (", computed", ", published")]
    print(table(("identities", *headings), checks()))


def parse_arguments(argv=None):
    """Parses the flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="epochs to train (default: %(default)s)")
    parser.add_argument(
        "--batch_size", type=int, default=128, help="images on each GPU (default: %(default)s)"
    )
    parser.add_argument(
        "--record_bytes", type=float, default=5780, help="bytes of a converted image (default: %(default)s)"
    )
    parser.add_argument(
        "--input_rate",
        type=float,
        default=9000,
        help="images/s that one core reads and decodes (default: %(default)s)",
    )
    parser.add_argument(
        "--convert_rate", type=float, default=30_000, help="images/s of a conversion (default: %(default)s)"
    )
    return parser.parse_args(argv)


def needs(args):
    """Returns the rows of the first table, about the sets."""

    def row(what, function):
        return (what, *(function(each) for each in SETS))

    def checkpoint(each):
        return 4 * (2 * PARAMETERS + 2 * DIM * each.num_identities)

    return [
        row("images, millions", lambda each: f"{each.num_images / 1e6:g}"),
        row("identities", lambda each: f"{each.num_identities:,}"),
        row("records on disk, GB", lambda each: f"{each.num_images * args.record_bytes / GIGA:.0f}"),
        row("index on disk, mapped, GB", lambda each: f"{16 * each.num_images / GIGA:.2f}"),
        row(
            "memory of a worker for the orders of two epochs, GB",
            lambda each: f"{8 * each.num_images / GIGA:.2f}",
        ),
        row("conversion, hours", lambda each: f"{each.num_images / args.convert_rate / 3600:.1f}"),
        row("a checkpoint, GB", lambda each: f"{checkpoint(each) / GIGA:.1f}"),
    ]


def runs(args):
    """Yields the rows of the second table, about training. Impossible settings state the reason."""
    for each in SETS:
        for num_gpus in (1, 8, 64):
            for head in HEADS:
                yield (each.name, str(num_gpus), head.name, *_run(each, num_gpus, head, args))


def _run(each, num_gpus, head, args):
    if head.is_shared and num_gpus == 1:
        return ("as dense", *[""] * 6)
    if head.is_shared and num_gpus > GPUS_PER_MACHINE:
        return ("one machine only", *[""] * 6)
    memory = gpu_memory(each.num_identities, head, num_gpus, args.batch_size)
    shown = f"{memory / GIGA:.1f}"
    if memory > GPU_MEMORY:
        return (f"{shown}: too much", *[""] * 6)
    seconds = step(each.num_identities, head, num_gpus, args.batch_size)
    speed = num_gpus * args.batch_size / seconds.total
    return (
        shown,
        *(f"{1000 * part:.0f}" for part in (seconds.net, seconds.head, seconds.exchange)),
        f"{speed:,.0f}",
        f"{args.epochs * each.num_images / speed / 3600:,.1f}",
        f"{speed / num_gpus / args.input_rate:.2f}",
    )


def checks():
    """Yields the rows of the third table, which compares computed with published speeds."""
    for num_identities, published in PUBLISHED.items():
        cells = []
        for head, speed in zip(THEIR_HEADS, published, strict=True):
            seconds = step(num_identities, head, 8, 128, THEIR_MULTIPLY_ADDS, THEIR_PARAMETERS)
            computed = f"{8 * 128 / seconds.total:,.0f}" if speed else ""
            cells += [computed, f"{speed:,}" if speed else "out of memory"]
        yield (f"{num_identities:,}", *cells)


def table(headings, rows):
    """Formats a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
