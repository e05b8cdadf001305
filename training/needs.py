"""How much memory and disk a run needs, before it runs."""

import math
import shutil

import tensorflow as tf

# Arrays of the logits' shape that a loss with centres and its gradient hold at once.
_LOGIT_COPIES = 4


def num_bytes(variables):
    """Bytes of variables' values: int."""
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def memory_needs(backbone, head, optimizer, batch_size):
    """Memory of a training step on one device, by what it is for.

    Activations are the outputs of all layers, which the gradient needs; what the convolutions work in comes
    on top, so the sum is a lower bound, and a library's cache may hold as much again.

    Args:
        backbone: `keras.Model`.
        head: loss layer.
        optimizer: built Keras optimizer.
        batch_size: int > 0, images of one device.

    Returns:
        dict from str to int, bytes.
    """
    trained = [*backbone.trainable_variables, *head.trainable_variables]
    activations = sum(
        math.prod(layer.output.shape[1:]) * tf.as_dtype(layer.compute_dtype).size for layer in backbone.layers
    )
    return {
        "weights": num_bytes([*backbone.variables, *head.variables]),
        "gradients": num_bytes(trained),
        "optimizer": num_bytes(optimizer.variables),
        "batch": 4 * batch_size * math.prod(backbone.input_shape[1:]),
        "activations": batch_size * activations,
        "logits": _LOGIT_COPIES * 4 * batch_size * getattr(head, "num_identities", 0),
    }


def num_exports(first_step, max_steps, interval):
    """SavedModels that a run writes in any case: one per interval, and one at its end.

    Args:
        first_step: int >= 0, steps that are done.
        max_steps: int > `first_step`.
        interval: int > 0.
    """
    due = max_steps // interval - first_step // interval
    return due + (max_steps % interval > 0)


def check_disk(needs):
    """Looks whether files that a run will write have room.

    Args:
        needs: list of `(folder, bytes, what)`: a Path that need not exist yet, an int, a str for the message.

    Returns:
        list of str, one line per file system.

    Raises:
        ValueError: there is not enough room.
    """
    by_device = {}
    for folder, size, what in needs:
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        by_device.setdefault(folder.stat().st_dev, []).append((folder, size, what))
    lines = []
    for parts in by_device.values():
        folder, need, free = (
            parts[0][0],
            sum(size for _, size, _ in parts),
            shutil.disk_usage(parts[0][0]).free,
        )
        what = " and ".join(what for _, _, what in parts)
        if need > free:
            raise ValueError(
                f"{folder}: expected {as_size(need)} free for {what}, received {as_size(free)} free; "
                "--saver_maxkeep and --ckpt_interval say how many SavedModels there will be"
            )
        lines.append(f"disk: {what} need {as_size(need)}, {as_size(free)} free at {folder}")
    return lines


def as_size(size):
    """Bytes in words, such as `1.5 GB`."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
