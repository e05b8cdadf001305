"""Sees when a net gives all faces nearly the same embedding."""

import numpy as np

# Root mean square cosine of different images over which a net has collapsed. Untrained nets have 0.78 to
# 0.84 (ir32, ir50, iresnet18 on LFW), trained ones 0.3 to 0.4, and 1 is the same line for all images. At
# 0.99 images lie within 8 degrees of one line, less than rounding to bfloat16 and the margin can part.
COLLAPSED = 0.99

# Embeddings that are compared with each other: enough for three digits of a mean.
_MOST_ROWS = 1000
_SHORTEST = 1e-6


class EmbeddingWatch:
    """Looks at the embeddings of every validation.

    The measure is the root mean square of the cosines of all pairs of different images: 1 where
    all embeddings are alike, and also where they are alike but for the sign, which a mean of the
    cosines does not show.
    """

    def __init__(self):
        self._rms_cosines = {}
        self._num_zero = {}
        self._sizes = {}

    def look(self, name, embeddings):
        """Measures the embeddings of one validation set.

        Args:
            name: str, of the set.
            embeddings: float `(num_images, dim)`, finite, not normalised; at least two of them.
        """
        lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        self._sizes[name] = len(embeddings)
        self._num_zero[name] = int(np.count_nonzero(lengths < _SHORTEST))
        rows = np.unique(np.linspace(0, len(embeddings) - 1, min(_MOST_ROWS, len(embeddings))).astype(int))
        directions = embeddings[rows].astype(np.float64) / np.maximum(lengths[rows], _SHORTEST)[:, None]
        cosines = (directions @ directions.T)[np.triu_indices(len(rows), 1)]
        self._rms_cosines[name] = float(np.sqrt(np.square(cosines).mean()))

    def scalars(self, name):
        """For TensorBoard: dict from str to float, empty if `look` has not seen the set."""
        if name not in self._sizes:
            return {}
        return {
            f"validation/{name}_rms_cosine": self._rms_cosines[name],
            f"validation/{name}_zero_embeddings": self._num_zero[name],
        }

    def warnings(self, name):
        """What is wrong with the newest embeddings of a set, in plain words: list of str."""
        found = []
        if self._rms_cosines.get(name, 0.0) > COLLAPSED:
            found.append(
                f"{name}: all embeddings are nearly alike: two different images have a cosine of "
                f"{self._rms_cosines[name]:.4f} (root mean square; an untrained net has about 0.8, a trained "
                "one 0.3). Such a net tells nobody apart. Try a lower learning rate, --warmup_steps or "
                "--clip_norm; for triplets --mining batch_all or a start from a trained net; and look at "
                "first_batch.png: are these faces, and are the labels right?"
            )
        if self._num_zero.get(name):
            found.append(
                f"{name}: {self._num_zero[name]} of {self._sizes[name]} embeddings are zero: they have no "
                "direction, and are scored as unlike everything"
            )
        return found
