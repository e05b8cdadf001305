"""Embeddings of many faces."""

import numpy as np
from tqdm import tqdm


def embed_pairs(model, pairs, batch_size=64, progress=False):
    """Embeds both images of all pairs.

    Row 29 of docs/fidelity.md: the last batch is as long as it is, one image included.

    Args:
        model: `eval.face_model.FaceModel`.
        pairs: `dataset.pairs.PairSet`.
        batch_size: int > 0. Defaults to `64`.
        progress: bool, show a progress bar.

    Returns:
        `(first, second)`, float32 arrays `(num_pairs, dim)`.

    Raises:
        ValueError: an image cannot be decoded, or embeddings that are not finite.
    """
    num_images = 2 * len(pairs)
    batches = []
    with tqdm(total=num_images, unit=" images", disable=None if progress else True, leave=False) as bar:
        for start in range(0, num_images, batch_size):
            faces = pairs.batch(start, start + batch_size)
            batches.append(model.embed(faces))
            bar.update(len(faces))
    embeddings = np.concatenate(batches)
    if not np.isfinite(embeddings).all():
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise ValueError(f"image {bad}: expected a finite embedding, received NaN or infinity")
    return embeddings[0::2], embeddings[1::2]
