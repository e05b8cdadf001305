"""Computes a teacher's embeddings of all training images, and stores them with the converted sources."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.files import FileLock, file_sha256
from dataset.images import decode_image
from dataset.records.manifest import MANIFEST_NAME
from dataset.records.tfrecord import decode_example
from dataset.sampling.combine import CombinedSources
from eval.embedding.embedder import Embedder, load_embedder
from eval.embedding.extractor import NotFiniteError, embed_into
from eval.embedding.feature_store import FeatureStore
from eval.embedding.input_format import crop_centre

logger = logging.getLogger(__name__)

FOLDER = "teachers"  # in the folder of a converted source
_NUM_TRIED = 32  # number of identities to try a teacher on, with two images each
# Lower shares cause a warning. A MobileFaceNet reached 0.96 to 1 on real faces. With wrongly scaled pixels
# the second share was 0.61 to 0.84.
_LEAST_AGREEMENT = {"a face and its mirror image": 0.95, "two faces of one identity": 0.88}


@keras.saving.register_keras_serializable(package="margin_centre_face")
class NoLoss(keras.layers.Layer):
    """The head of a run that learns only from its teacher: a loss of 0."""

    def call(self, embeddings: tf.Tensor, identities: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"loss": tf.zeros_like(identities, tf.float32)}


def load_teacher(path: Path) -> Embedder:
    """Loads a model of any format as a teacher, which adds the embeddings of a face and of its mirror image.

    Raises: as `eval.embedding.embedder.load_embedder`.
    """
    teacher = load_embedder(path, flip=True)
    height, width = teacher.face_size
    shown = f"{teacher.dim} numbers, faces of {height}x{width}, {teacher.engine}"
    logger.info("teacher: %s, SHA-256 %s: %s", teacher.path, teacher.sha256[:12], shown)
    return teacher


def teacher_targets(teacher: Embedder, sources: CombinedSources) -> list[np.ndarray]:
    """Returns the teacher's embeddings of all images, and computes those that are not on disk yet.

    They are stored in the folder `teachers` of each converted source, under a name made from the digests of
    teacher and source. If the process is killed, the next call continues. If several processes call this at
    once, one computes and the others wait.

    A damaged record gets a meaningless embedding. It is never used, because training replaces the record.

    Returns:
        float32 `(num_images, dim)` for each source, memory-mapped.

    Raises:
        ValueError: the images are too small for the teacher, or an embedding is not finite.
        OSError: the disk is full, a shard cannot be read, or the folder cannot be written.
    """
    if any(have < want for have, want in zip(sources.image_size, teacher.face_size, strict=True)):
        (height, width), (needed_height, needed_width) = sources.image_size, teacher.face_size
        raise ValueError(
            f"--teacher: {teacher.path} takes faces of {needed_height}x{needed_width}, but the images of "
            f"{sources.manifests[0].folder} are {height}x{width}. Give a teacher for smaller faces."
        )
    return [_targets_of_source(teacher, sources, number) for number in range(len(sources.sizes))]


def _targets_of_source(teacher, sources, number):
    manifest = sources.manifests[number]
    root = manifest.folder / FOLDER
    inputs = {
        "teacher": teacher.sha256,
        "records": file_sha256(manifest.folder / MANIFEST_NAME),
        "engine": dataclasses.asdict(teacher.engine),
        "face_size": list(teacher.face_size),
        "flip": teacher.flip,
    }
    root.mkdir(exist_ok=True)
    with FileLock(root / "lock") as lock:
        try:
            lock.acquire()
        except BlockingIOError:
            logger.info("%s: waiting for another process that computes embeddings", lock.path)
            lock.acquire(wait=True)
        with FeatureStore(root, inputs, manifest.num_images) as store:
            if not store.is_complete:
                _fill(store, teacher, sources, number)
            logger.info(
                "teacher: %d embeddings of %s in %s", manifest.num_images, manifest.source, store.folder
            )
            return store.features


def _fill(store, teacher, sources, number):
    faces = _Faces(sources, number, teacher.face_size)
    if not store.num_done:
        for warning in find_doubts(teacher, faces, sources.labels[number]):
            logger.warning("--teacher: %s: %s", teacher.path, warning)
    try:
        embed_into(store, teacher.model, faces.read, teacher.batch_size, flip=teacher.flip, progress="images")
    except NotFiniteError as error:
        raise NotFiniteError(f"--teacher: {teacher.path}: {faces.folder}: {error}") from None
    if faces.bad:
        logger.warning("%s: %d bad record(s) have no embedding", faces.folder, len(faces.bad))


class _Faces:
    """The images of one source, cropped to the teacher's size. `bad` collects damaged records."""

    def __init__(self, sources, number, face_size):
        self.folder = sources.manifests[number].folder
        self.bad = set()
        self._sources = sources
        self._first = sum(sources.sizes[:number])
        self._face_size = face_size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the images at places `start` to `stop` of the source: uint8 `(num, *face_size, 3)`, RGB."""
        return self.at(range(start, stop))

    def at(self, places) -> np.ndarray:
        """Returns the images at these places of the source, in the form of `read`."""
        images = np.zeros((len(places), *self._sources.image_size, 3), np.uint8)
        for image, place in zip(images, places, strict=True):
            record = self._first + int(place)
            try:
                (example,), _ = self._sources.read(np.array([record]))
                decode_image(decode_example(example)[0], image, "RGB")
            except ValueError:
                self._sources.check_shard(record)
                self.bad.add(record)
        return crop_centre(images, self._face_size)


def find_doubts(teacher: Embedder, faces: _Faces, labels: np.ndarray) -> Iterator[str]:
    """Yields warnings if the teacher can hardly tell people apart, perhaps because it expects other pixels.

    It compares two images of up to 32 identities, and their mirror images.

    Args:
        teacher: the teacher to try.
        faces: images of one source.
        labels: identity of each image, int, shape `(num_images,)`.
    """
    if not labels.any():  # The source has no labels. It probably shows as many people as images.
        labels = np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    places = [order[labels[order] == label][:2] for label in np.unique(labels)[:_NUM_TRIED]]
    places = np.concatenate(places)
    images, identities = faces.at(places), labels[places]
    single = dataclasses.replace(teacher, flip=False)
    with contextlib.suppress(NotFiniteError):  # `embed_into` raises it again with the place.
        embeddings, mirrored = (_units(single.embed(given)) for given in (images, images[:, :, ::-1]))
        similarities = embeddings @ embeddings.T
        is_same = identities[:, None] == identities[None, :]
        strangers = similarities[~is_same]
        pairs = (np.sum(embeddings * mirrored, axis=1), similarities[np.triu(is_same, 1)])
        for (name, least), likely in zip(_LEAST_AGREEMENT.items(), pairs, strict=True):
            agreement = np.mean(likely[:, None] > strangers) if len(likely) and len(strangers) else 1.0
            if agreement < least:
                yield (
                    f"{name} are more similar than two people in only {agreement:.0%} of comparisons. Does "
                    "the teacher expect other pixels, or another alignment?"
                )


def _units(embeddings):
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
