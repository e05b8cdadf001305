"""Scores and times `eval.identify` on clips of known people.

    python -m benchmarks.identify CLIPS MODEL

CLIPS is a folder with one folder of videos for each person, `person/*.mkv`. MODEL needs thresholds from
`export.calibrate`. The program leaves each clip out of the gallery once, and then each person, and counts the
tracks that get the right name or are unknown.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import Row, report
from common.progress import Progress
from dataset.video import SUFFIXES
from eval.embedding.embedder import load_embedder
from eval.embedding.model_card import no_thresholds, read_card
from eval.identify.identification import choose_threshold, identify
from eval.identify.results import UNKNOWN
from eval.recognition.gallery import load_gallery
from eval.recognition.tracks import find_tracks


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.identify", description=__doc__.splitlines()[0]
    )
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder of person/*.mkv")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model with thresholds")
    parser.add_argument(
        "--fpir",
        type=float,
        default=0.01,
        help="as in eval.identify (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    report(rows(args))


def rows(args):
    """Yields the rows of the table."""
    clips = sorted(path.resolve() for path in args.clips.glob("*/*") if path.suffix in SUFFIXES)
    people = sorted({clip.parent.name for clip in clips})
    calibration = read_card(args.model).calibration(prefer="template")
    if calibration is None:
        raise SystemExit(no_thresholds(args.model))
    embedder = load_embedder(args.model, flip=calibration.flip)
    tracks = {clip: find_tracks(clip, embedder) for clip in Progress(clips, desc="tracks", unit="clips")}
    find = tracks.__getitem__

    def named(probes, known):
        """Identifies the probes with a gallery of the known clips. Yields `(person, track, threshold)`."""
        with tempfile.TemporaryDirectory() as folder:
            for clip in known:
                link = Path(folder, clip.parent.name, clip.name)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(clip)
            gallery = load_gallery(Path(folder), lambda path: find(path.resolve()))
        threshold = choose_threshold(calibration, args.fpir, gallery).value
        for probe in probes:
            for track in identify(probe, find, gallery, threshold).named:
                yield probe.parent.name, track, threshold

    own, others = [], []
    right = total = 0
    for clip in clips:
        for person, track, _ in named([clip], [other for other in clips if other != clip]):
            total += 1
            right += track.name == person
            own += [match.similarity for match in track.matches if match.name == person]
            others += [match.similarity for match in track.matches if match.name != person]
    yield Row(
        "one clip left out: tracks with the right name", "all", "tracks", right, total, right / total, "1"
    )
    yield Row("lowest similarity to the right person", "highest to another", "", min(own), max(others))
    for stranger in people:
        probes = [clip for clip in clips if clip.parent.name == stranger]
        found = list(named(probes, [clip for clip in clips if clip not in probes]))
        unknown = sum(track.name == UNKNOWN for _, track, _ in found)
        what = f"{stranger} left out: tracks that are unknown"
        yield Row(what, "all", "tracks", unknown, len(found), unknown / len(found), "1")
        nearest = max(track.matches[0].similarity for _, track, _ in found)
        yield Row("highest similarity to any person", "threshold", "", nearest, found[0][2])
    yield from speed(clips, args)


def speed(clips, args):
    """Times the whole command. The gallery is one clip of each person, the sources are all other clips."""
    known = list({clip.parent.name: clip for clip in clips}.values())
    probes = [clip for clip in clips if clip not in known]
    with tempfile.TemporaryDirectory() as folder:
        for clip in known:
            Path(folder, f"{clip.parent.name}{clip.suffix}").symlink_to(clip)
        flags = ["--gallery", folder, "--model_path", args.model, "--fpir", args.fpir]
        command = [*flags, "--output", Path(folder, ".out"), *probes]
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "eval.identify", *map(str, command)], stdout=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - start
    if run.returncode:
        raise SystemExit(run.returncode)
    print(run.stdout, file=sys.stderr)
    line = next(line for line in run.stdout.splitlines() if line.startswith("Frames :"))
    frames = int(line.split()[2].replace(",", ""))
    yield Row("eval.identify, the whole command", "", "frames/s", frames / seconds, goal="at least 25")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_seconds = used.ru_utime + used.ru_stime
    yield Row("eval.identify, processor time", "", "ms/frame", 1000 * processor_seconds / frames)


if __name__ == "__main__":
    main()
