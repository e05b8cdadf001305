"""Does the input keep up with the device?"""

import itertools
import time

# A device that takes more than this share of what the input can give will wait for it now and then.
_AMPLE = 0.8


def input_speed(batches, step, batch_size, seconds=5.0):
    """Images a second that the input gives while nothing is trained.

    Args:
        batches: object with `start_at(step)`.
        step: int >= 0, of the first batch.
        batch_size: int > 0.
        seconds: float > 0, how long to measure, after the first batch. Defaults to `5`.
    """
    stream = batches.start_at(step)
    next(stream)
    start = time.perf_counter()
    for count in itertools.count(1):
        next(stream)
        passed = time.perf_counter() - start
        if passed >= seconds:
            return count * batch_size / passed


def step_speed(train_step, images, identities, seconds=5.0):
    """Images a second that the device trains on where the input costs nothing. The weights change.

    Args:
        train_step: function of a batch that returns a dict of scalar tensors.
        images, identities: a batch.
        seconds: float > 0, how long to measure, after the first step. Defaults to `5`.
    """

    def step():
        # Fetched, as the device may be steps behind.
        return [float(value) for value in train_step(images, identities).values()]

    step()
    start = time.perf_counter()
    for count in itertools.count(1):
        step()
        passed = time.perf_counter() - start
        if passed >= seconds:
            return count * images.shape[0] / passed


def verdict(of_input, of_steps, share_processor):
    """What the two speeds mean.

    Args:
        of_input, of_steps: float > 0, images a second.
        share_processor: bool, the net computes on the processor that also decodes.

    Returns:
        str, a sentence.
    """
    speeds = f"the input gives {of_input:.0f} images/s, a step takes {of_steps:.0f} images/s: "
    share = of_steps / of_input
    if share_processor:
        return speeds + (
            f"both compute on the same processor, and about {share / (1 + share):.0%} of its time goes into "
            "the input"
        )
    if share > 1:
        return speeds + (
            f"the input starves the device, which will wait {1 - 1 / share:.0%} of the time; try more "
            "processor cores, data on a local disk, or --read sequential if its random reads are slow"
        )
    if share > _AMPLE:
        return speeds + "the input only just keeps up with the device"
    return speeds + f"the input is {1 / share:.1f} times as fast as the device"
