"""Converted sources -> batches of network input. Batch `k` follows from (manifests, seed, k)."""

import numpy as np
import tensorflow as tf

from dataset.preprocess import decode, mirror, preprocess

READ_MODES = ("random", "sequential")
_FEATURES = {
    "image_raw": tf.io.FixedLenFeature((), tf.string),
    "label": tf.io.FixedLenFeature((), tf.int64),
}
# Shards open at once and records held back, for reading in sequence.
_CYCLE_LENGTH = 16
_SHUFFLE_BUFFER = 16_384


class TrainingBatches:
    """Endless batches of training images, from any batch on.

    With `read="random"` the sampler's records are fetched one by one by their offset: the shuffle is
    over the whole set. With `read="sequential"` shards are streamed through a shuffle buffer, for
    disks where random reads are slow; sources keep the sampler's shares and order, and resuming
    re-reads, without decoding, what the epoch has used so far.

    References:
    - margin-centre-face, `dataset/combine.py`, and `dataset/utils.py::process_image`

    Args:
        sources: `dataset.combine.CombinedSources`.
        sampler: object with `batch_size` and `batch(k)`, such as
            `dataset.identity_sampler.IdentitySampler`; for `"sequential"` a
            `dataset.sampler.ShuffledSampler`.
        image_size: `(height, width)` of the network's input.
        mirror: bool, mirror images at random. Defaults to `True`.
        seed: int >= 0, for the mirror. Defaults to `0`.
        read: `"random"` or `"sequential"`. Defaults to `"random"`.
        rgb_sources: sequence of int, sources whose images the network gets as RGB: row 25 of
            docs/fidelity.md. Defaults to none.

    Raises:
        ValueError: an unknown way to read, or one that the sampler cannot serve; images smaller
            than `image_size`; no such source.
    """

    def __init__(self, sources, sampler, image_size, mirror=True, seed=0, read="random", rgb_sources=()):
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
        self._error = None

    def start_at(self, step):
        """Iterates from batch `step` on.

        Args:
            step: int >= 0.

        Yields:
            `(images, identities)`: float32 `(batch_size, *image_size, 3)`, BGR but for `rgb_sources`,
            normalised; int32 `(batch_size,)`.

        Raises:
            ValueError: a record is damaged or cannot be decoded.
            OSError: a shard cannot be read; in sequence that, too, is a `ValueError`.
        """
        self._error = None
        try:
            yield from self.dataset(step)
        except tf.errors.OpError as error:
            # tf.data wraps what the reader raised in an error of its own, traceback and all.
            if self._error is not None:
                raise self._error from None
            folders = ", ".join(str(manifest.folder) for manifest in self.sources.manifests)
            raise ValueError(f"{folders}: a batch cannot be read: {error.message}") from None

    def dataset(self, step):
        """The `tf.data.Dataset` behind `start_at`."""
        examples = self._random(step) if self.read == "random" else self._sequential(step)
        # Several batches at once, in their order; a batch needs all of its images anyway.
        batches = examples.map(self._batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _random(self, step):
        def fetch(k):
            try:
                return self.sources.read(self.sampler.batch(int(k)))
            except (OSError, ValueError) as error:
                self._error = error
                raise

        def read(k):
            examples, sources = tf.numpy_function(fetch, [k], (tf.string, tf.int64))
            shape = (self.sampler.batch_size,)
            return k, tf.ensure_shape(examples, shape), tf.ensure_shape(sources, shape)

        return tf.data.Dataset.range(step, np.iinfo(np.int64).max).map(read)

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

    def _batch(self, k, examples, sources):
        features = tf.io.parse_example(examples, _FEATURES)
        images = tf.map_fn(
            lambda encoded: tf.ensure_shape(decode(encoded), (*self.sources.image_size, 3)),
            features["image_raw"],
            fn_output_signature=tf.TensorSpec((*self.sources.image_size, 3), tf.uint8),
        )
        if self.mirror:
            images = mirror(images, tf.stack([tf.constant(self.seed, tf.int64), k]))
        if self.rgb_sources:
            # Turned here, and back by `preprocess`; sources mix within a batch.
            turned = tf.reduce_any(sources[:, None] == tf.constant(self.rgb_sources, tf.int64), axis=1)
            images = tf.where(turned[:, None, None, None], images[..., ::-1], images)
        identities = features["label"] + tf.gather(self.sources.label_offsets, sources)
        return preprocess(images, self.image_size), tf.cast(identities, tf.int32)
