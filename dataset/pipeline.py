"""Makes training batches from converted sources. Batch `k` is a pure function of (manifests, seed, k)."""

import atexit
import dataclasses
import functools
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, cast

import numpy as np
import tensorflow as tf

from dataset.augment import Augmentation
from dataset.preprocess import RawImages, draw_mirrors, mirror
from dataset.sampling.batch_loader import BatchLoader
from dataset.sampling.by_identity import IdentitySampler
from dataset.sampling.combine import CombinedSources, RecordPlace
from dataset.sampling.shuffled import ShuffledSampler

_NO_AUGMENTATION = Augmentation()
# For sequential reading: number of shards open at once, and of records in the shuffle buffer.
_CYCLE_LENGTH = 16
_SHUFFLE_BUFFER = 16_384
# More would not help: an eighth of the work is Python code, which only one thread can run at a time.
_MOST_THREADS = 8
_BATCHES_AHEAD = 2

Batch = tuple[list, ...]


class _Reading:
    """State of one `tf.data.Dataset` whose threads read ahead of the training."""

    def __init__(self) -> None:
        self.bad: dict[int, list[int]] = {}  # numbers of bad records, by batch
        self.errors: dict[int, Exception] = {}  # by batch
        self.iterator: Iterator | None = None


# Data sets that may still read ahead. They must stop before the interpreter exits: after that, a thread that
# calls Python hangs, and so does everything that waits for it.
_READINGS: weakref.WeakSet[_Reading] = weakref.WeakSet()


@atexit.register
def _stop_reading():
    for reading in list(_READINGS):
        reading.iterator = None


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
    """Options of `TrainingBatches`: how it reads and changes images.

    Args:
        mirror: mirror each image with a probability of 0.5. Defaults to `True`.
        seed: seed of mirroring and augmentation, at least 0. Defaults to `0`.
        read: `"random"` or `"sequential"`, see `TrainingBatches`. Sequential reading requires a
            `ShuffledSampler`. Defaults to `"random"`.
        rgb_sources: numbers of the sources whose images the network gets as RGB, see row 25 of
            docs/fidelity.md. Defaults to none.
        max_bad_images: largest number of different images that may be bad, at least 0. Defaults to `0`.
        augmentation: changes to the images. Defaults to none.
        rows: int `(num_rows,)`, positions in every batch of the images to return, in increasing order. The
            other images are read only if one of these is bad. A worker sets it to its share of the batches.
            Defaults to all.
        targets: float32 `(num_images, dim)` for each source, with one row per image, which does not depend
            on changes to the image. Batches then contain the rows too. Requires random reading. Defaults to
            none.
        parts: number of parts into which `rows` is divided. A step computes them one after the other.
            Defaults to `1`.
        devices: names of the devices that share each part, in order. Batches are copied there two steps
            ahead. Defaults to a single share, which is not copied.
    """

    mirror: bool = True
    seed: int = 0
    read: Literal["random", "sequential"] = "random"
    rgb_sources: tuple[int, ...] = ()
    max_bad_images: int = 0
    augmentation: Augmentation = _NO_AUGMENTATION
    rows: np.ndarray | None = None
    targets: Sequence[np.ndarray] | None = None
    parts: int = 1
    devices: tuple[str, ...] = ()


def require_size(sources: CombinedSources, image_size: Sequence[int]) -> None:
    """Raises `ValueError` if the images are too small to crop them to `image_size`, `(height, width)`."""
    if any(have < want for have, want in zip(sources.image_size, image_size, strict=True)):
        raise ValueError(
            "{}: images are {}x{}, too small for an image size of {}x{}".format(
                sources.manifests[0].folder, *sources.image_size, *image_size
            )
        )


class TrainingBatches:
    """Endless batches of training images, split into shares for devices. You can start at any batch.

    With `read="random"`, it reads the records of the sampler one by one, so the whole set is shuffled. With
    `read="sequential"`, it streams shards through a shuffle buffer, for disks with slow random reads. The
    sampler then determines only the shares and order of the sources, and a resumed run reads the used part
    of the epoch again, but does not decode it.

    A record that is damaged, or whose image cannot be decoded, is replaced by another record of its batch,
    see `BatchLoader` (row 27 of docs/fidelity.md). Sequential reading replaces only images that cannot be
    decoded, because TensorFlow cannot read past a damaged record.

    References:
    - margin-centre-face, `dataset/combine.py`, and `dataset/utils.py::process_image`

    Args:
        sources: the records.
        sampler: draws the records of a batch.
        image_size: `(height, width)` of the network's input.
        options: defaults to `PipelineOptions()`.

    Attributes:
        bad_images: dict from the number of every bad record in the batches so far to a message that names the
            record and the reason.

    Raises:
        ValueError: the images are smaller than `image_size`, or targets require random reading.
    """

    def __init__(
        self,
        sources: CombinedSources,
        sampler: ShuffledSampler | IdentitySampler,
        image_size: tuple[int, int],
        options: PipelineOptions | None = None,
    ) -> None:
        options = options or PipelineOptions()
        require_size(sources, image_size)
        if options.targets is not None and options.read != "random":
            raise ValueError(f"--read is {options.read}. A teacher needs --read random.")
        self.sources = sources
        self.sampler = sampler
        self.image_size = (image_size[0], image_size[1])
        self.options = options
        self.rows = np.arange(sampler.batch_size) if options.rows is None else np.asarray(options.rows)
        self.bad_images: dict[int, str] = {}
        self._num_shares = options.parts * max(1, len(options.devices))
        self._is_augmented = options.augmentation != _NO_AUGMENTATION
        # Images are augmented in RGB.
        rgb_sources = range(len(sources.sizes)) if self._is_augmented else options.rgb_sources
        self._loader = BatchLoader(sources, self.rows, rgb_sources)
        self._reading = _Reading()
        self._drawing = threading.Lock()

    def start_at(self, step: int) -> Iterator[Batch]:
        """Yields the batches from batch `step` on.

        Yields:
            `(images, identities)`, or with targets `(images, identities, targets)`. Each is a list with the
            devices' shares of the first part, then those of the second part, and so on. A share of images is
            `RawImages`, in BGR except for `rgb_sources`. A share of identities is int64 `(share,)`, and one
            of targets is float32 `(share, dim)`.

        Raises:
            ValueError: more than `max_bad_images` images are bad, or all images of a batch, or a whole shard.
            OSError: a shard cannot be read. Sequential reading raises `ValueError` instead.
        """
        dataset = self.dataset(step)
        reading = self._reading
        try:
            reading.iterator = iter(dataset)
            read = functools.partial(self._next, reading)
            for batch in _read_ahead(read, _BATCHES_AHEAD) if self.options.devices else iter(read, None):
                self._count_bad(reading, step)
                yield batch
                step += 1
        except tf.errors.OpError as error:
            # tf.data replaces the loader's error with an error of its own.
            if step in reading.errors:
                raise reading.errors[step] from None
            folders = ", ".join(str(manifest.folder) for manifest in self.sources.manifests)
            raise ValueError(f"{folders}: a batch cannot be read: {error.message}") from None

    def _next(self, reading):
        """Returns the next batch with each share on its device, or `None` if the program is ending."""
        # Keep no other reference to the iterator, see `_stop_reading`.
        if reading.iterator is None:
            return None
        return tuple(
            list(map(_copy, shares, itertools.cycle(self.options.devices or (None,))))
            for shares in next(reading.iterator)
        )

    def records_of(self, step: int) -> list[RecordPlace | None]:
        """Returns the place of each record of a batch, for reports, or `None` for a record that is not found.

        Bad records are not replaced. With sequential reading, this reads the shards, and can raise
        `ValueError` or `OSError`.
        """
        if self.options.read == "random":
            records = self._draw(step).tolist()
        else:
            _, examples, sources = next(iter(self._sequential(step)))
            places = zip(examples.numpy(), sources.numpy().tolist(), strict=True)
            records = [self.sources.find(example, source) for example, source in places]
        return [None if record is None else self.sources.place_of(record) for record in records]

    def _count_bad(self, reading, step):
        for record in reading.bad.pop(step, ()):
            self.bad_images.setdefault(record, self._loader.reasons[record])
        if len(self.bad_images) > self.options.max_bad_images:
            raise ValueError(
                f"{list(self.bad_images.values())[-1]}; "
                f"expected at most {self.options.max_bad_images} bad images "
                f"(--max_bad_images), received {len(self.bad_images)}"
            )

    def dataset(self, step: int) -> tf.data.Dataset:
        """Returns the data set behind `start_at`."""
        # Each data set has its own state, because an abandoned data set may still read ahead.
        self._reading = reading = _Reading()
        _READINGS.add(reading)
        is_random = self.options.read == "random"
        batches = tf.data.Dataset.range(step, np.iinfo(np.int64).max) if is_random else self._sequential(step)
        # Each thread makes a whole batch. Decoding does not block the other threads.
        batches = batches.map(
            lambda k, *examples: self._batch(reading, k, *examples),
            num_parallel_calls=min(os.cpu_count() or 1, _MOST_THREADS),
            deterministic=True,
        )
        # There is nothing to tune, and closing a data set could wait a minute for the tuning thread.
        options = tf.data.Options()
        options.autotune.enabled = False
        return batches.prefetch(_BATCHES_AHEAD).with_options(options)

    def _sequential(self, step):
        sampler = cast(ShuffledSampler, self.sampler)
        size = sampler.batch_size
        first = step * size
        streams = [
            self._stream(sampler, pool, used)
            for pool, used in zip(sampler.pools, sampler.used_before(first), strict=True)
        ]
        samples = streams[0]
        if len(streams) > 1:
            samples = tf.data.Dataset.choose_from_datasets(streams, self._choices(sampler, first))
        examples = samples.batch(size, drop_remainder=True)
        return examples.enumerate(step).map(lambda k, pair: (k, *pair))

    def _stream(self, sampler, pool, position):
        """Streams the records of the sources in a pool, epoch after epoch, starting at a position."""
        seed = self.options.seed
        shards = [(path, source) for source in pool for path in self.sources.shards_of(source)]
        paths, sources = zip(*shards, strict=True)
        num_records = sum(self.sources.sizes[source] for source in pool)

        def records(path, source):
            return tf.data.TFRecordDataset(path).map(lambda example: (example, source))

        def epoch(number):
            if not sampler.reshuffle:
                number = tf.zeros_like(number)
            order = tf.random.experimental.stateless_shuffle(
                tf.range(len(paths)), seed=tf.stack([tf.constant(seed, tf.int64), number])
            )
            shards = tf.data.Dataset.from_tensor_slices(
                (tf.gather(tf.constant(paths), order), tf.gather(tf.constant(sources, tf.int64), order))
            )
            # Shuffle shards first, then records, so that the records of a batch come from many shards.
            mixed = shards.interleave(records, cycle_length=_CYCLE_LENGTH)
            return mixed.shuffle(_SHUFFLE_BUFFER, seed=seed + number, reshuffle_each_iteration=False)

        first_epoch, used = divmod(int(position), num_records)
        return tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(epoch).skip(used)

    def _choices(self, sampler, first):
        size = sampler.batch_size

        def pools(start):
            with self._drawing:
                return sampler.positions(np.arange(start, start + size))[0]

        def choices(start):
            return tf.ensure_shape(tf.numpy_function(pools, [start], tf.int64, stateful=False), (size,))

        return tf.data.Dataset.range(first, np.iinfo(np.int64).max, size).map(choices).unbatch()

    def _batch(self, reading, k, *examples):
        size, options = self.sampler.batch_size, self.options
        seed = tf.stack([tf.constant(options.seed, tf.int64), k])

        def load(k, *examples):
            try:
                if examples:
                    *loaded, records, bad = self._loader.load_examples(*examples)
                else:
                    *loaded, records, bad = self._loader.load(self._draw(int(k)))
            except (OSError, ValueError) as error:
                reading.errors[int(k)] = error
                raise
            if bad:
                reading.bad[int(k)] = bad
            return loaded if targets is None else [*loaded, self.sources.rows_of(targets, records)]

        targets = options.targets
        types = (tf.uint8, tf.int64, tf.int64, *(() if targets is None else (tf.float32,)))
        # With deterministic operations, TensorFlow would call a stateful function in only one thread.
        images, identities, sources, *rows = tf.numpy_function(load, [k, *examples], types, stateful=False)
        images = tf.ensure_shape(images, (len(self.rows), *self.sources.image_size, 3))
        labels = [tf.ensure_shape(identities, self.rows.shape)]
        if targets is not None:
            labels.append(tf.ensure_shape(rows[0], (len(self.rows), targets[0].shape[1])))
        is_mirrored = draw_mirrors(size, seed) if options.mirror else tf.zeros(size, tf.bool)
        is_mirrored = tf.gather(is_mirrored, self.rows)
        if self._is_augmented:
            # Augment whole images, because a shift moves pixels from the margin into the crop.
            images = options.augmentation(mirror(images, is_mirrored), seed, self.rows, size)
            is_mirrored = tf.zeros_like(is_mirrored)
            sources = tf.ensure_shape(sources, self.rows.shape)
            is_rgb = tf.reduce_any(sources[:, None] == tf.constant(options.rgb_sources, tf.int64), axis=1)
            images = tf.where(is_rgb[:, None, None, None], images, images[..., ::-1])
        values = (images, is_mirrored, *labels)
        # The split copies nothing if the size of an image is a multiple of 64 bytes, as with 112x112.
        images, is_mirrored, *labels = (tuple(tf.split(value, self._num_shares)) for value in values)
        return tuple(map(RawImages, images, is_mirrored)), *labels

    def _draw(self, k):
        with self._drawing:  # Several threads make batches, but a sampler has state.
            return self.sampler.batch(k)


def _copy(share, device):
    if device is None:
        return share
    with tf.device(device):
        return tf.nest.map_structure(tf.identity, share)


def _read_ahead(read: Callable[[], Batch | None], num: int) -> Iterator[Batch]:
    """Yields the results of `read` until one is `None`. A thread calls `read` for `num` batches ahead."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
    pending: deque[Future[Batch | None]] = deque(thread.submit(read) for _ in range(num))
    try:
        while True:
            pending.append(thread.submit(read))
            batch = pending.popleft().result()
            if batch is None:
                return
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)
