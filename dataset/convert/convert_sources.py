"""Converts training images to sharded, shuffled TFRecords; once, before the first training.

    python -m dataset.convert --config config.ini --source ms1m

Image bytes and labels stay as they are. Every image is checked; what is damaged is left out and
listed in `bad_records.txt`. A conversion may be killed at any moment: the same command goes on with it.
"""

import logging
import os
from pathlib import Path

from common.files import FileLock
from dataset.convert.conversion import Conversion, remove_work
from dataset.images import LEVELS
from dataset.records.manifest import MANIFEST_NAME, read_manifest
from dataset.records.recordio import RecordReader
from dataset.sources.image_list import ImageList
from dataset.sources.insightface_rec import InsightFaceRec, rec_fingerprint
from dataset.sources.mxnet_reader import MXNetReader
from dataset.sources.tfrecords import TFRecordSource

logger = logging.getLogger(__name__)


READERS = {"own": RecordReader, "mxnet": MXNetReader}


def convert(
    source_config,
    tfrecords_folder,
    *,
    seed=0,
    images_per_shard=25_000,
    workers=None,
    verify="full",
    max_bad=0.001,
    reader="own",
    overwrite=False,
):
    """Converts one source into `{tfrecords_folder}/{source name}`, unless that is already done.

    A conversion is up to date while the source has not changed, whatever its seed and its
    checks were; with the source gone it is taken as it is. Out of date, it stays until the new one
    is complete. Of several processes that call this at once, one converts and the others wait.

    The worker processes are spawned: they import the main program anew, under another name.

    Args:
        source_config: a `SourceConfig`.
        tfrecords_folder: str or Path.
        seed: int >= 0, of the order of the images. Defaults to `0`.
        images_per_shard: int > 0, at most. Defaults to `25_000`.
        workers: int > 0, processes. Defaults to the number of cores.
        verify: `"full"` or `"header"`, see `check_image`. Defaults to `"full"`.
        max_bad: float in `[0, 1]`, fraction of images that may be left out. Defaults to `0.001`.
        reader: `"own"` or `"mxnet"`, what reads a `.rec`. Defaults to `"own"`.
        overwrite: bool, convert even if that is already done. Defaults to `False`.

    Returns:
        The `Manifest`.

    Raises:
        FileNotFoundError: the source is not there.
        ValueError: an option out of range, a source that cannot be read, too many bad images.
        OSError: no space on disk, or a worker that was killed. What is finished is kept.
    """
    _check_option("seed", seed, "an integer >= 0", seed >= 0)
    _check_option("images_per_shard", images_per_shard, "an integer > 0", images_per_shard > 0)
    _check_option("workers", workers, "an integer > 0", workers is None or workers > 0)
    _check_option("verify", verify, " or ".join(LEVELS), verify in LEVELS)
    _check_option("max_bad", max_bad, "a fraction in [0, 1]", 0 <= max_bad <= 1)
    _check_option("reader", reader, " or ".join(READERS), reader in READERS)
    name, target = source_config.name, Path(tfrecords_folder) / source_config.name
    try:
        fingerprint = _fingerprint(source_config)
    except FileNotFoundError as error:
        if overwrite or not (target / MANIFEST_NAME).is_file():
            raise FileNotFoundError(f"source [{name}]: {error}") from None
        logger.warning("%s; its conversion %s is taken as it is", error, target)
        return read_manifest(target)

    manifest, _ = _existing(target, fingerprint, overwrite)
    if manifest is None:
        source = _open_source(source_config, reader)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{name}.lock")) as lock:
            try:
                lock.acquire()
            except BlockingIOError:
                logger.info("%s: waiting for another process to finish its conversion", lock.path)
                lock.acquire(wait=True)
            # Another process may have converted it while this one waited.
            manifest, reason = _existing(target, fingerprint, overwrite)
            if manifest is None:
                logger.info("%s: converting to %s: %s", name, target, reason)
                conversion = Conversion(
                    name, source, target, seed, images_per_shard, workers or os.cpu_count(), verify, max_bad
                )
                return conversion.run()
    remove_work(target)
    logger.info("%s: %s is up to date (seed %d, verify %s)", name, target, manifest.seed, manifest.verify)
    return manifest


def convert_sources(config, names, **options):
    """Converts several sources of a config, those that are not up to date.

    Args:
        config: a `Config`.
        names: list of str, sections.
        **options: of `convert`.

    Returns:
        List of `Manifest`, one per name.

    Raises:
        As `convert`; a source that is not there is found before the first one is converted.
    """
    sources = [config.source(name) for name in names]
    _check_sources(config, sources)
    return [convert(source, config.tfrecords, **options) for source in sources]


def _check_option(name, value, expected, is_valid):
    if not is_valid:
        raise ValueError(f"{name}: expected {expected}, received {value}")


def _check_sources(config, sources):
    """All at once: the first one may take an hour."""
    for source in sources:
        path = source.mxrec or source.train_list or source.tfrecord
        if not path.exists() and not (config.tfrecords / source.name / MANIFEST_NAME).is_file():
            raise FileNotFoundError(f"{config.path}: section [{source.name}]: no such file or folder: {path}")


def _open_source(config, reader):
    if config.mxrec is not None:
        return InsightFaceRec(config.mxrec, READERS[reader])
    if config.train_list is not None:
        return ImageList(config.train_list, config.prefix)
    return TFRecordSource(config.tfrecord)


def _fingerprint(config):
    """Of a source that is not opened: to parse the index of millions of records takes seconds."""
    if config.mxrec is not None:
        return rec_fingerprint(config.mxrec)
    return _open_source(config, reader=None).fingerprint()


def _existing(target, fingerprint, overwrite):
    """`(manifest, None)` of an up-to-date conversion, or `(None, why there is none)`."""
    if not (target / MANIFEST_NAME).is_file():
        if target.exists() and any(target.iterdir()):
            raise ValueError(
                f"{target}: expected a converted source or an empty folder, received other files"
            )
        return None, "not converted yet"
    if overwrite:
        return None, "asked to convert it again"
    try:
        manifest = read_manifest(target)
    except ValueError as error:
        return None, f"what is there cannot be used: {error}"
    if manifest.fingerprint != fingerprint:
        return None, "its source has changed"
    return manifest, None
