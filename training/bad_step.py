"""The report of a step whose loss or gradient is not finite."""

import tensorflow as tf

from dataset.atomic import atomic_file


def write_bad_step(folder, step, terms, batches):
    """Writes which images a step was made of, so that they can be looked at.

    Batch `k` follows from the data, the seed and `k`: nothing has been kept for this.

    Args:
        folder: Path; made if it is not there.
        step: int > 0, counted as in the log: its batch is `step - 1`.
        terms: dict from str to float, what the step gave.
        batches: `dataset.pipeline.TrainingBatches`.

    Returns:
        Path of the file, `nan_step_{step:08d}.txt`.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / f"nan_step_{step:08d}.txt"
    lines = [f"step {step}, which is batch {step - 1} counted from 0, gave", ""]
    lines += [f"  {name} {value:.6g}" for name, value in terms.items()]
    lines += ["", "It was made of these images, in this order:", ""]
    try:
        for position, place in enumerate(batches.records_of(step - 1)):
            what = (
                "a record that is not found again" if place is None else f"{place}, identity {place.identity}"
            )
            lines.append(f"  {position:4d}  {what}")
    except (ValueError, OSError, tf.errors.OpError) as error:
        lines.append(f"  they cannot be found out: {error}")
    if batches.bad_images:
        lines += ["", "Where one of these was among them, another image of the batch stood in its place:", ""]
        lines += [f"  {reason}" for reason in batches.bad_images.values()]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path
