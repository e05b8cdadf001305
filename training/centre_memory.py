"""How much memory the centres of many identities take, before anything is made."""

import dataclasses
import math

FLOAT = 4  # bytes; centres are float32 whatever the precision of the net

# Copies of the centres that a step computes with, their gradient among them, at its fullest: measured by
# benchmarks.many_identities on a CPU, with an angular margin and momentum.
STEP_COPIES = 4
# Beside the copies that are left while the logits are at their fullest.
COPIES_BESIDE_LOGITS, LOGIT_COPIES = 3, 5
# Of all centres while a checkpoint of sampled ones is read: two as they are on disk, and one transposed.
RESTORE_COPIES = 3

# Offered to whom memory does not suffice.
RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


@dataclasses.dataclass(frozen=True)
class CentreMemory:
    """Bytes on one device.

    Attributes:
        centres: of all identities.
        velocities: the optimizer's, one of each centre.
        logits: and their gradient.
        copies: what a step computes with besides: gradients of centres, and what they are summed up from.
    """

    centres: int
    velocities: int
    logits: int
    copies: int

    @property
    def total(self):
        return self.centres + self.velocities + self.logits + self.copies

    def __str__(self):
        parts = ((_readable(size), name) for name, size in dataclasses.asdict(self).items())
        return f"{_readable(self.total)} ({', '.join(f'{name} {size}' for size, name in parts)})"


def centre_memory(num_centres, dim, batch_size, sample_rate=1.0, num_shards=1):
    """What a head with centres takes on each device.

    Args:
        num_centres: int > 0, identities times centres of each.
        dim: int > 0, of the embeddings.
        batch_size: int > 0, of one device.
        sample_rate: float in `(0, 1]`, the share of the centres that a step sees.
        num_shards: int > 0, how many devices share the centres; each has logits of the global batch.

    Returns:
        `CentreMemory`; the truth lies within a fifth of it.
    """
    num_centres = math.ceil(num_centres / num_shards)
    batch_size *= num_shards
    all_of_them = FLOAT * num_centres * dim
    num_taken = math.ceil(round(sample_rate * num_centres, 6))
    taken, logits = FLOAT * num_taken * dim, FLOAT * num_taken * batch_size
    fullest = max(STEP_COPIES * taken, COPIES_BESIDE_LOGITS * taken + LOGIT_COPIES * logits)
    if sample_rate < 1:
        fullest = max(fullest, RESTORE_COPIES * all_of_them)
    return CentreMemory(all_of_them, all_of_them, 2 * logits, max(fullest - 2 * logits, 0))


def require_memory(num_centres, dim, batch_size, sample_rate, free, num_shards=1):
    """Refuses centres that do not fit.

    Args:
        num_centres, dim, batch_size, sample_rate, num_shards: see `centre_memory`.
        free: bytes that are free on each device, or `None` where it is not known.

    Returns:
        `CentreMemory`.

    Raises:
        ValueError: they need more; says how much, and what would fit.
    """
    need = centre_memory(num_centres, dim, batch_size, sample_rate, num_shards)
    if free is None or need.total <= free:
        return need
    fitting = [
        rate
        for rate in RATES
        if rate < sample_rate and centre_memory(num_centres, dim, batch_size, rate).total <= free
    ]
    if num_shards > 1:  # a device with all centres would have room for no sample
        advice = "give more devices, a smaller --batch_size or fewer identities"
    elif fitting:
        advice = f"--sample_rate {fitting[0]} would fit"
    else:
        advice = "no --sample_rate would fit; give a smaller --batch_size, fewer identities or more memory"
    raise ValueError(
        f"centres: expected them to fit into the {_readable(free)} that a device has free, "
        f"{num_centres} of them need {need} on each; {advice}"
    )


def _readable(size):
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
