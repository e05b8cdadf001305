"""Converted sources -> batches of network input. Batch `k` follows from (manifests, seed, k)."""

import numpy as np
import tensorflow as tf

from dataset.augment import Augmentation
from dataset.bad_records import BadRecords
from dataset.preprocess import decode, mirror, preprocess

READ_MODES = ("random", "sequential")
_FEATURES = {
    "image_raw": tf.io.FixedLenFeature((), tf.string),
    "label": tf.io.FixedLenFeature((), tf.int64),
}
# Shards open at once and records held back, for reading in sequence.
_CYCLE_LENGTH = 16
_SHUFFLE_BUFFER = 16_384


class _Reading:
    """What the threads of one `tf.data.Dataset` met on their way ahead of the training."""

    def __init__(self):
        self.bad = {}  # records of batches that have any, by batch
        self.error = None


class TrainingBatches:
    """Endless batches of training images, from any batch on.

    With `read="random"` the sampler's records are fetched one by one by their offset: the shuffle is
    over the whole set. With `read="sequential"` shards are streamed through a shuffle buffer, for
    disks where random reads are slow; sources keep the sampler's shares and order, and resuming
    re-reads, without decoding, what the epoch has used so far.

    A record that is damaged, or whose image cannot be decoded, is replaced by another one of its
    batch, see `dataset.bad_records.BadRecords` (row 27 of docs/fidelity.md). In sequence
    only the undecodable ones are: past a damaged record TensorFlow cannot read.

    References:
    - margin-centre-face, `dataset/combine.py`, and `dataset/utils.py::process_image`

    Args:
        sources: `dataset.combine.CombinedSources`.
        sampler: object with `batch_size` and `batch(k)`, such as
            `dataset.identity_sampler.IdentitySampler`; for `"sequential"` a
            `dataset.sampler.ShuffledSampler`.
        image_size: `(height, width)` of the network's input.
        mirror: bool, mirror images at random. Defaults to `True`.
        seed: int >= 0, for mirror and augmentation. Defaults to `0`.
        read: `"random"` or `"sequential"`. Defaults to `"random"`.
        rgb_sources: sequence of int, sources whose images the network gets as RGB: row 25 of
            docs/fidelity.md. Defaults to none.
        max_bad_images: int >= 0, how many different images may be bad. Defaults to `0`.
        augmentation: `dataset.augment.Augmentation`. Defaults to none.
        rows: int array, which images of every batch are wanted, in increasing order; the others are
            read and not decoded. Defaults to all. For a worker that computes its share only: it gets
            these very rows of the batches that a single process gets.

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
        self._bad = BadRecords(sources)
        self._reading = _Reading()

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
        while True:
            try:
                for batch in self.dataset(step):
                    self._count_bad(step)
                    yield batch
                    step += 1
            except tf.errors.OpError as error:
                # tf.data wraps what the reader raised in an error of its own, traceback and all.
                if self._reading.error is not None:
                    raise self._reading.error from None
                if self._find_undecodable(step):
                    continue  # from this batch on, and with others in their place
                folders = ", ".join(str(manifest.folder) for manifest in self.sources.manifests)
                raise ValueError(f"{folders}: a batch cannot be read: {error.message}") from None

    def records_of(self, step):
        """What batch `step` is made of, for a report: nothing of it is decoded.

        Args:
            step: int >= 0.

        Returns:
            List of `dataset.record_place.RecordPlace`, one per image, `None` for one that is not found; bad
            records are not replaced.

        Raises:
            ValueError, OSError: read in sequence, where the shards have to be read for that.
        """
        is_random = self.read == "random"
        records = self.sampler.batch(step).tolist() if is_random else self._raw_batch(step)[1]
        return [None if record is None else self.sources.place_of(record) for record in records]

    def _count_bad(self, step):
        for record in self._reading.bad.pop(step, ()):
            self.bad_images.setdefault(record, self._bad.reasons[record])
        if len(self.bad_images) > self.max_bad_images:
            raise ValueError(
                f"{list(self.bad_images.values())[-1]}; expected at most {self.max_bad_images} bad images "
                f"(--max_bad_images), received {len(self.bad_images)}"
            )

    def _find_undecodable(self, step):
        """Whether the batch that could not be read holds images that were not known to be bad."""
        try:
            return self._bad.inspect(*self._raw_batch(step))
        except (ValueError, OSError, tf.errors.OpError):
            return False

    def _raw_batch(self, step):
        """Examples and record numbers of a batch, undecoded."""
        if self.read == "random":
            records = [r for r in self.sampler.batch(step).tolist() if r not in self._bad.reasons]
            return self.sources.read(np.array(records, np.int64))[0], records
        _, examples, sources = next(iter(self._sequential(step)))
        examples = examples.numpy()
        places = zip(examples, sources.numpy().tolist(), strict=True)
        return examples, [self.sources.find(example, source) for example, source in places]

    def dataset(self, step):
        """The `tf.data.Dataset` behind `start_at`."""
        # Of its own: a data set that is given up may still read ahead.
        self._reading = reading = _Reading()
        if self.read == "random":
            examples = self._random(step, reading)
        else:
            examples = self._sequential(step)
            if self._bad.reasons:
                examples = self._replaced(examples, reading)
        if len(self.rows) < self.sampler.batch_size:
            # Only now: what stands in the place of a bad record follows from the whole batch.
            examples = examples.map(self._select)
        # Several batches at once, in their order; a batch needs all of its images anyway.
        batches = examples.map(self._batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _random(self, step, reading):
        def fetch(k):
            try:
                examples, sources, bad = self._bad.read(self.sampler.batch(int(k)))
            except (OSError, ValueError) as error:
                reading.error = error
                raise
            if bad:
                reading.bad[int(k)] = bad
            return examples, sources

        def read(k):
            examples, sources = tf.numpy_function(fetch, [k], (tf.string, tf.int64))
            shape = (self.sampler.batch_size,)
            return k, tf.ensure_shape(examples, shape), tf.ensure_shape(sources, shape)

        return tf.data.Dataset.range(step, np.iinfo(np.int64).max).map(read)

    def _replaced(self, batches, reading):
        def replace(k, examples, sources):
            try:
                examples, sources, bad = self._bad.replace(examples, sources)
            except ValueError as error:
                reading.error = error
                raise
            if bad:
                reading.bad[int(k)] = bad
            return examples, sources

        def map_one(k, examples, sources):
            shape = (self.sampler.batch_size,)
            examples, sources = tf.numpy_function(replace, [k, examples, sources], (tf.string, tf.int64))
            return k, tf.ensure_shape(examples, shape), tf.ensure_shape(sources, shape)

        return batches.map(map_one)

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
            return self.sampler.positions(np.arange(start, start + size))[0]

        def choices(start):
            return tf.ensure_shape(tf.numpy_function(pools, [start], tf.int64), (size,))

        return tf.data.Dataset.range(first, np.iinfo(np.int64).max, size).map(choices).unbatch()

    def _select(self, k, *values):
        return k, *(tf.ensure_shape(tf.gather(each, self.rows), self.rows.shape) for each in values)

    def _batch(self, k, examples, sources):
        features = tf.io.parse_example(examples, _FEATURES)
        images = tf.map_fn(
            lambda encoded: tf.ensure_shape(decode(encoded), (*self.sources.image_size, 3)),
            features["image_raw"],
            fn_output_signature=tf.TensorSpec((*self.sources.image_size, 3), tf.uint8),
        )
        seed = tf.stack([tf.constant(self.seed, tf.int64), k])
        if self.mirror:
            images = mirror(images, seed, self.rows, self.sampler.batch_size)
        # Whole faces, in RGB: what is pushed out of the crop by one image comes into that of another.
        images = self.augmentation(images, seed, self.rows, self.sampler.batch_size)
        if self.rgb_sources:
            # Turned here, and back by `preprocess`; sources mix within a batch.
            turned = tf.reduce_any(sources[:, None] == tf.constant(self.rgb_sources, tf.int64), axis=1)
            images = tf.where(turned[:, None, None, None], images[..., ::-1], images)
        identities = features["label"] + tf.gather(self.sources.label_offsets, sources)
        return preprocess(images, self.image_size), tf.cast(identities, tf.int32)
