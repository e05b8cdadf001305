"""Compares `dataset/records/recordio.py` with MXNet. `.ci/mxnet.sh` runs this program.

python -m tests.mxnet_agreement [FOLDER_WITH_TRAIN_REC ...]
"""

import argparse
import logging
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
from mxnet import recordio as mxnet_recordio

from dataset.records.recordio import MAGIC, RecordReader, RecordWriter, pack_image, unpack_image
from dataset.sources.insightface_rec import InsightFaceRec
from dataset.sources.mxnet_reader import MXNetReader

logger = logging.getLogger("mxnet_agreement")

GOLDEN = Path(__file__).parent / "golden" / "rec"


def main(argv=None):
    """Runs the program. Returns 0 if every comparison holds, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folders", nargs="*", type=Path, help="further folders to compare, each with train.rec and train.idx"
    )
    folders = [GOLDEN / "rec_small", GOLDEN / "rec_vector_labels", *parser.parse_args(argv).folders]
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)

    comparisons = [comparison for folder in folders for comparison in compare_readers(folder)]
    with tempfile.TemporaryDirectory() as folder:
        comparisons += compare_writers(Path(folder), payloads())
        comparisons += compare_refusals(Path(folder))
    comparisons += compare_image_records()

    failed = [name for name, holds in comparisons if not holds]
    for name in failed:
        logger.error("differs: %s", name)
    logger.info("%d passed, %d failed", len(comparisons) - len(failed), len(failed))
    return 1 if failed else 0


def compare_readers(folder):
    """Compares every record, and the labels of `InsightFaceRec`, between the two readers."""
    path = folder / "train.rec"
    ours, theirs = RecordReader(path), MXNetReader(path)
    yield f"{path}: keys", np.array_equal(ours.keys, theirs.keys)
    for key in ours.keys:
        expected = theirs.read(key)
        yield f"{path}: record {key}", ours.read(key) == expected
        yield f"{path}: head of record {key}", ours.read_head(key, 28) == expected[:28]
    ours, theirs = InsightFaceRec(folder), InsightFaceRec(folder, reader=MXNetReader)
    yield f"{path}: labels", np.array_equal(ours.labels, theirs.labels)
    yield (
        f"{path}: pickled reader",
        pickle.loads(pickle.dumps(theirs)).read(0) == ours.read(0) == theirs.read(0),
    )


def compare_writers(folder, written):
    """Checks that both writers make the same files of the same payloads, and that both readers read them."""
    paths = {"ours": folder / "ours.rec", "theirs": folder / "theirs.rec"}
    # The keys have gaps and are not ascending.
    keys = [3 * i if i % 2 else 1000 - i for i in range(len(written))]
    with RecordWriter(paths["ours"]) as writer:
        for key, payload in zip(keys, written, strict=True):
            writer.write(key, payload)
    theirs = paths["theirs"]
    writer = mxnet_recordio.MXIndexedRecordIO(str(theirs.with_suffix(".idx")), str(theirs), "w")
    for key, payload in zip(keys, written, strict=True):
        writer.write_idx(key, payload)
    writer.close()

    for suffix in (".rec", ".idx"):
        ours, theirs = (path.with_suffix(suffix).read_bytes() for path in paths.values())
        yield f"written {suffix}", ours == theirs
    for author, path in paths.items():
        for reader in (RecordReader, MXNetReader):
            records = reader(path)
            for key, payload in zip(keys, written, strict=True):
                name = f"payload {payload[:40].hex()} written by {author}, read by {reader.__name__}"
                yield name, records.read(key) == payload


def compare_refusals(folder):
    """Checks that `MXNetReader` raises errors for broken records and unknown keys."""
    path = folder / "broken.rec"
    with RecordWriter(path) as writer:
        for key in range(3):
            writer.write(key, b"12345678")
    path.write_bytes(bytes(4) + path.read_bytes()[4:-4])
    reader = MXNetReader(path)
    yield "a sound record next to broken ones", reader.read(1) == b"12345678"
    for fault, key in (("wrong magic", 0), ("cut short", 2), ("unknown key", 3)):
        yield fault, _refuses(reader, key)
    path.with_suffix(".idx").unlink()
    try:
        MXNetReader(path)
        yield "no index", False
    except FileNotFoundError:
        yield "no index", True


def _refuses(reader, key):
    try:
        reader.read(key)
    except ValueError as error:
        return f"broken.rec: record {key}" in str(error)
    return False


def compare_image_records():
    """Compares `pack_image` and `unpack_image` with MXNet's `pack` and `unpack`."""
    image = b"\xff\xd8" + MAGIC + b"an image"
    for labels in (7.0, [7.0], [7.0, 1.5, -2.0]):
        expected = mxnet_recordio.pack(mxnet_recordio.IRHeader(0, labels, 12, 0), image)
        yield f"packed labels {labels}", pack_image(labels, 12, image) == expected
        header, _ = mxnet_recordio.unpack(expected)
        received, received_image = unpack_image(expected)
        yield (
            f"unpacked labels {labels}",
            (np.array_equal(received, np.atleast_1d(header.label)) and received_image == image),
        )


def payloads():
    """Returns payloads with the magic number at all critical places, and 200 random ones."""
    chosen = [b"", MAGIC, 2 * MAGIC, 3 * MAGIC, MAGIC[:3], b"x" + MAGIC, b"xy" + MAGIC + b"z"]
    chosen += [bytes(range(1, length + 1)) for length in range(1, 10)]
    chosen += [
        before + MAGIC + after for before in (b"", b"four") for after in (b"", b"x", b"four", b"12345")
    ]
    chosen += [b"four" + 2 * MAGIC + b"four", b"x" + 2 * MAGIC, b"four" + MAGIC + b"x" + MAGIC]
    rng = np.random.default_rng(0)
    pieces = [MAGIC, MAGIC[:2], b"x", b"four", b"a longer piece"]
    chosen += [
        b"".join(pieces[i] for i in rng.integers(0, len(pieces), rng.integers(1, 30))) for _ in range(200)
    ]
    return chosen


if __name__ == "__main__":
    sys.exit(main())
