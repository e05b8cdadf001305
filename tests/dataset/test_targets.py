"""Tests batches with targets, a row of numbers for each image."""

import itertools

import numpy as np
import pytest

from dataset.augment import Augmentation
from dataset.pipeline import PipelineOptions, TrainingBatches
from dataset.sampling.combine import CombinedSources
from dataset.sampling.shuffled import ShuffledSampler
from tests.dataset.samples import flip_bit, make_images, write_converted

BATCH = 6


@pytest.fixture
def manifests(tmp_path):
    """Two sources with 12 and 6 images. The third record of each is damaged."""
    manifests = [write_converted(tmp_path / name, make_images(n, 6)) for name, n in (("one", 2), ("two", 1))]
    for manifest in manifests:
        start = int(manifest.open_index()["offset"][2])
        flip_bit(manifest.folder / manifest.shards[0].name, start + 300)
    return manifests


def make(manifests, **options):
    """Makes batches whose targets are the numbers of the source and of the record in it."""
    sources = CombinedSources(manifests)
    targets = [
        np.stack([np.full(size, source), np.arange(size)], axis=1).astype(np.float32)
        for source, size in enumerate(sources.sizes)
    ]
    options = PipelineOptions(max_bad_images=9, targets=targets, **options)
    return TrainingBatches(sources, ShuffledSampler(sources.sizes, BATCH, 1), (112, 96), options)


def take(batches, start=0, num=3):
    taken = [
        [images.to_input((112, 96)).numpy(), identities.numpy(), targets.numpy()]
        for (images,), (identities,), (targets,) in itertools.islice(batches.start_at(start), num)
    ]
    return [np.stack(parts) for parts in zip(*taken, strict=True)]


def test_targets_follow_the_records(manifests):
    batches = make(manifests, mirror=False)
    images, identities, targets = take(batches)
    by_target, num_replaced = {}, 0
    for k in range(3):
        for place, record in enumerate(batches.sampler.batch(k).tolist()):
            source, within = divmod(record, 12)
            target = tuple(targets[k, place].astype(int))
            is_bad = within == 2
            num_replaced += is_bad
            # A damaged record is replaced by another record, preferably of its identity, with its target.
            assert (target == (source, within)) != is_bad and target[1] != 2
            assert identities[k, place] == (2 if target[0] else target[1] // 6)
            by_target.setdefault(target, []).append(images[k, place])
    assert num_replaced == 2 and len(by_target) == 16
    for same in by_target.values():
        assert all(np.array_equal(image, same[0]) for image in same)
    of_first_source = {same[0].tobytes() for (source, _), same in by_target.items() if source == 0}
    assert len(of_first_source) == 11


def test_targets_do_not_depend_on_mirror_augmentation_and_rows(manifests):
    plain = take(make(manifests, mirror=False))
    augmented = take(make(manifests, augmentation=Augmentation(crop=1.0)))
    assert not np.array_equal(plain[0], augmented[0])
    np.testing.assert_array_equal(augmented[2], plain[2])
    rows = np.array([1, 4])
    np.testing.assert_array_equal(take(make(manifests, rows=rows))[2], plain[2][:, rows])
    np.testing.assert_array_equal(take(make(manifests), start=2, num=1)[2], plain[2][2:])


def test_targets_need_random_reading(manifests):
    with pytest.raises(ValueError, match="--read is sequential"):
        make(manifests, read="sequential")
