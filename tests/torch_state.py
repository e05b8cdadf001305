"""Made-up weights of an iresnet under the names of PyTorch's modules. NumPy only, for PyTorch's side."""

import numpy as np

UNITS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3)}
WIDTHS = (64, 128, 256, 512)


def random_state(depth, feature_size=(7, 7), embedding_size=512, widths=WIDTHS, seed=0):
    """A state_dict with statistics far from 0 and 1, which still keeps signals at their size.

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
