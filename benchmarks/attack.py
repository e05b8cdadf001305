"""Feeds thousands of malformed files to every reader of the project, and counts the outcomes.

    python -m benchmarks.attack --files 1000 --seed 1 torch pairs_bin

Each file is a small valid file, broken at random: flipped bits, cuts, giant lengths, hostile pickles. A child
process reads it. Two outcomes are correct: the reader succeeds, or it raises a `ValueError` or `OSError` with
a short message that names the file. Memory may grow by 4 times the size of the files plus 200 MB, and reading
may take 5 seconds of processor time. The program keeps every file with another outcome, and returns 1.

`runs` tests training runs instead of files: a run is killed, runs out of disk space, and is started twice.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

READ, ERROR, OTHER, MEMORY, SLOW, KILLED, RAN = (
    *("read", "clear error", "other exception", "too much memory", "too slow", "killed", "ran code"),
)
VERDICTS = (READ, ERROR, OTHER, MEMORY, SLOW, KILLED, RAN)
RUNS = "runs"
_BASE_BYTES = 200_000_000  # bytes that reading may allocate, in addition to 4 times the size of the files
_MAX_CHILD_BYTES = 3_000_000_000  # bytes that the operating system lets a child process allocate
_MAX_SECONDS = 5.0  # of processor time
_TIMEOUT = 60.0  # seconds after which a child that does not answer is killed
_MAX_MESSAGE_LENGTH = 2000  # characters


@dataclasses.dataclass(frozen=True)
class Case:
    """One malformed file and its outcome.

    Attributes:
        parser: name of the reader.
        number: number of the case, from 0.
        description: which file was broken, and how.
        verdict: one of `VERDICTS`.
        message: the reader's error, and by how much a limit was exceeded.
        kept: folder with the file, if the outcome is wrong.
    """

    parser: str
    number: int
    description: str
    verdict: str
    message: str
    kept: Path | None = None


def main(argv=None):
    """Runs the program. Returns 1 if an outcome was wrong, else 0."""
    from benchmarks.malformed_files import PARSERS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--files",
        type=int,
        default=1000,
        metavar="N",
        help="malformed files for each parser; slow parsers get fewer (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of all random choices (default: %(default)s)"
    )
    names = (*PARSERS, RUNS)
    parser.add_argument(
        "parsers",
        nargs="*",
        choices=[*names, []],
        metavar="PARSER",
        help=f"parsers to test (default: all): {', '.join(names)}",
    )
    args = parser.parse_args(argv)
    kept = Path(tempfile.mkdtemp(prefix="attack_"))
    print("| parser | files | " + " | ".join(VERDICTS) + " | seconds |\n|" + "---|" * (len(VERDICTS) + 3))
    failed = []
    chosen = list(args.parsers or names)
    for name in filter(PARSERS.get, chosen):
        start, counts = time.monotonic(), collections.Counter()
        numbers = range(max(1, round(args.files * PARSERS[name].share)))
        for case in attack([(name, number) for number in numbers], args.seed, kept):
            counts[case.verdict] += 1
            if case.verdict not in (READ, ERROR):
                failed.append(case)
        cells = [name, len(numbers), *(counts[verdict] for verdict in VERDICTS)]
        print("| " + " | ".join(map(str, cells)) + f" | {time.monotonic() - start:.0f} |", flush=True)
    for cases in _group_by_error(failed):
        first = cases[0]
        print(f"{first.parser}: {len(cases)} x {first.verdict}, such as {first.description}: {first.message}")
        print(f"  {first.kept}")
    if not failed:
        kept.rmdir()
    is_correct = not failed
    if RUNS in chosen:
        from benchmarks.troubled_runs import trouble

        for name, problems in trouble(args.seed):
            is_correct = is_correct and not problems
            print(
                f"runs: {name}: {'; '.join(problems) or 'equal to an undisturbed run, bit for bit'}",
                flush=True,
            )
    return 0 if is_correct else 1


def _group_by_error(cases):
    """Groups cases with the same parser and verdict whose messages start the same, apart from numbers."""
    groups = collections.defaultdict(list)
    for case in cases:
        groups[case.parser, case.verdict, re.sub(r"[^a-zA-Z ]", "", case.message)[:40]].append(case)
    return groups.values()


def attack(
    cases: Iterable[tuple[str, int]], seed: int, kept: Path | None = None, parsers=None
) -> Iterator[Case]:
    """Reads malformed files in a child process, and starts a new child when one dies.

    Args:
        cases: `(name of a parser, number of a malformed file)`.
        seed: of all random choices.
        kept: folder for the files with a wrong outcome. Defaults to `None`: they are not kept.
        parsers: dict of `Parser` by name. Defaults to `benchmarks.malformed_files.PARSERS`.

    Yields:
        A `Case` for each of `cases`.
    """
    child = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, number in cases:
                if child is None:
                    child = _Child(Path(folder), seed, parsers)
                case = child.read(name, number)
                if case.verdict not in (READ, ERROR) and kept is not None:
                    place = kept / f"{name}-{number}"
                    shutil.copytree(Path(folder, "case"), place, dirs_exist_ok=True)
                    case = dataclasses.replace(case, kept=place)
                if case.verdict in (KILLED, SLOW, MEMORY):
                    child.stop()  # It may still hold memory, which would count for the next case.
                    child = None
                yield case
        finally:
            if child is not None:
                child.finish()


class _Child:
    """A child process that breaks and reads files."""

    def __init__(self, folder, seed, parsers):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder, seed, parsers), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, name, number):
        description = "the valid files"
        try:
            self._connection.send((name, number))
            description = self._receive(4 * _TIMEOUT)  # TensorFlow takes long to load.
            if isinstance(description, RuntimeError):
                raise description
            verdict, message = self._receive(_TIMEOUT)
        except TimeoutError:
            verdict, message = SLOW, f"no answer after {_TIMEOUT:.0f} s"
        except (EOFError, OSError):
            self._process.join()
            verdict, message = KILLED, f"exit code {self._process.exitcode}"
        return Case(name, number, description, verdict, message)

    def _receive(self, seconds):
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def finish(self):
        with contextlib.suppress(OSError):
            self._connection.send(None)
            self._process.join(_TIMEOUT)
        self.stop()

    def stop(self):
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, folder: Path, seed: int, parsers) -> None:
    """Answers requests in the child process: breaks a file, reads it, and sends description and verdict."""
    import resource

    from benchmarks import malformed_files

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    parsers = malformed_files.PARSERS if parsers is None else parsers
    place, good = folder / "case", {}
    while (case := connection.recv()) is not None:
        name, number = case
        try:
            if name not in good:
                good[name] = _good_files(parsers[name], place)
                resource.setrlimit(
                    resource.RLIMIT_DATA, (_read_status("VmData") + _MAX_CHILD_BYTES, resource.RLIM_INFINITY)
                )
            description, files = parsers[name].broken(name, good[name], seed, number)
            _write(place, files)
        except Exception:  # noqa: BLE001 This is an error of the benchmark, and `read` raises it.
            connection.send(RuntimeError(f"{name} {number}: {traceback.format_exc()}"))
            continue
        connection.send(description)
        limit = 4 * sum(map(len, files.values())) + _BASE_BYTES
        connection.send(_judge(parsers[name], place, limit))


def _good_files(parser, place):
    _write(place, {})
    parser.good(place)
    files = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    parser.read(place)  # loads the modules
    return files


def _write(place, files):
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    os.chdir(place)  # A hostile pickle would write its file `RAN` here.
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
        os.utime(place / name, (0, 0))  # Readers store facts about a file by its modification time.


def _judge(parser, place, limit):
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    before, started = _read_status("VmHWM"), time.process_time()
    verdict, message = READ, ""
    try:
        parser.read(place)
    except MemoryError:
        verdict, message = MEMORY, f"more than {_MAX_CHILD_BYTES / 1e6:.0f} MB"
    except Exception as error:  # noqa: BLE001 Every exception leads to a verdict.
        message = f"{type(error).__name__}: {error}".replace(f"{place}/", "")
        verdict, message = _classify_error(error, place), " ".join(message.split())[:200]
    grown, seconds = _read_status("VmHWM") - before, time.process_time() - started
    if (place / "RAN").exists():
        return RAN, message
    if grown > limit:
        return MEMORY, f"{grown / 1e6:.0f} MB, {limit / 1e6:.0f} MB allowed; {verdict} {message}"
    if seconds > _MAX_SECONDS:
        return SLOW, f"{seconds:.1f} s; {verdict} {message}"
    return verdict, message


def _classify_error(error, place):
    text = str(error)
    is_ours = isinstance(error, ValueError | OSError) and not isinstance(error, UnicodeError)
    return ERROR if is_ours and str(place) in text and len(text) < _MAX_MESSAGE_LENGTH else OTHER


def _read_status(key):
    """Returns the bytes that a line of `/proc/self/status` states."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
