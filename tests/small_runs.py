"""Makes small data sets, and the flags and results of training runs on them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from nets.importers.training_checkpoint import newest_checkpoint
from tests.dataset.samples import make_images, write_rec

ROOT = Path(__file__).parents[1]
PAIRS = ROOT / "tests" / "golden" / "pairs" / "pairs_py3.bin"


@pytest.fixture
def data(tmp_path):
    """A folder with two sources and a config."""
    return make_data(tmp_path)


def make_data(folder):
    """Writes two sources and a config."""
    images = make_images()
    write_rec(folder / "vgg", images)
    write_rec(folder / "ms1m", images[:30])
    (folder / "config.ini").write_text(
        "[records]\ntfrecords = ./tfrecords\n"
        "[vgg]\nmxrec = ./vgg\n"
        "[ms1m]\nmxrec = ./ms1m\n"
        f"[lfw]\nenable = true\nnpdata = {PAIRS}\n"
    )
    return folder


def flags(data, **given):
    """Returns the command line of a run of 4 steps. A run in another process needs another `backbone`."""
    values = {
        "config": data / "config.ini",
        "backbone": "ir8",
        "batch_size": 4,
        "max_steps": 4,
        "show_info_interval": 1,
        "save_interval": 2,
        "output": data,
        **given,
    }
    return ["--image_size", "16", "16", *(f"--{name}={value}" for name, value in values.items())]


def log(data):
    """Returns the text of the log files of all runs."""
    return "\n".join(path.read_text() for path in sorted((data / "logs").iterdir()))


def state(folder):
    """Returns every variable of the newest checkpoint, by its name in the file."""
    reader = tf.train.load_checkpoint(str(newest_checkpoint(folder)[0] / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    assert len(names) > 100
    return {name: reader.get_tensor(name) for name in names}


def are_equal(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
