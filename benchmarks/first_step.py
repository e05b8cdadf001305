"""Times each start-up phase of `train_centre`, up to its first step.

    python -m benchmarks.first_step

The program starts a run on made-up faces twice. The first start converts the faces, builds the net, does one
step, which traces the graph, and is stopped. The second start resumes from the checkpoint. All times come
from the log of the run, except the time until the net is built, which includes the imports and is measured
from outside.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import Row, report

_FACES = {"identities": 60, "images": 16, "held_out": 5, "pairs": 20, "videos": 4, "frames": 1}
# The log line of each phase; the group holds its seconds.
LINES = {
    "net": re.compile(r"net: \S+, built in ([\d.]+) s"),
    "conversion": re.compile(r"\d+ label mismatches; ([\d.]+) s, "),
    "first step": re.compile(r"First step: ([\d.]+) s"),
    "restore": re.compile(r"Resuming from step .*, read in ([\d.]+) s"),
}


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_step", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--net_depth", type=int, default=50, help="depth of the net (default: %(default)s)")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        default=(112, 96),
        metavar=("H", "W"),
        help="height and width of the images (default: 112 96)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images in a batch (default: %(default)s)")
    report(rows(parser.parse_args(argv)))


def rows(args):
    """Starts two runs, then yields the rows of the table for the flags that `main` has parsed."""
    from dataset.synthetic import FaceSetOptions, write_set

    with tempfile.TemporaryDirectory() as folder:
        write_set(FaceSetOptions(out=Path(folder, "faces"), **_FACES))
        config = Path(folder, "faces", "config.ini")
        config.write_text(config.read_text().replace("enable = true", "enable = false"))
        first = start(Path(folder), config, args)
        second = start(Path(folder), config, args)
    net = f"IR-{args.net_depth} {args.image_size[0]}x{args.image_size[1]}"
    for what, seconds in {
        "converting two small sources": sum(first["conversion"]),
        f"imports, flags and {net}": first["until net"],
        f"building {net}, part of the above": sum(first["net"]),
        f"restoring {net} and momentum": sum(second["restore"]),
        f"first step with tracing, batch {args.batch_size}": sum(first["first step"]),
        "first step after a restore": sum(second["first step"]),
    }.items():
        yield Row(f"start of train_centre: {what}", "", "s", seconds)


def start(folder, config, args):
    """Runs `train_centre` until its first step is done and saved.

    Args:
        folder: Path to write all output to.
        config: Path of the config file.
        args: parsed flags.

    Returns:
        dict from each name in `LINES` to a list of seconds, one for each such line; `"until net"` is the
        seconds until the net was built.

    Raises:
        RuntimeError: the run failed. The message shows the end of its log.
    """
    command = [
        *(sys.executable, "-m", "train_centre", "--image_size", *map(str, args.image_size)),
        *(f"--config={config}", f"--net_depth={args.net_depth}", f"--batch_size={args.batch_size}"),
        *(f"--{name}_path={folder / name}" for name in ("summary", "ckpt", "saved_model", "log_file")),
    ]
    begin = time.perf_counter()
    times, lines = {name: [] for name in LINES}, []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            lines.append(line)
            if LINES["net"].match(line):
                times["until net"] = time.perf_counter() - begin
            for name, pattern in LINES.items():
                times[name] += map(float, pattern.findall(line))
            if LINES["first step"].match(line):
                process.terminate()
    if process.returncode != 128 + signal.SIGTERM:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{''.join(lines[-20:])}")
    return times


if __name__ == "__main__":
    main()
