"""Writes large made-up sets of records, most of them without images."""

import hashlib
import itertools

import numpy as np

from dataset.records.manifest import INDEX_NAME, RECORD_DTYPE, Manifest, Shard
from dataset.records.recordio import RecordWriter, pack_image
from dataset.records.tfrecord import RECORD_OVERHEAD

_IMAGES_PER_SHARD = 25_000


def write_converted(folder, num_images, num_identities, fingerprint="made up"):
    """Writes a converted set: a manifest, an index with random labels, and empty shards of the right size.

    Args:
        folder: Path of the set, which is created.
        num_images: int > 0.
        num_identities: int > 0, at most `num_images`; each has at least one image.
        fingerprint: str, fingerprint of the source that the set claims to come from.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    num_shards = -(-num_images // _IMAGES_PER_SHARD)
    bounds = np.arange(num_shards + 1) * num_images // num_shards
    digest = hashlib.sha256()
    sizes = []
    with (folder / INDEX_NAME).open("wb") as file:
        header = {"descr": RECORD_DTYPE.descr, "fortran_order": False, "shape": (num_images,)}
        np.lib.format.write_array_header_1_0(file, header)
        for first, last in itertools.pairwise(bounds.tolist()):
            rows = np.empty(last - first, RECORD_DTYPE)
            rows["length"] = rng.integers(4000, 8000, len(rows))
            ends = np.cumsum(rows["length"] + np.uint64(RECORD_OVERHEAD))
            rows["offset"] = ends - rows["length"] - RECORD_OVERHEAD
            numbers = np.arange(first, last)
            rows["label"] = np.where(
                numbers < num_identities, numbers, rng.integers(num_identities, size=len(rows))
            )
            digest.update(rows)
            rows.tofile(file)
            sizes.append(int(ends[-1]))
    shards = []
    for number, size in enumerate(sizes):
        name = f"train-{number:05d}-of-{num_shards:05d}.tfrecord"
        with (folder / name).open("wb") as file:
            file.truncate(size)
        shards.append(Shard(name, int(bounds[number + 1] - bounds[number]), size, "made up"))
    Manifest(
        folder=folder,
        source=folder.name,
        num_identities=num_identities,
        num_images=num_images,
        image_size=(112, 112),
        colour="none",
        seed=0,
        verify="header",
        fingerprint=fingerprint,
        num_bad=0,
        num_label_mismatches=0,
        index_sha256=digest.hexdigest(),
        shards=tuple(shards),
    ).write()


def write_rec(folder, num_images, images_per_identity, image=lambda key: b""):
    """Writes an InsightFace set.

    Args:
        folder: Path of the set, which is created.
        num_images: int > 0.
        images_per_identity: int > 0.
        image: function from the key of a record to the bytes of its image. Defaults to no bytes.

    Returns:
        Path of the `.rec`.
    """
    folder.mkdir()
    first = num_images + 1
    begins = range(1, first, images_per_identity)
    with RecordWriter(folder / "train.rec") as writer:
        writer.write(0, pack_image((first, first + len(begins)), 0, b""))
        for key in range(1, first):
            writer.write(key, pack_image((key - 1) // images_per_identity, key, image(key)))
        for label, begin in enumerate(begins):
            end = min(begin + images_per_identity, first)
            writer.write(first + label, pack_image((begin, end), first + label, b""))
    (folder / "property").write_text(f"{len(begins)},112,112")
    return folder / "train.rec"


def write_list(folder, images, num_identities):
    """Writes images, a list of them, and a `config.ini` that names the list as the source `made_up`.

    Args:
        folder: Path of an existing folder.
        images: list of bytes.
        num_identities: int > 0. The labels are spread evenly from the first to the last identity.
    """
    (folder / "images").mkdir()
    lines = []
    for number, label in enumerate(np.linspace(0, num_identities - 1, len(images)).astype(int)):
        (folder / "images" / f"{number}.jpg").write_bytes(images[number])
        lines.append(f"images/{number}.jpg {label}\n")
    (folder / "train_list.txt").write_text("".join(lines))
    (folder / "config.ini").write_text(
        "[records]\ntfrecords = ./tfrecords\n[made_up]\ntrain_list = ./train_list.txt\n"
    )
