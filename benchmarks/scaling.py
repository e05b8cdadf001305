"""What large sets need, computed from measured parts: the tables of docs/scaling.md.

    python -m benchmarks.scaling

Nothing is run. What was measured here or published elsewhere stands below, each with where it comes from.
"""

import argparse
import dataclasses

from training.memory import centre_memory

DIM = 512
GIGA = 1e9

# IR-50, 112x96 (arcface_torch's: 112x112), counted over the layers of nets.resnet_ir and nets.iresnet.
MULTIPLY_ADDS, PARAMETERS = 5.397e9, 41.8e6
THEIR_MULTIPLY_ADDS, THEIR_PARAMETERS = 6.309e9, 43.6e6

# arcface_torch, README.md, speed table: images/s of 8 V100 with 32 GB, IR-50 in float16, 128 images each.
# By identities: data parallel, model parallel, Partial FC 0.1; `None` where memory did not suffice.
PUBLISHED = {
    125_000: (4681, 4824, 5004),
    1_400_000: (1672, 3043, 4738),
    5_500_000: (None, 1389, 3975),
    8_000_000: (None, None, 3565),
    16_000_000: (None, None, 2679),
    29_000_000: (None, None, 1855),
}

# A forward pass counts twice its multiply-adds, and the backward pass twice a forward pass.
_OPERATIONS = 6
# What that net sustains on a V100: the speed with the fewest centres, where the head hardly counts.
NET_SPEED = PUBLISHED[125_000][2] / 8 * _OPERATIONS * THEIR_MULTIPLY_ADDS
# V100: float32 operations/s of a matrix product, bytes/s of memory, both at 0.8 of the data sheet's.
HEAD_SPEED, MEMORY_SPEED = 0.8 * 15.7e12, 0.8 * 900e9
# Readings and writings of all logits, and of all centres (norms, gradient, decay, momentum).
LOGIT_PASSES, CENTRE_PASSES = 10, 12
# Bytes/s of an all-reduce: NVLink between 8 V100, and 100 Gbit/s between machines.
LINK, NETWORK = 130e9, 12.5e9
GPUS_PER_MACHINE, GPU_MEMORY = 8, 32e9
# The outputs of all of its layers, which the backward pass needs, in 16 bits: bytes an image.
ACTIVATIONS = 36.6e6


@dataclasses.dataclass(frozen=True)
class FaceSet:
    """A set of faces: how many images and identities it has."""

    name: str
    num_images: float
    num_identities: int


SETS = (
    FaceSet("MS1M + VGGFace2", 8.9e6, 94_000),
    FaceSet("WebFace42M", 42e6, 2_000_000),
)


@dataclasses.dataclass(frozen=True)
class Head:
    """How the centres are kept: the share of them that a step sees, and whether devices share them out."""

    name: str
    sample_rate: float = 1.0
    is_shared: bool = False


HEADS = (Head("dense"), Head("sampled 0.1", 0.1), Head("sharded", is_shared=True))
# Those of the published table: there samples, too, are shared out.
THEIR_HEADS = (
    Head("data parallel"),
    Head("model parallel", is_shared=True),
    Head("Partial FC 0.1", 0.1, is_shared=True),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of a training step on GPUs, by what they go into."""

    net: float
    head: float
    exchange: float

    @property
    def total(self):
        return self.net + self.head + self.exchange


def step(num_identities, head, num_gpus, batch_size, multiply_adds=MULTIPLY_ADDS, parameters=PARAMETERS):
    """What a step takes.

    Args:
        num_identities: int > 0.
        head: `Head`.
        num_gpus: int > 0.
        batch_size: int > 0, images of one GPU.
        multiply_adds, parameters: of the net.

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
    """Seconds to sum up `num_bytes` of each GPU in a ring; the slowest link counts."""
    if num_gpus == 1:
        return 0.0
    speed = LINK if num_gpus <= GPUS_PER_MACHINE else NETWORK
    return 2 * num_bytes * (num_gpus - 1) / num_gpus / speed


def gpu_memory(num_identities, head, num_gpus, batch_size):
    """Bytes on one GPU: weights, velocities and gradients of the net, activations, and the head."""
    num_shards = num_gpus if head.is_shared else 1
    centres = centre_memory(num_identities, DIM, batch_size, head.sample_rate, num_shards)
    return 3 * 4 * PARAMETERS + batch_size * ACTIVATIONS + centres.total


def main(argv=None):
    """Runs the program."""
    args = parse_arguments(argv)
    print("What a set takes, whatever trains on it:\n")
    print(table(("", *(each.name for each in SETS)), needs(args)))
    print(f"\n{args.epochs} epochs, {args.batch_size} images on each GPU:\n")
    headings = ("set", "GPUs", "head", "GB a GPU", "net, ms", "head, ms", "exchange, ms", "images/s")
    print(table((*headings, "hours", "cores a GPU"), runs(args)))
    print("\nThe same formulas and what was published, images/s of 8 V100:\n")
    headings = [f"{head.name}{what}" for head in THEIR_HEADS for what in (", computed", ", published")]
    print(table(("identities", *headings), checks()))


def parse_arguments(argv=None):
    """The flags: what was measured on a machine, and how it is trained."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--batch_size", type=int, default=128, help="images on each GPU (%(default)s)")
    parser.add_argument("--record_bytes", type=float, default=5780, help="of a converted image (%(default)s)")
    parser.add_argument(
        "--input_rate", type=float, default=9000, help="images/s that a core reads and decodes (%(default)s)"
    )
    parser.add_argument(
        "--convert_rate", type=float, default=30_000, help="images/s that are converted (%(default)s)"
    )
    return parser.parse_args(argv)


def needs(args):
    """Rows of the first table."""

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
    """Rows of the second table: what fits, and what cannot be built with this project says why."""
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
    """Rows of the third table."""
    for num_identities, published in PUBLISHED.items():
        cells = []
        for head, speed in zip(THEIR_HEADS, published, strict=True):
            seconds = step(num_identities, head, 8, 128, THEIR_MULTIPLY_ADDS, THEIR_PARAMETERS)
            computed = f"{8 * 128 / seconds.total:,.0f}" if speed else ""
            cells += [computed, f"{speed:,}" if speed else "out of memory"]
        yield (f"{num_identities:,}", *cells)


def table(headings, rows):
    """A table in Markdown: str."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
