"""Makes random weights under PyTorch's names. It needs only NumPy, so it runs where TensorFlow is missing."""

import numpy as np

UNITS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3)}
WIDTHS = (64, 128, 256, 512)


def random_state(depth, feature_size=(7, 7), embedding_size=512, widths=WIDTHS, seed=0):
    """Makes a state_dict of an iresnet. Its statistics differ from 0 and 1, but signals keep their size.

    Args:
        depth: 18 or 50.
        feature_size: `(height, width)` of the last feature map.
        embedding_size: int > 0.
        widths: number of channels of each stage.
        seed: of the random weights.

    Returns:
        dict from name to float32 array; without `num_batches_tracked`.
    """
    rng = np.random.default_rng(seed)
    state = {}

    def kernel(name, *shape):
        state[f"{name}.weight"] = rng.normal(size=shape) * np.sqrt(0.6 / np.prod(shape[1:]))

    def norm(name, channels):
        state[f"{name}.weight"] = 1 + 0.1 * rng.normal(size=channels)
        state[f"{name}.bias"] = 0.1 * rng.normal(size=channels)
        state[f"{name}.running_mean"] = 0.1 * rng.normal(size=channels)
        state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, channels)

    def prelu(name, channels):
        state[f"{name}.weight"] = rng.uniform(0, 0.5, channels)

    kernel("conv1", widths[0], 3, 3, 3)
    norm("bn1", widths[0])
    prelu("prelu", widths[0])
    before = widths[0]
    for stage, (width, num_units) in enumerate(zip(widths, UNITS[depth], strict=True), start=1):
        for unit in range(num_units):
            scope = f"layer{stage}.{unit}"
            norm(f"{scope}.bn1", before)
            kernel(f"{scope}.conv1", width, before, 3, 3)
            norm(f"{scope}.bn2", width)
            prelu(f"{scope}.prelu", width)
            kernel(f"{scope}.conv2", width, width, 3, 3)
            norm(f"{scope}.bn3", width)
            if unit == 0:
                kernel(f"{scope}.downsample.0", width, before, 1, 1)
                norm(f"{scope}.downsample.1", width)
            before = width
    norm("bn2", before)
    kernel("fc", embedding_size, before * feature_size[0] * feature_size[1])
    state["fc.bias"] = 0.1 * rng.normal(size=embedding_size)
    norm("features", embedding_size)
    return {name: value.astype(np.float32) for name, value in state.items()}


def mobilefacenet_convs(width, blocks, separable=False):
    """Lists the convs of arcface_torch's MobileFaceNet: name, outputs, kernel size, stride, groups, kind.

    The kernel size of the global conv is `None`. The kind is `"start"` for the first conv of a block with a
    shortcut, `"end"` for its last one, `"linear"` for other convs without activation, and `""` for the rest.
    """
    convs = [("layers.0", 64 * width, 3, 2, 1, "")]

    def block(name, inner, outputs, stride=1):
        kinds = ("", "linear") if stride == 2 else ("start", "end")
        convs.append((f"{name}.layers.0", inner, 1, 1, 1, kinds[0]))
        convs.append((f"{name}.layers.1", inner, 3, stride, inner, ""))
        convs.append((f"{name}.layers.2", outputs, 1, 1, 1, kinds[1]))

    if blocks[0] == 1:
        convs.append(("layers.1", 64 * width, 3, 1, 64, ""))
        if separable:
            convs.append(("layers.1.pointwise", 64 * width, 1, 1, 1, ""))
    else:
        for number in range(blocks[0]):
            block(f"layers.1.layers.{number}", 128, 64 * width)
    for stage, (first, inner, outputs) in enumerate(((128, 128, 64), (256, 256, 128), (512, 256, 128)), 1):
        block(f"layers.{2 * stage}", first, outputs * width, 2)
        for number in range(blocks[stage]):
            block(f"layers.{2 * stage + 1}.layers.{number}", inner, outputs * width)
    return [*convs, ("conv_sep", 512, 1, 1, 1, ""), ("features.layers.0", 512, None, 1, 512, "linear")]


def mobilefacenet_state(width, blocks, feature_size=(7, 7), embedding_size=512, seed=0, separable=False):
    """Makes a state_dict of arcface_torch's MobileFaceNet, like `random_state`."""
    rng = np.random.default_rng(seed)
    state = {}

    def norm(name, channels):
        state[f"{name}.weight"] = 1 + 0.1 * rng.normal(size=channels)
        state[f"{name}.bias"] = 0.1 * rng.normal(size=channels)
        state[f"{name}.running_mean"] = 0.1 * rng.normal(size=channels)
        state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, channels)

    before = 3
    for name, outputs, size, _, groups, kind in mobilefacenet_convs(width, blocks, separable):
        kernel = rng.normal(
            size=(outputs, before // groups, *(feature_size if size is None else (size, size)))
        )
        state[f"{name}.layers.0.weight"] = kernel * np.sqrt(0.6 / np.prod(kernel.shape[1:]))
        norm(f"{name}.layers.1", outputs)
        if kind in ("", "start"):
            state[f"{name}.layers.2.weight"] = rng.uniform(0, 0.5, outputs)
        before = outputs
    state["features.layers.2.weight"] = rng.normal(size=(embedding_size, before)) * np.sqrt(0.6 / before)
    norm("features.layers.3", embedding_size)
    return {name: value.astype(np.float32) for name, value in state.items()}


def vit_state(width, depth, num_tokens, embedding_size=512, seed=0):
    """Makes a state_dict of arcface_torch's vision transformer with patches of 9x9, like `random_state`."""
    rng = np.random.default_rng(seed)
    state = {
        "mask_token": rng.normal(size=(1, 1, width)),
        "pos_embed": rng.normal(size=(1, num_tokens, width)),
    }

    def dense(name, inputs, outputs, bias=True):
        state[f"{name}.weight"] = rng.normal(size=(outputs, inputs)) * inputs**-0.5
        if bias:
            state[f"{name}.bias"] = 0.1 * rng.normal(size=outputs)

    def norm(name, channels, statistics=False):
        state[f"{name}.weight"] = 1 + 0.1 * rng.normal(size=channels)
        state[f"{name}.bias"] = 0.1 * rng.normal(size=channels)
        if statistics:
            state[f"{name}.running_mean"] = 0.1 * rng.normal(size=channels)
            state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, channels)

    state["patch_embed.proj.weight"] = rng.normal(size=(width, 3, 9, 9)) * 243**-0.5
    state["patch_embed.proj.bias"] = 0.1 * rng.normal(size=width)
    for number in range(depth):
        name = f"blocks.{number}"
        norm(f"{name}.norm1", width)
        dense(f"{name}.attn.qkv", width, 3 * width, bias=False)
        dense(f"{name}.attn.proj", width, width)
        norm(f"{name}.norm2", width)
        dense(f"{name}.mlp.fc1", width, 4 * width)
        dense(f"{name}.mlp.fc2", 4 * width, width)
    norm("norm", width)
    dense("feature.0", num_tokens * width, width, bias=False)
    norm("feature.1", width, statistics=True)
    dense("feature.2", width, embedding_size, bias=False)
    norm("feature.3", embedding_size, statistics=True)
    return {name: value.astype(np.float32) for name, value in state.items()}
