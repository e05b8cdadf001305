"""Makes small synthetic sources and their conversions for tests."""

import hashlib
import struct

import cv2
import google_crc32c
import numpy as np

from dataset.records.manifest import INDEX_NAME, RECORD_DTYPE, Manifest, Shard, read_manifest
from dataset.records.recordio import RecordWriter, pack_image
from dataset.records.tfrecord import encode_record

SAMPLING = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111, "4:4:0": 0x121111}


def encode_example(image, label):
    """Returns the serialised `tf.train.Example` in a record of `encode_record`."""
    parts, length = encode_record(image, label)
    return b"".join(parts)[12 : 12 + length]


def write_record(file, data):
    """Appends one TFRecord to a binary file."""
    length = struct.pack("<Q", len(data))
    file.write(length + _masked_crc(length) + data + _masked_crc(data))


def _masked_crc(data):
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def encoded_image(seed, height=112, width=112, suffix=".jpg"):
    """Returns an image of blurred noise, which compresses about as well as a face."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    return cv2.imencode(suffix, image)[1].tobytes()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_images(num_identities=4, images_per_identity=15):
    """Returns `[(image, label), ...]`, ordered by label. Every seventh image is a PNG."""
    labels = np.repeat(range(num_identities), images_per_identity).tolist()
    return [
        (encoded_image(i, suffix=".png" if i % 7 == 3 else ".jpg"), label) for i, label in enumerate(labels)
    ]


def write_rec(folder, images, own_labels=None, property_line=None):
    """Writes `images`, which are ordered by label, to `folder` as an InsightFace set."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [label for _, label in images]
    first, last = len(images) + 1, len(images) + 1 + labels[-1] + 1
    with RecordWriter(folder / "train.rec") as writer:
        writer.write(0, pack_image((first, last), 0, b""))
        for key, (image, _) in enumerate(images, start=1):
            own_label = (own_labels or labels)[key - 1]
            writer.write(key, pack_image(own_label, key, image))
        for label in range(labels[-1] + 1):
            begin = labels.index(label) + 1
            writer.write(first + label, pack_image((begin, begin + labels.count(label)), first + label, b""))
    (folder / "property").write_text(property_line or f"{labels[-1] + 1},112,112")
    return folder


def write_converted(folder, images, num_shards=1, image_size=(112, 112)):
    """Writes `images` in their order to `folder` as a converted source. Returns its `Manifest`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, shards = [], []
    for number, part in enumerate(np.array_split(np.arange(len(images)), num_shards)):
        path = folder / f"train-{number:05d}-of-{num_shards:05d}.tfrecord"
        with path.open("wb") as file:
            for i in part:
                image, label = images[i]
                example = encode_example(image, label)
                rows.append((file.tell(), len(example), label))
                write_record(file, example)
        data = path.read_bytes()
        shards.append(Shard(path.name, len(part), len(data), hashlib.sha256(data).hexdigest()))
    np.save(folder / INDEX_NAME, np.array(rows, RECORD_DTYPE))
    Manifest(
        folder=folder,
        source=folder.name,
        num_identities=max(label for _, label in images) + 1,
        num_images=len(images),
        image_size=image_size,
        colour="as encoded",
        seed=0,
        verify="full",
        fingerprint="made up",
        num_bad=0,
        num_label_mismatches=0,
        index_sha256=hashlib.sha256((folder / INDEX_NAME).read_bytes()).hexdigest(),
        shards=tuple(shards),
    ).write()
    return read_manifest(folder)


def with_orientation(jpeg):
    """Adds an EXIF orientation of a quarter turn: tag 0x0112 with value 6."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


def flip_bit(path, offset):
    """Damages one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 16
    path.write_bytes(data)
