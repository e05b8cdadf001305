"""One conversion from its plan to the finished folder."""

import dataclasses
import errno
import json
import logging
import multiprocessing
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from common.files import atomic_file, readable_size, remove_leftovers, replace_folder, write_file, write_json
from common.processes import interrupts_held, single_threaded
from dataset.images import check_image
from dataset.records.manifest import INDEX_NAME, RECORD_DTYPE, VERSION, Manifest
from dataset.records.shard_writer import (
    MAX_LISTED_MISMATCHES,
    WORK_FOLDER,
    HashedFile,
    read_records,
    read_report,
    share,
    start_worker,
    write_shard,
)

logger = logging.getLogger(__name__)

COLOUR = "encoded images unchanged; dataset.preprocess decodes them to BGR"
BAD_RECORDS_NAME = "bad_records.txt"
LABEL_MISMATCHES_NAME = "label_mismatches.txt"

# Bytes per image beside the image: 16 of the record, at most 48 of the Example, a row in report and index.
_IMAGE_OVERHEAD = 64 + 2 * RECORD_DTYPE.itemsize
_GO_ON = "what is finished is kept, and the same command goes on from there"
_POLL_SECONDS = 0.5
_LOG_SECONDS = 60  # between lines of progress where there is no terminal for a bar
_SHOWN_BAD = 3


class Conversion:
    """Converts a source into the folder `target`, going on with what an earlier run finished.

    Shards grow in `{target}.partial`. A shard counts as finished once its report is there, and reports
    count only together with the same plan. The manifest is written last; then the folder takes
    the place of `target`. So at any moment `target` is a complete conversion or absent.

    Args:
        name: str, of the source.
        source: the images, for instance an `ImageList`.
        target: Path.
        seed: int >= 0, of the order of the images.
        images_per_shard: int > 0, at most.
        workers: int > 0, processes.
        verify: `"full"` or `"header"`.
        max_bad: float in `[0, 1]`, fraction of images that may be left out.
    """

    def __init__(self, name, source, target, seed, images_per_shard, workers, verify, max_bad):
        self.name = name
        self.source = source
        # Taken now: if the source changes meanwhile, the next run must see it.
        self.fingerprint = source.fingerprint()
        self.target = target
        self.seed = seed
        self.images_per_shard = images_per_shard
        self.workers = workers
        self.verify = verify
        self.max_bad = max_bad
        self.partial = target.with_name(f"{target.name}.partial")
        num_shards = -(-source.num_images // images_per_shard)
        self.names = [f"train-{number:05d}-of-{num_shards:05d}.tfrecord" for number in range(num_shards)]
        self.reports = {}

    def run(self):
        """Converts; returns the `Manifest`. Raises as `dataset.convert.convert` does."""
        started = time.monotonic()
        if not self.source.num_images:
            raise ValueError(f"{self.name}: expected at least one image, received none")
        num_identities = self.source.num_identities
        image_size = self.source.image_size or self._first_image_size()
        self._resume(image_size)
        self._check_bad()
        before = self._num_finished
        pending = [number for number, name in enumerate(self.names) if name not in self.reports]
        self._check_disk(self.source.num_images - before)
        logger.info(
            "%s: %d images of %d identities; %d of %d shards to write",
            self.name,
            self.source.num_images,
            num_identities,
            len(pending),
            len(self.names),
        )
        if pending:
            self._write_shards(pending, image_size)
        manifest = self._finish(num_identities, image_size)
        seconds = time.monotonic() - started
        logger.info(
            "%s: %d images of %d identities in %d shards, %.1f MB; %d bad, %d label mismatches; "
            "%.1f s, %.0f images/s, %.1f MB/s",
            self.name,
            manifest.num_images,
            num_identities,
            len(self.names),
            manifest.num_bytes / 1e6,
            manifest.num_bad,
            manifest.num_label_mismatches,
            seconds,
            (self.source.num_images - before) / seconds,
            manifest.num_bytes * (1 - before / self.source.num_images) / seconds / 1e6,
        )
        return manifest

    @property
    def _num_finished(self):
        """Images that are through, good and bad."""
        return sum(report.shard.num_images + len(report.bad) for report in self.reports.values())

    def _first_image_size(self):
        # If more than this are bad, no size would save the conversion.
        for index in range(min(self._allowed_bad + 1, self.source.num_images)):
            try:
                image, _ = self.source.read(index)
                return check_image(image, verify=self.verify)
            except ValueError as error:
                reason = f"{self.source.describe(index)}: {error}"
        raise ValueError(f"{self.name}: expected a sound image, received none in {index + 1}; {reason}")

    def _resume(self, image_size):
        plan = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "images_per_shard": self.images_per_shard,
            "verify": self.verify,
            "image_size": list(image_size),
        }
        work = self.partial / WORK_FOLDER
        plan_path = work / "plan.json"
        if not plan_path.is_file() or json.loads(plan_path.read_bytes()) != plan:
            if self.partial.exists():
                logger.info("%s: removing what is left of another conversion", self.partial)
                shutil.rmtree(self.partial)
            work.mkdir(parents=True)
            write_json(plan_path, plan)
        keep = {plan_path.name}
        for name in self.names:
            report = read_report(self.partial, name)
            if report is not None:
                self.reports[name] = report
                keep |= {name, f"{name}.npz"}
        for path in (*self.partial.iterdir(), *work.iterdir()):
            if path.is_file() and path.name not in keep:
                path.unlink()

    def _check_disk(self, num_pending):
        num_images = self.source.num_images
        needed = self.source.num_bytes * num_pending // num_images + _IMAGE_OVERHEAD * num_images
        free = shutil.disk_usage(self.partial).free
        if free < needed:
            raise OSError(
                f"{self.partial}: expected {readable_size(needed)} of free disk space, "
                f"received {readable_size(free)}; {_GO_ON}"
            )

    def _write_shards(self, pending, image_size):
        context = multiprocessing.get_context("spawn")  # the caller may hold threads, TensorFlow's for one
        done, stop = context.Value("Q", 0), context.Event()
        load_source = share(self.source, self.partial / WORK_FOLDER / "source")
        pool = ProcessPoolExecutor(
            min(self.workers, len(pending)),
            context,
            start_worker,
            (load_source, self.partial, image_size, self.verify, done, stop),
        )
        is_complete = False
        try:
            with interrupts_held(), single_threaded():  # starts the workers
                futures = self._submit(pool, pending)
            self._follow(futures, done)
            is_complete = True
        except KeyboardInterrupt:
            logger.warning("%s: stopped; %s", self.name, _GO_ON)
            raise
        except BrokenProcessPool:
            raise OSError(
                f"{self.name}: a worker process was killed, for want of memory?; {_GO_ON}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(f"{self.partial}: no space left on disk; {_GO_ON}") from None
        finally:
            stop.set()
            # Workers that have nothing left to write need not be waited for.
            pool.shutdown(wait=not is_complete, cancel_futures=True)

    def _submit(self, pool, pending):
        num_images, num_shards = self.source.num_images, len(self.names)
        # A permutation; of NumPy's random numbers only the raw ones stay the same from version to version.
        order = np.argsort(np.random.PCG64(self.seed).random_raw(num_images), kind="stable")
        futures = {}
        for number in pending:
            name = self.names[number]
            indices = order[num_images * number // num_shards : num_images * (number + 1) // num_shards]
            futures[pool.submit(write_shard, name, indices, self.source.labels[indices])] = name
        return futures

    def _follow(self, futures, done):
        """Waits for all shards, shows progress and keeps watch over the number of bad images."""
        from tqdm import tqdm  # only now: neither --help nor a worker shows progress

        total, before = self.source.num_images, self._num_finished
        started = logged = time.monotonic()
        shown = 0
        unfinished = set(futures)
        with tqdm(total=total, initial=before, desc=self.name, unit=" images", disable=None) as progress:
            while unfinished:
                finished, unfinished = wait(unfinished, _POLL_SECONDS, FIRST_COMPLETED)
                read, now = done.value, time.monotonic()
                progress.update(read - shown)
                shown = read
                if progress.disable and now - logged > _LOG_SECONDS:
                    logged = now
                    rate = read / (now - started)
                    logger.info("%s: %d of %d images, %.0f images/s", self.name, before + read, total, rate)
                for future in finished:
                    future.result()
                    self.reports[futures[future]] = read_report(self.partial, futures[future])
                self._check_bad()

    @property
    def _allowed_bad(self):
        return int(self.max_bad * self.source.num_images)

    def _check_bad(self):
        num_bad = sum(len(report.bad) for report in self.reports.values())
        if num_bad <= self._allowed_bad:
            return
        bad = self._write_bad_records()
        shown = "; ".join(f"{description}: {reason}" for _, description, reason in bad[:_SHOWN_BAD])
        raise ValueError(
            f"{self.name}: expected at most {self._allowed_bad} bad images of {self.source.num_images} "
            f"(max_bad {self.max_bad:g}), received {num_bad} so far: {shown}; "
            f"all of them: {self.partial / BAD_RECORDS_NAME}; with a larger max_bad, {_GO_ON}"
        )

    def _finish(self, num_identities, image_size):
        reports = [self.reports[name] for name in self.names]
        shards = tuple(report.shard for report in reports)
        num_images = sum(shard.num_images for shard in shards)
        if not num_images:
            raise ValueError(f"{self.name}: expected at least one sound image, received none")
        num_mismatches = sum(report.num_label_mismatches for report in reports)
        if num_mismatches:
            listed = sorted(entry for report in reports for entry in report.label_mismatches)
            self._write_list(LABEL_MISMATCHES_NAME, listed[:MAX_LISTED_MISMATCHES])
            logger.warning(
                "%s: %d images have another label of their own than their identity's, which counts; see %s",
                self.name,
                num_mismatches,
                self.target / LABEL_MISMATCHES_NAME,
            )
        manifest = Manifest(
            folder=self.target,
            source=self.name,
            num_identities=num_identities,
            num_images=num_images,
            image_size=tuple(image_size),
            colour=COLOUR,
            seed=self.seed,
            verify=self.verify,
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
        header = {
            "descr": np.lib.format.dtype_to_descr(RECORD_DTYPE),
            "fortran_order": False,
            "shape": (num_images,),
        }
        with atomic_file(self.partial / INDEX_NAME) as file:
            file = HashedFile(file)
            np.lib.format.write_array_header_1_0(file, header)
            for name in self.names:
                file.write(read_records(self.partial, name).tobytes())
        return file.sha256.hexdigest()

    def _write_bad_records(self):
        bad = sorted(entry for report in self.reports.values() for entry in report.bad)
        if bad:
            self._write_list(BAD_RECORDS_NAME, bad)
        return bad

    def _write_list(self, name, entries):
        lines = "".join(f"{description}\t{reason}\n" for _, description, reason in entries)
        write_file(self.partial / name, lines.encode(errors="surrogateescape"))


def remove_work(target):
    """Removes what a complete conversion no longer needs. A killed process may have left it."""
    remove_leftovers(target)
    shutil.rmtree(target / WORK_FOLDER, ignore_errors=True)  # harmless where the folder is read-only
