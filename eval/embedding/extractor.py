"""Embeddings of many images, which are decoded while the model works."""

import collections
import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.progress import Progress
from dataset.pairs.image_pairs import PairSet
from eval.embedding.engines import EmbeddingModel
from eval.embedding.feature_store import FeatureStore

_BATCHES_AHEAD = 2


class NotFiniteError(ValueError):
    """An embedding holds NaN or infinity. The weights of the model are at fault, not the image file."""


def embed_images(
    model: EmbeddingModel,
    decode: Callable[[int, int], np.ndarray],
    num_images: int,
    batch_size: int = 64,
    *,
    start: int = 0,
    flip: bool = False,
    progress: str | None = None,
) -> Generator[np.ndarray]:
    """Embeds images in order, batch by batch, and decodes the next batches meanwhile.

    Batches end at multiples of `batch_size`, wherever the first one starts. The last bits of an embedding
    depend on the batch it is computed in. So if you stop between two batches and continue there with the
    same `batch_size`, you get exactly the numbers of an unbroken run. The last batch is not padded (row 29 of
    docs/fidelity.md).

    Args:
        decode: takes `(start, stop)` to the images of these numbers, uint8
            `(stop - start, height, width, 3)`. A thread calls it, once at a time and in order.
        batch_size: positive.
        start: number of the first image to embed.
        flip: add the embedding of each image's mirror image, neither normalised, as InsightFace does in
            `src/eval/verification.py`.
        progress: what the progress calls the images, such as `"frames"`. Without it none is shown.

    Yields:
        float32 `(n, dim)`, `n` at most `batch_size`.

    Raises:
        NotFiniteError: an embedding is not finite; names the image.
        Exceptions of `decode` and of the model, when it is the turn of their batch.
    """
    bar = Progress(
        desc="embedding", unit=progress or "", total=num_images, initial=start, shown=progress is not None
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


def embed_pairs(
    model: EmbeddingModel, pairs: PairSet, batch_size: int = 64, *, flip: bool = False, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds both images of all pairs; see `embed_images`.

    Returns:
        `(first, second)`, float32 `(num_pairs, dim)`.
    """
    unit = "images" if progress else None
    batches = embed_images(model, pairs.batch, 2 * len(pairs), batch_size, flip=flip, progress=unit)
    embeddings = np.concatenate(list(batches))
    return embeddings[0::2], embeddings[1::2]


def embed_into(
    store: FeatureStore,
    model: EmbeddingModel,
    decode: Callable[[int, int], np.ndarray],
    batch_size: int = 64,
    *,
    flip: bool = False,
    progress: str | None = None,
) -> None:
    """Computes the features that a store lacks; see `embed_images`.

    It may be killed at any moment, and the next call continues. With the same `batch_size` the features are
    those of an unbroken run, bit for bit; with another one the last bits may differ.
    """
    batches = embed_images(
        model, decode, store.num_rows, batch_size, start=store.num_done, flip=flip, progress=progress
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
    """Yields `decode(start, stop)` of each span while a thread decodes the next two."""
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
