"""Runs the conversion of one source, from the plan to the finished folder."""

import dataclasses
import errno
import json
import logging
import multiprocessing
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from common.files import (
    atomic_file,
    file_sha256,
    follow_links,
    readable_size,
    remove_leftovers,
    replace_folder,
    write_file,
    write_json,
)
from common.processes import hold_interrupts, one_blas_thread
from dataset.convert.options import ConvertOptions
from dataset.images import check_image
from dataset.records.manifest import INDEX_NAME, RECORD_DTYPE, VERSION, Manifest
from dataset.records.shard_writer import (
    MAX_LISTED_MISMATCHES,
    WORK_FOLDER,
    ShardReport,
    read_records,
    read_report,
    share,
    start_worker,
    write_shard,
)
from dataset.sources import Source

logger = logging.getLogger(__name__)

COLOUR = "encoded images unchanged; dataset.preprocess decodes them to BGR"
BAD_RECORDS_NAME = "bad_records.txt"
LABEL_MISMATCHES_NAME = "label_mismatches.txt"

# Bytes per image in addition to the image: 16 of the record, up to 48 of the Example, and a row each in
# report and index.
_IMAGE_OVERHEAD = 64 + 2 * RECORD_DTYPE.itemsize
_RESUME = "Finished shards are kept. Run the same command again to resume"
_POLL_SECONDS = 0.5
_SHOWN_BAD = 3


class Conversion:
    """Converts a source into the folder `target`. Shards that an earlier run finished are kept.

    Shards are written to `{target}.partial`. A shard is finished once its report exists, and reports are
    used only if the plan is still the same. The manifest is written last, and then the folder replaces
    `target`. So `target` is always a complete conversion or absent.

    Args:
        name: name of the source.
        source: the images.
        fingerprint: fingerprint of the source from before it was opened, so that the next run notices if
            the source changes during this one.
        target: folder to write.
        options: options of the conversion. `reader` and `overwrite` have no effect here.
    """

    def __init__(
        self, name: str, source: Source, fingerprint: str, target: Path, options: ConvertOptions
    ) -> None:
        self.name = name
        self.source = source
        self.fingerprint = fingerprint
        self.target = target
        self.options = options
        folder = follow_links(target)
        self.partial = folder.with_name(f"{folder.name}.partial")
        num_shards = -(-source.num_images // options.images_per_shard)
        self.names = [f"train-{number:05d}-of-{num_shards:05d}.tfrecord" for number in range(num_shards)]
        self.reports: dict[str, ShardReport] = {}

    def run(self) -> Manifest:
        """Converts the source. Raises the errors of `dataset.convert.sources.convert`."""
        started = time.monotonic()
        num_identities = self.source.num_identities
        image_size = self.source.image_size or self._first_image_size()
        self._resume(image_size)
        self._check_bad()
        before = self._num_finished
        pending = [number for number, name in enumerate(self.names) if name not in self.reports]
        self._check_disk(self.source.num_images - before)
        logger.info(
            f"{self.name}: {self.source.num_images} images of {num_identities} identities; "
            f"{len(pending)} of {len(self.names)} shards to write"
        )
        if pending:
            self._write_shards(pending, image_size)
        manifest = self._finish(num_identities, image_size)
        seconds = time.monotonic() - started
        converted = 1 - before / self.source.num_images
        logger.info(
            f"{self.name}: {manifest.num_images} images of {num_identities} identities in {len(self.names)} "
            f"shards, {readable_size(manifest.num_bytes)}; {manifest.num_bad} bad, "
            f"{manifest.num_label_mismatches} label mismatches; {seconds:.1f} s, "
            f"{self.source.num_images * converted / seconds:.0f} images/s, "
            f"{readable_size(manifest.num_bytes * converted / seconds)}/s"
        )
        return manifest

    @property
    def _num_finished(self):
        """Number of images in finished shards, good and bad."""
        return sum(report.shard.num_images + len(report.bad) for report in self.reports.values())

    def _first_image_size(self):
        # If all of these images are bad, the conversion fails anyway.
        num_tried = min(self._allowed_bad + 1, self.source.num_images)
        reason = ""
        for index in range(num_tried):
            try:
                image, _ = self.source.read(index)
                return check_image(image, verify=self.options.verify)
            except ValueError as error:
                reason = f"{self.source.describe(index)}: {error}"
        raise ValueError(
            f"{self.name}: expected a valid image among the first {num_tried}, received none: {reason}"
        )

    def _resume(self, image_size):
        plan = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "seed": self.options.seed,
            "images_per_shard": self.options.images_per_shard,
            "verify": self.options.verify,
            "image_size": list(image_size),
        }
        work = self.partial / WORK_FOLDER
        plan_path = work / "plan.json"
        if not plan_path.is_file() or json.loads(plan_path.read_bytes()) != plan:
            if self.partial.exists():
                logger.info("%s: removing an unfinished conversion with other options", self.partial)
                shutil.rmtree(self.partial)
            work.mkdir(parents=True)
            write_json(plan_path, plan)
        for name in self.names:
            self._read_report(name)
        keep = {plan_path.name, *self.reports, *(f"{name}.npz" for name in self.reports)}
        for path in (*self.partial.iterdir(), *work.iterdir()):
            if path.is_file() and path.name not in keep:
                path.unlink()

    def _read_report(self, name):
        report = read_report(self.partial, name)
        if report is not None:
            self.reports[name] = report

    def _check_disk(self, num_pending):
        num_images = self.source.num_images
        needed = self.source.num_bytes * num_pending // num_images + _IMAGE_OVERHEAD * num_images
        free = shutil.disk_usage(self.partial).free
        if free < needed:
            raise OSError(
                f"{self.partial}: expected {readable_size(needed)} of free disk space, "
                f"received {readable_size(free)}. Free some space. {_RESUME}."
            )

    def _write_shards(self, pending, image_size):
        context = multiprocessing.get_context("spawn")  # A fork would be unsafe if the caller has threads.
        done, stop = context.Value("Q", 0), context.Event()
        load_source = share(self.source, self.partial / WORK_FOLDER / "source")
        pool = ProcessPoolExecutor(
            min(self.options.workers, len(pending)),
            context,
            start_worker,
            (load_source, self.partial, image_size, self.options.verify, done, stop),
        )
        is_complete = False
        try:
            with hold_interrupts(), one_blas_thread():  # `_submit` starts the workers.
                futures = self._submit(pool, pending)
            self._wait_for(futures, done)
            is_complete = True
        except KeyboardInterrupt:
            logger.warning("%s: stopped. %s.", self.name, _RESUME)
            raise
        except BrokenProcessPool:
            raise OSError(f"{self.name}: a worker process was killed (out of memory?). {_RESUME}.") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(f"{self.partial}: no space left on disk. {_RESUME}.") from None
        finally:
            stop.set()
            # After a complete conversion, workers have nothing left to write and can end on their own.
            pool.shutdown(wait=not is_complete, cancel_futures=True)

    def _submit(self, pool, pending):
        num_images, num_shards = self.source.num_images, len(self.names)
        # This is a random permutation. Only NumPy's raw random numbers are the same in every version.
        order = np.argsort(np.random.PCG64(self.options.seed).random_raw(num_images), kind="stable")
        futures = {}
        for number in pending:
            name = self.names[number]
            indices = order[num_images * number // num_shards : num_images * (number + 1) // num_shards]
            futures[pool.submit(write_shard, name, indices, self.source.labels[indices])] = name
        return futures

    def _wait_for(self, futures, done):
        """Waits for all shards, shows progress and checks the number of bad images."""
        # Workers import this module too, but show no progress.
        from common.progress import Progress

        total, before = self.source.num_images, self._num_finished
        shown = 0
        unfinished = set(futures)
        with Progress(total=total, initial=before, desc=self.name, unit="images") as progress:
            while unfinished:
                finished, unfinished = wait(unfinished, _POLL_SECONDS, FIRST_COMPLETED)
                read = done.value
                progress.update(read - shown)
                shown = read
                for future in finished:
                    future.result()
                    self._read_report(futures[future])
                self._check_bad()

    @property
    def _allowed_bad(self):
        return int(self.options.max_bad * self.source.num_images)

    def _check_bad(self):
        num_bad = sum(len(report.bad) for report in self.reports.values())
        if num_bad <= self._allowed_bad:
            return
        bad = self._write_bad_records()
        shown = "; ".join(f"{description}: {reason}" for _, description, reason in bad[:_SHOWN_BAD])
        raise ValueError(
            f"{self.name}: expected at most {self._allowed_bad} bad images of {self.source.num_images} "
            f"(--max_bad {self.options.max_bad:g}), received {num_bad} so far: {shown}; "
            f"see {self.partial / BAD_RECORDS_NAME} for all of them. {_RESUME}, with a larger --max_bad if "
            "these images may be left out."
        )

    def _finish(self, num_identities, image_size):
        reports = [self.reports[name] for name in self.names]
        shards = tuple(report.shard for report in reports)
        num_images = sum(shard.num_images for shard in shards)
        if not num_images:
            raise ValueError(f"{self.name}: expected at least one valid image, received none")
        num_mismatches = sum(report.num_label_mismatches for report in reports)
        if num_mismatches:
            listed = sorted(entry for report in reports for entry in report.label_mismatches)
            self._write_list(LABEL_MISMATCHES_NAME, listed[:MAX_LISTED_MISMATCHES])
            logger.warning(
                f"{self.name}: {num_mismatches} images have a label of their own that differs from their "
                f"identity; see {self.target / LABEL_MISMATCHES_NAME}"
            )
        manifest = Manifest(
            folder=self.target,
            source=self.name,
            num_identities=num_identities,
            num_images=num_images,
            image_size=tuple(image_size),
            colour=COLOUR,
            seed=self.options.seed,
            verify=self.options.verify,
            fingerprint=self.fingerprint,
            num_bad=len(self._write_bad_records()),
            num_label_mismatches=num_mismatches,
            index_sha256=self._write_index(num_images),
            shards=shards,
        )
        dataclasses.replace(manifest, folder=self.partial).write()
        replace_folder(self.partial, self.target)
        remove_work(self.target)
        return manifest

    def _write_index(self, num_images):
        path, descr = self.partial / INDEX_NAME, np.lib.format.dtype_to_descr(RECORD_DTYPE)
        with atomic_file(path) as file:
            header = {"descr": descr, "fortran_order": False, "shape": (num_images,)}
            np.lib.format.write_array_header_1_0(file, header)
            for name in self.names:
                file.write(read_records(self.partial, name).tobytes())
        return file_sha256(path)

    def _write_bad_records(self):
        bad = sorted(entry for report in self.reports.values() for entry in report.bad)
        if bad:
            self._write_list(BAD_RECORDS_NAME, bad)
        return bad

    def _write_list(self, name, entries):
        lines = "".join(f"{description}\t{reason}\n" for _, description, reason in entries)
        write_file(self.partial / name, lines.encode(errors="surrogateescape"))


def remove_work(target: Path) -> None:
    """Removes temporary files of a complete conversion. A killed process may have left them."""
    remove_leftovers(target)
    # Errors do not matter: a conversion in a read-only folder is usable as it is.
    shutil.rmtree(target / WORK_FOLDER, ignore_errors=True)
