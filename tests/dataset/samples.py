"""Small made-up sources for tests of the conversion."""

import cv2
import numpy as np

from dataset.recordio import RecordWriter, pack_image


def encoded_image(seed, height=112, width=112, suffix=".jpg"):
    """Blurred noise, which compresses about as a face does; different for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    return cv2.imencode(suffix, image)[1].tobytes()


def make_images(num_identities=4, images_per_identity=15):
    """`[(image, label), ...]` in order of the labels, every seventh image a PNG."""
    labels = np.repeat(range(num_identities), images_per_identity).tolist()
    return [
        (encoded_image(i, suffix=".png" if i % 7 == 3 else ".jpg"), label) for i, label in enumerate(labels)
    ]


def write_rec(folder, images, own_labels=None, property_line=None):
    """Writes `images`, in order of their labels, as an InsightFace set into `folder`."""
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
