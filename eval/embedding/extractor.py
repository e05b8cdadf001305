"""Embeddings of many faces."""

import collections
import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm


class NotFiniteError(ValueError):
    """An embedding holds NaN or infinity: the fault of the model's weights, not of an image file."""


_BATCHES_AHEAD = 2


def embed_images(model, decode, num_images, batch_size=64, *, start=0, flip=False, progress=None):
    """Embeds images in order, batch by batch; the next ones are decoded meanwhile.

    Batches end at multiples of `batch_size`, wherever the first one starts. The last bits of an
    embedding depend on the batch that it is computed in, so whoever stops between two batches, and goes
    on there with the same `batch_size`, gets the very numbers of an unbroken run.

    Row 29 of docs/fidelity.md: the last batch is as long as it is, one image included.

    References:
    - InsightFace, `src/eval/verification.py`: the embedding of an image and of its mirror are
      added (`flip`)

    Args:
        model: `eval.embedding.face_model.FaceModel`.
        decode: function `(start, stop)` to the images of these numbers, uint8
            `(stop - start, height, width, 3)`. Called in a thread, one call at a time, in order.
        num_images: int >= 0.
        batch_size: int > 0. Defaults to `64`.
        start: int, number of the first image to embed. Defaults to `0`.
        flip: bool, add the embedding of each image's mirror, neither normalised. Defaults to `False`.
        progress: str, what a progress bar calls the images, such as `"frames"`; `None` for no bar.

    Yields:
        float32 array `(n, dim)`, `n` at most `batch_size`.

    Raises:
        NotFiniteError: a `ValueError`: embeddings that are not finite; names the image.
        As `decode` and the model do, when the batch's turn has come.
    """
    if batch_size < 1:
        raise ValueError(f"expected batches of at least one image, received {batch_size}")
    bar = tqdm(
        total=num_images,
        initial=start,
        unit=f" {progress}",
        disable=None if progress else True,
        leave=False,
    )
    spans = _spans(start, num_images, batch_size)
    with bar, contextlib.closing(_decoded_ahead(decode, spans)) as batches:
        for faces in batches:
            embeddings = model.embed(faces)
            if flip:
                embeddings = embeddings + model.embed(faces[:, :, ::-1])
            is_finite = np.isfinite(embeddings).all(axis=1)
            if not is_finite.all():
                number = start + int(np.argmin(is_finite))
                raise NotFiniteError(f"image {number}: expected a finite embedding, received NaN or infinity")
            start += len(faces)
            bar.update(len(faces))
            yield embeddings


def embed_pairs(model, pairs, batch_size=64, progress=False, flip=False):
    """Embeds both images of all pairs.

    Args:
        model: `eval.embedding.face_model.FaceModel`.
        pairs: `dataset.pairs.image_pairs.PairSet`.
        batch_size: int > 0. Defaults to `64`.
        progress: bool, show a progress bar. Defaults to `False`.
        flip: bool, see `embed_images`. Defaults to `False`.

    Returns:
        `(first, second)`, float32 arrays `(num_pairs, dim)`.

    Raises:
        ValueError: an image cannot be decoded, or embeddings that are not finite.
    """
    what = "images" if progress else None
    batches = embed_images(model, pairs.batch, 2 * len(pairs), batch_size, flip=flip, progress=what)
    embeddings = np.concatenate(list(batches))
    return embeddings[0::2], embeddings[1::2]


def embed_into(store, model, decode, batch_size=64, *, flip=False, progress=False):
    """Computes the features that a store still lacks.

    May be killed at any moment: the next call goes on. With the same `batch_size` the features are then
    those of an unbroken run, bit for bit; with another one they may differ in the last bits.

    Args:
        store: `eval.embedding.feature_store.FeatureStore` with a row per frame.
        model, decode, batch_size, flip: as `embed_images` takes them.
        progress: bool, show a progress bar. Defaults to `False`.

    Raises:
        ValueError: an image cannot be decoded, or embeddings that are not finite.
        OSError: no space on disk.
    """
    what = "frames" if progress else None
    batches = embed_images(
        model, decode, store.num_rows, batch_size, start=store.num_done, flip=flip, progress=what
    )
    with contextlib.closing(batches):
        for embeddings in batches:
            store.append(embeddings)


def _spans(start, num_images, batch_size):
    while start < num_images:
        stop = min((start // batch_size + 1) * batch_size, num_images)
        yield start, stop
        start = stop


def _decoded_ahead(decode, spans):
    """Yields `decode(start, stop)` of each span, and has a thread work on the next two meanwhile."""
    pending = collections.deque()
    with ThreadPoolExecutor(1, "decode") as thread:
        try:
            for span in spans:
                pending.append(thread.submit(decode, *span))
                if len(pending) > _BATCHES_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
