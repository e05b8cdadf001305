"""Converts the sources of a configuration whose conversions are not up to date."""

import logging
from collections.abc import Sequence
from pathlib import Path

from common.files import FileLock
from dataset.config import Config, SourceConfig
from dataset.convert.conversion import Conversion, remove_work
from dataset.convert.options import ConvertOptions
from dataset.records.manifest import MANIFEST_NAME, Manifest, read_manifest
from dataset.sources import open_source, source_fingerprint

logger = logging.getLogger(__name__)


def convert(
    source_config: SourceConfig, tfrecords_folder: Path, options: ConvertOptions | None = None
) -> Manifest:
    """Converts one source into `{tfrecords_folder}/{source name}`, unless that is up to date.

    A conversion is up to date if the source has not changed since, even if seed or checks were different. If
    the source no longer exists, its conversion is used as it is. An outdated conversion stays until the new
    one is complete. If several processes call this at once, one converts and the others wait.

    Worker processes are spawned, so they import the main program again, under another name.

    Args:
        source_config: section of the source.
        tfrecords_folder: folder for conversions. It is created if needed.
        options: defaults to `ConvertOptions()`.

    Returns:
        The manifest of the conversion.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source cannot be read, or too many images are bad.
        OSError: the disk is full, or a worker was killed. Finished shards are kept.
    """
    options = options or ConvertOptions()
    name, target = source_config.name, Path(tfrecords_folder) / source_config.name
    try:
        fingerprint = source_fingerprint(source_config)
    except FileNotFoundError as error:
        if options.overwrite or not (target / MANIFEST_NAME).is_file():
            raise FileNotFoundError(f"source [{name}]: {error}") from None
        logger.warning("%s; using the existing conversion %s", error, target)
        return read_manifest(target)

    manifest, _ = _read_if_up_to_date(target, fingerprint, options.overwrite)
    if manifest is None:
        source = open_source(source_config, options.reader)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{name}.lock")) as lock:
            try:
                lock.acquire()
            except BlockingIOError:
                logger.info("%s: waiting for another process to finish its conversion", lock.path)
                lock.acquire(wait=True)
            # Another process may have converted it while this one waited.
            manifest, reason = _read_if_up_to_date(target, fingerprint, options.overwrite)
            if manifest is None:
                logger.info("%s: converting to %s: %s", name, target, reason)
                return Conversion(name, source, fingerprint, target, options).run()
    remove_work(target)
    logger.info("%s: %s is up to date (seed %d, verify %s)", name, target, manifest.seed, manifest.verify)
    return manifest


def convert_sources(
    config: Config, names: Sequence[str], options: ConvertOptions | None = None
) -> list[Manifest]:
    """Converts several sources of a configuration with `convert`.

    It first checks that all of them exist, because converting the first one may take an hour.

    Args:
        config: the configuration.
        names: names of the sources.
        options: defaults to `ConvertOptions()`.

    Returns:
        The manifest of each source.

    Raises:
        FileNotFoundError: a source does not exist, and neither does its conversion.
        ValueError, OSError: as in `convert`.
    """
    sources = [config.source(name) for name in names]
    for source in sources:
        if not source.path.exists() and not (config.tfrecords / source.name / MANIFEST_NAME).is_file():
            raise FileNotFoundError(
                f"{config.path}, [{source.name}] {source.kind}: {source.path} does not exist. Set the "
                "path, or choose other sections with --source."
            )
    return [convert(source, config.tfrecords, options) for source in sources]


def _read_if_up_to_date(target, fingerprint, overwrite):
    """Returns `(manifest, "")` for an up-to-date conversion, or `(None, reason)` for any other."""
    if not (target / MANIFEST_NAME).is_file():
        if target.exists() and any(target.iterdir()):
            raise ValueError(
                f"{target}: expected a converted source or an empty folder, received other files. "
                "Move them, or rename the section."
            )
        return None, "not converted yet"
    if overwrite:
        return None, "--overwrite is given"
    try:
        manifest = read_manifest(target)
    except ValueError as error:
        return None, f"the existing conversion cannot be used: {error}"
    if manifest.fingerprint != fingerprint:
        return None, "its source has changed"
    return manifest, ""
