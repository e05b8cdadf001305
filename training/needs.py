"""How much memory and disk a run needs, before it runs."""

import math
import shutil

import tensorflow as tf

# Layers whose gradient needs neither what comes in nor what goes out; `Flatten` is a view.
_KEEP_NOTHING = ("Add", "Flatten", "InputLayer", "ZeroPadding2D")
# Those that need what comes in; and a byte for each value, of whether it was kept.
_KEEP_INPUTS = ("BatchNorm", "Conv2D", "Dense", "PReLU")
_KEEP_MASK = "Dropout"
# Arrays of the logits' shape: products with the centres, probabilities, and their gradient.
_LOGIT_COPIES = 3


def num_bytes(variables):
    """Bytes of variables' values: int."""
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def activation_bytes(backbone):
    """What one image leaves behind on the way forward, because the gradient needs it.

    Every tensor counts once, whoever needs it: the inputs of convolutions, dense layers, norms and PReLUs,
    a byte for each value of a dropout, and both sides of all other layers but those that need
    nothing (sums, padding).

    Args:
        backbone: `keras.Model` of layers in a graph.

    Returns:
        int, bytes; the image is not among them.
    """
    kept, images = {}, {id(tensor) for tensor in backbone.inputs}
    for layer in backbone.layers:
        kind = type(layer).__name__
        inputs, outputs = (_as_list(tensors) for tensors in (layer.input, layer.output))
        if kind == _KEEP_MASK:
            kept[layer.name] = math.prod(outputs[0].shape[1:])
        if kind in (*_KEEP_NOTHING, _KEEP_MASK):
            continue
        for tensor in inputs if kind in _KEEP_INPUTS else [*inputs, *outputs]:
            kept[id(tensor)] = math.prod(tensor.shape[1:]) * tf.as_dtype(layer.compute_dtype).size
    return sum(size for key, size in kept.items() if key not in images)


def memory_needs(backbone, head, optimizer, batch_size, num_replicas=1):
    """Memory of a training step on one device, by what it is for.

    Activations, see `activation_bytes`, are all there when the gradient begins. What convolutions and the
    head work in comes on top, and what an allocator leaves unused between arrays, so the sum is a lower
    bound; docs/many_identities.md says by how much.

    Args:
        backbone: `keras.Model`.
        head: loss layer.
        optimizer: built Keras optimizer.
        batch_size: int > 0, images of one device.
        num_replicas: int > 0, devices, of which each holds a part of a head that is `sharded`.

    Returns:
        dict from str to int, bytes.
    """
    weights = num_bytes([*backbone.variables, *head.variables])
    gradients = num_bytes([*backbone.trainable_variables, *head.trainable_variables])
    optimizer_bytes = num_bytes(optimizer.variables)
    logits = 0
    if hasattr(head, "num_centres"):
        share = 1 / num_replicas if head.sharded else head.sample_rate
        batch_of_logits = batch_size * (num_replicas if head.sharded else 1)
        num_taken = math.ceil(round(share * head.num_centres, 6))
        logits = _LOGIT_COPIES * 4 * batch_of_logits * num_taken
        taken = 4 * num_taken * head.centres_shape[0]
        if head.sharded:  # what stands for them in the lists of variables is a scalar
            weights, gradients, optimizer_bytes = (
                size + taken for size in (weights, gradients, optimizer_bytes)
            )
        else:
            gradients += taken - num_bytes([head.centres])
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer_bytes,
        "batch": 4 * batch_size * math.prod(backbone.input_shape[1:]),
        "activations": batch_size * activation_bytes(backbone),
        "logits": logits,
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


def _as_list(tensors):
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
