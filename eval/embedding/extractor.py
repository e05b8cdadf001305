"""Embeds many images, and decodes the next ones while the model runs."""

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
    """An embedding contains NaN or infinity. The cause is the weights of the model, not the image file."""


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
    """Embeds images in order, batch by batch. Meanwhile, a thread decodes the next batches.

    Batches end at multiples of `batch_size`, wherever the first one starts. The last bits of an embedding
    depend on the batch that it is computed in. So if you stop between two batches and continue there with the
    same `batch_size`, you get exactly the numbers of an uninterrupted run. The last batch is not padded (row
    29 of docs/fidelity.md).

    Args:
        model: the net.
        decode: `decode(start, stop)` returns the images `start` to `stop - 1`, uint8
            `(stop - start, height, width, 3)`, RGB. One thread makes all calls, in order.
        num_images: number of images in the set.
        batch_size: images per batch, at least 1.
        start: number of the first image to embed.
        flip: add the embedding of each image's mirror image. Neither is normalised first, as in InsightFace,
            `src/eval/verification.py`.
        progress: the unit that the progress bar shows, such as `"frames"`. `None` hides the bar.

    Yields:
        float32 `(n, dim)`, `n` at most `batch_size`.

    Raises:
        NotFiniteError: an embedding is not finite. The message names the image.
        Any exception of `decode` or of the model, in the order of the batches.
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
    """Computes the missing features of a store; see `embed_images`.

    If the process is killed, the next call resumes. With the same `batch_size`, the features are bit for bit
    those of an uninterrupted run. With another one, the last bits may differ.
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
