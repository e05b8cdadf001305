"""Converted sources -> batches of network input. Batch `k` follows from (manifests, seed, k)."""

import atexit
import os
import threading
import weakref

import numpy as np
import tensorflow as tf

from dataset.augment import Augmentation
from dataset.preprocess import crop_centre, draw_mirrors, mirror, normalise, preprocess
from dataset.sampling.batch_loader import BatchLoader

READ_MODES = ("random", "sequential")
# Shards open at once and records held back, for reading in sequence.
_CYCLE_LENGTH = 16
_SHUFFLE_BUFFER = 16_384
# An eighth of an image's time is Python's, which one thread at a time may run.
_MOST_THREADS = 8
_BATCHES_AHEAD = 2


# Compiled, it goes over the pixels once instead of five times.
@tf.function(jit_compile=True)
def _to_input(images, is_mirrored, image_size):
    return normalise(crop_centre(mirror(images, is_mirrored), image_size))


class _Reading:
    """What the threads of one `tf.data.Dataset` met on their way ahead of the training."""

    def __init__(self):
        self.bad = {}  # records of batches that have any, by batch
        self.errors = {}  # by batch
        self.iterator = None


# Of data sets that may still read ahead. When the interpreter goes down, a thread that wants to run Python
# never comes back, and whoever waits for it does not either; so they end before.
_READINGS = weakref.WeakSet()


@atexit.register
def _stop_reading():
    for reading in list(_READINGS):
        reading.iterator = None


class TrainingBatches:
    """Endless batches of training images, from any batch on.

    With `read="random"` the sampler's records are fetched one by one by their offset: the shuffle is
    over the whole set. With `read="sequential"` shards are streamed through a shuffle buffer, for
    disks where random reads are slow; sources keep the sampler's shares and order, and resuming
    re-reads, without decoding, what the epoch has used so far.

    A record that is damaged, or whose image cannot be decoded, is replaced by another one of its
    batch, see `dataset.sampling.batch_loader.BatchLoader` (row 27 of docs/fidelity.md). In sequence
    only the undecodable ones are: past a damaged record TensorFlow cannot read.

    References:
    - margin-centre-face, `dataset/sampling/combine.py`, and `dataset/utils.py::process_image`

    Args:
        sources: `dataset.sampling.combine.CombinedSources`.
        sampler: object with `batch_size` and `batch(k)`, such as
            `dataset.sampling.by_identity.IdentitySampler`; for `"sequential"` a
            `dataset.sampling.shuffled.ShuffledSampler`.
        image_size: `(height, width)` of the network's input.
        mirror: bool, mirror images at random. Defaults to `True`.
        seed: int >= 0, for mirror and augmentation. Defaults to `0`.
        read: `"random"` or `"sequential"`. Defaults to `"random"`.
        rgb_sources: sequence of int, sources whose images the network gets as RGB: row 25 of
            docs/fidelity.md. Defaults to none.
        max_bad_images: int >= 0, how many different images may be bad. Defaults to `0`.
        augmentation: `dataset.augment.Augmentation`. Defaults to none.
        rows: int array, which images of every batch are wanted, in increasing order; the others are
            read only where one of these is bad. Defaults to all. For a worker that computes its share
            only: it gets these very rows of the batches that a single process gets.

    Attributes:
        bad_images: dict from the number of every bad record in the batches given so far to a line that
            names it and says why.

    Raises:
        ValueError: an unknown way to read, or one that the sampler cannot serve; images smaller
            than `image_size`; no such source; rows that a batch does not have.
    """

    def __init__(
        self,
        sources,
        sampler,
        image_size,
        mirror=True,
        seed=0,
        read="random",
        rgb_sources=(),
        max_bad_images=0,
        augmentation=None,
        rows=None,
    ):
        if max_bad_images < 0:
            raise ValueError(f"max_bad_images: expected at least 0, received {max_bad_images}")
        if read not in READ_MODES:
            raise ValueError(f"read: expected one of {READ_MODES}, received {read!r}")
        if read == "sequential" and not hasattr(sampler, "pools"):
            raise ValueError(f"read: expected 'random' with {type(sampler).__name__}, received {read!r}")
        if not set(rgb_sources) <= set(range(len(sources.sizes))):
            raise ValueError(
                f"rgb_sources: expected numbers in [0, {len(sources.sizes)}), received {list(rgb_sources)}"
            )
        if any(have < want for have, want in zip(sources.image_size, image_size, strict=True)):
            raise ValueError(
                f"{sources.manifests[0].folder}: images are {sources.image_size}, "
                f"too small for an image size of {tuple(image_size)}"
            )
        self.sources = sources
        self.sampler = sampler
        self.image_size = tuple(image_size)
        self.mirror = mirror
        self.seed = seed
        self.read = read
        self.rgb_sources = tuple(rgb_sources)
        self.max_bad_images = max_bad_images
        self.augmentation = augmentation or Augmentation()
        self.rows = np.arange(sampler.batch_size) if rows is None else np.asarray(rows)
        if not len(self.rows) or min(self.rows) < 0 or max(self.rows) >= sampler.batch_size:
            raise ValueError(
                f"rows: expected some of [0, {sampler.batch_size}), received {self.rows.tolist()}"
            )
        self.bad_images = {}
        # They are augmented in RGB.
        self._is_augmented = self.augmentation != Augmentation()
        self._loader = BatchLoader(
            sources, self.rows, range(len(sources.sizes)) if self._is_augmented else self.rgb_sources
        )
        self._reading = _Reading()
        self._drawing = threading.Lock()

    def start_at(self, step):
        """Iterates from batch `step` on.

        Args:
            step: int >= 0.

        Yields:
            `(images, identities)`: float32 `(batch_size, *image_size, 3)`, BGR but for `rgb_sources`,
            normalised; int32 `(batch_size,)`.

        Raises:
            ValueError: more than `max_bad_images` images are bad, or all of a batch, or a whole shard.
            OSError: a shard cannot be read; in sequence that, too, is a `ValueError`.
        """
        dataset = self.dataset(step)
        reading = self._reading
        try:
            reading.iterator = iter(dataset)
            # Held by nothing else, see `_stop_reading`.
            while reading.iterator is not None:
                batch = next(reading.iterator)
                self._count_bad(reading, step)
                yield batch
                step += 1
        except tf.errors.OpError as error:
            # tf.data wraps what the loader raised in an error of its own, traceback and all.
            if step in reading.errors:
                raise reading.errors[step] from None
            folders = ", ".join(str(manifest.folder) for manifest in self.sources.manifests)
            raise ValueError(f"{folders}: a batch cannot be read: {error.message}") from None

    def records_of(self, step):
        """What batch `step` is made of, for a report: nothing of it is decoded.

        Args:
            step: int >= 0.

        Returns:
            List of `dataset.sampling.combine.RecordPlace`, one per image, `None` for one not found; bad
            records are not replaced.

        Raises:
            ValueError, OSError: read in sequence, where the shards have to be read for that.
        """
        if self.read == "random":
            records = self._draw(step).tolist()
        else:
            _, examples, sources = next(iter(self._sequential(step)))
            places = zip(examples.numpy(), sources.numpy().tolist(), strict=True)
            records = [self.sources.find(example, source) for example, source in places]
        return [None if record is None else self.sources.place_of(record) for record in records]

    def _count_bad(self, reading, step):
        for record in reading.bad.pop(step, ()):
            self.bad_images.setdefault(record, self._loader.reasons[record])
        if len(self.bad_images) > self.max_bad_images:
            raise ValueError(
                f"{list(self.bad_images.values())[-1]}; expected at most {self.max_bad_images} bad images "
                f"(--max_bad_images), received {len(self.bad_images)}"
            )

    def dataset(self, step):
        """The `tf.data.Dataset` behind `start_at`."""
        # Of its own: a data set that is given up may still read ahead.
        self._reading = reading = _Reading()
        _READINGS.add(reading)
        is_random = self.read == "random"
        batches = tf.data.Dataset.range(step, np.iinfo(np.int64).max) if is_random else self._sequential(step)
        # Several batches at once, in their order: a thread each, which holds up no other while it decodes.
        batches = batches.map(
            lambda k, *examples: self._batch(reading, k, *examples),
            num_parallel_calls=min(os.cpu_count(), _MOST_THREADS),
            deterministic=True,
        )
        # Nothing is left to tune, and who ends a data set that tunes itself may wait a minute for the thread
        # that does.
        options = tf.data.Options()
        options.autotune.enabled = False
        return batches.prefetch(_BATCHES_AHEAD).with_options(options)

    def _sequential(self, step):
        size = self.sampler.batch_size
        first = step * size
        streams = [
            self._stream(pool, used)
            for pool, used in zip(self.sampler.pools, self.sampler.used_before(first), strict=True)
        ]
        if len(streams) > 1:
            samples = tf.data.Dataset.choose_from_datasets(streams, self._choices(first))
        else:
            samples = streams[0]
        examples = samples.batch(size, drop_remainder=True)
        return examples.enumerate(step).map(lambda k, pair: (k, *pair))

    def _stream(self, pool, position):
        """Records of a pool's sources in sequence, epoch after epoch, from a position on."""
        paths, sources = [], []
        for source in pool:
            shards = self.sources.shards_of(source)
            paths += shards
            sources += [source] * len(shards)
        num_records = sum(self.sources.sizes[source] for source in pool)

        def records(path, source):
            return tf.data.TFRecordDataset(path).map(lambda example: (example, source))

        def epoch(number):
            if not self.sampler.reshuffle:
                number = tf.zeros_like(number)
            order = tf.random.experimental.stateless_shuffle(
                tf.range(len(paths)), seed=tf.stack([tf.constant(self.seed, tf.int64), number])
            )
            shards = tf.data.Dataset.from_tensor_slices(
                (tf.gather(tf.constant(paths), order), tf.gather(tf.constant(sources, tf.int64), order))
            )
            # First files, then records: neighbours in a batch come from many shards.
            mixed = shards.interleave(records, cycle_length=_CYCLE_LENGTH)
            return mixed.shuffle(_SHUFFLE_BUFFER, seed=self.seed + number, reshuffle_each_iteration=False)

        first_epoch, used = divmod(int(position), num_records)
        return tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(epoch).skip(used)

    def _choices(self, first):
        size = self.sampler.batch_size

        def pools(start):
            with self._drawing:
                return self.sampler.positions(np.arange(start, start + size))[0]

        def choices(start):
            return tf.ensure_shape(tf.numpy_function(pools, [start], tf.int64), (size,))

        return tf.data.Dataset.range(first, np.iinfo(np.int64).max, size).map(choices).unbatch()

    def _batch(self, reading, k, *examples):
        size = self.sampler.batch_size
        seed = tf.stack([tf.constant(self.seed, tf.int64), k])

        def load(k, *examples):
            try:
                if examples:
                    *loaded, bad = self._loader.load_examples(*examples)
                else:
                    *loaded, bad = self._loader.load(self._draw(int(k)))
            except (OSError, ValueError) as error:
                reading.errors[int(k)] = error
                raise
            if bad:
                reading.bad[int(k)] = bad
            return loaded

        images, identities, sources = tf.numpy_function(load, [k, *examples], (tf.uint8, tf.int32, tf.int64))
        images = tf.ensure_shape(images, (len(self.rows), *self.sources.image_size, 3))
        identities = tf.ensure_shape(identities, self.rows.shape)
        is_mirrored = draw_mirrors(size, seed) if self.mirror else tf.zeros(size, tf.bool)
        is_mirrored = tf.gather(is_mirrored, self.rows)
        if not self._is_augmented:
            return _to_input(images, is_mirrored, self.image_size), identities
        # Whole images: what one loses comes into the crop of another.
        images = self.augmentation(mirror(images, is_mirrored), seed, self.rows, size)
        if self.rgb_sources:
            # Turned here, and back by `preprocess`; sources mix within a batch.
            sources = tf.ensure_shape(sources, self.rows.shape)
            turned = tf.reduce_any(sources[:, None] == tf.constant(self.rgb_sources, tf.int64), axis=1)
            images = tf.where(turned[:, None, None, None], images[..., ::-1], images)
        return preprocess(images, self.image_size), identities

    def _draw(self, k):
        with self._drawing:  # a sampler keeps what it has drawn, and batches are made by several threads
            return self.sampler.batch(k)
