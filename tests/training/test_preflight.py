"""Tests the checks before a run starts."""

import itertools
import math
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import train_centre
import train_triplet
from nets.importers.training_checkpoint import newest_checkpoint
from nets.resnet_ir import resnet_ir
from nets.variants import STAGES
from tests.small_runs import data, flags, log
from tests.training.sharded_trainer import make_trainer as make_sharded_trainer
from tests.training.small_trainer import batch, make_trainer
from training import memory as needs
from training import preflight as speed_check
from training.distribution import make_strategy
from training.preflight import check_labels, check_precision, measure_speed, write_batch_picture

__all__ = ["data"]  # the fixture


@pytest.mark.parametrize(
    ("num", "width", "group", "columns", "rows"),
    [(10, 96, 1, 8, 2), (3, 96, 1, 3, 1), (12, 48, 3, 6, 2), (70, 100, 4, 8, 8), (9, 96, 9, 8, 2)],
)
def test_the_picture_holds_every_pixel(tmp_path, num, width, group, columns, rows):
    pixels = np.random.default_rng(0).integers(0, 256, (num, 40, width, 3), np.uint8)
    images = (pixels.astype(np.float32) - 127.5) / 128.0
    path = tmp_path / "new" / "first_batch.png"
    write_batch_picture(path, images, [f"vgg {i}" for i in range(num)], group)
    # OpenCV writes and reads BGR, as the net gets it.
    picture = cv2.imread(str(path))
    factor = math.ceil(96 / width)
    cell = 40 * factor + 18, width * factor + 2
    assert picture.shape == (rows * cell[0], columns * cell[1], 3)
    for number in range(min(num, 64)):
        top, left = number // columns * cell[0], number % columns * cell[1]
        drawn = picture[top : top + 40 * factor, left : left + width * factor]
        np.testing.assert_array_equal(drawn[::factor, ::factor], pixels[number])
        label = picture[top + 40 * factor : top + 40 * factor + 16, left : left + width * factor]
        assert label.min() < 100 and label.max() == 255


@pytest.mark.parametrize("identity", [-1, 6])
def test_labels_out_of_range_are_an_error(identity):
    check_labels(np.array([0, 5]), 6)
    with pytest.raises(ValueError, match=rf"image 1 .*\[0, 6\), received {identity}"):
        check_labels(np.array([0, identity]), 6)


def test_planned_models_are_counted():
    for first, last, interval in itertools.product(range(8), range(1, 9), range(1, 5)):
        if first < last:
            steps = range(first + 1, last + 1)
            expected = {step for step in steps if step % interval == 0} | {last}
            assert needs.num_exports(first, last, interval) == len(expected)


def test_memory_of_a_small_net_is_computed():
    trainer = make_trainer(make_strategy())
    received = needs.step_memory(trainer, batch_size=8)
    conv, norm, dense, last = 27 * 8, 4 * 8, 7 * 7 * 8 * 32 + 32, 4 * 32
    assert sum(v.numpy().size for v in trainer.backbone.variables) == conv + norm + 8 + dense + last
    centres = 6 * 32
    trained = conv + 2 * 8 + 8 + dense + 32 + centres
    assert received["weights"] == 4 * (conv + norm + 8 + dense + last + centres)
    assert received["gradients"] == 4 * trained
    assert received["optimizer"] == sum(v.numpy().nbytes for v in trainer.optimizer.variables) > 4 * trained
    assert received["batch"] == batch(0, 8)[0].numpy().nbytes
    # The inputs of norm, PReLU, dense layer and last norm.
    assert received["activations"] == 8 * 4 * (3 * 7 * 7 * 8 + 32)
    assert received["logits"] == 3 * 4 * 8 * 6


def test_activations_of_a_real_net_are_computed():
    """The expected number adds up, unit by unit, what convolutions, norms and PReLUs read."""
    net = resnet_ir(32, image_size=(112, 96))
    stem = 112 * 96 * 64
    floats = 2 * stem  # into bn0 and prelu0
    height, width, filters_in = 112, 96, 64
    for filters, num_units in STAGES[32]:
        for unit in range(num_units):
            large = height * width
            floats += large * filters_in * 2  # the unit's input, and the first convolution's
            floats += large * filters * 2  # into second norm and PReLU
            if unit == 0:
                height, width = height // 2, width // 2
                floats += (2 * height + 2) * (2 * width + 2) * filters  # padded, into the second convolution
                # The output of the shortcut: the pool keeps it, or the norm after a convolution reads it.
                floats += height * width * filters
            else:
                floats += large * filters
            floats += height * width * filters  # into the last norm
            filters_in = filters
    floats += height * width * filters * 2 + 512  # into E_BN1, the dense layer, E_BN2
    mask = height * width * filters  # of the dropout
    assert needs.activation_bytes(net) == 4 * floats + mask


@pytest.mark.parametrize(
    ("processor", "precision", "num_warnings"),
    [
        ("flags\t\t: fpu avx avx2\n", "mixed_bfloat16", 1),
        ("flags\t\t: fpu avx avx2\n", "mixed_float16", 1),
        ("flags\t\t: fpu avx avx2\n", "float32", 0),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", "mixed_bfloat16", 0),
        ("Features\t: fp asimd bf16\n", "mixed_bfloat16", 0),  # ARM
        (None, "mixed_bfloat16", 0),  # not Linux
    ],
)
def test_a_precision_that_the_processor_lacks_is_a_warning(
    tmp_path, monkeypatch, caplog, processor, precision, num_warnings
):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(speed_check, "_PROCESSOR", path)
    if processor is not None:
        path.write_text(f"processor\t: 0\n{processor}bugs\t\t: none\n")
    check_precision(precision)
    assert caplog.text.count(f"--precision {precision} is slower") == num_warnings


def test_memory_of_sampled_and_sharded_centres_is_computed(two_replicas):
    def needed(strategy, **arguments):
        return needs.step_memory(make_sharded_trainer(strategy, **arguments), batch_size=4)

    dense = needed(two_replicas)
    sampled = needed(two_replicas, sample_rate=0.5)
    sharded = needed(two_replicas, sharded=True)
    centres = 4 * 5 * 7  # dim times identities
    assert sampled["weights"] == dense["weights"] and sampled["optimizer"] == dense["optimizer"]
    assert sampled["gradients"] == dense["gradients"] - centres + 4 * 5 * 4  # 4 of 7
    assert sampled["logits"] == 3 * 4 * 4 * 4
    # Each of two devices has 4 of 7 centres, a scalar that stands for them, and logits of the whole batch.
    for name in ("weights", "gradients", "optimizer"):
        assert sharded[name] == dense[name] - centres + 4 * 5 * 4 + 4
    assert sharded["logits"] == 3 * 4 * 8 * 4


def test_too_little_disk_space_is_an_error(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(needs, "shutil", SimpleNamespace(disk_usage=lambda folder: usage(1_000_000)))
    parts = [(tmp_path / "a" / "b", 600_000, "4 checkpoints"), (tmp_path / "c", 400_000, "2 SavedModels")]
    (line,) = needs.check_disk(parts)
    assert line == f"disk: 4 checkpoints and 2 SavedModels need 1 MB, 1 MB free at {tmp_path}"
    parts[1] = (tmp_path / "c", 400_001, "2 SavedModels")
    with pytest.raises(ValueError, match=f"^{tmp_path}: 4 checkpoints and 2 SavedModels need 1 MB"):
        needs.check_disk(parts)


def test_speeds_leave_out_the_first_call(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed_check, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def batches():
        for seconds in itertools.chain([50], itertools.repeat(0.5)):
            now[0] += seconds
            yield None

    # The first batch fills buffers, and the first step traces a graph.
    assert speed_check.input_speed(batches(), 8, seconds=2) == pytest.approx(16)
    durations = itertools.chain([50], itertools.repeat(0.25))

    def train_step(images, identities):
        now[0] += next(durations)
        return {"total": 1.0}

    assert speed_check.step_speed(train_step, (None, None), 8, seconds=2) == pytest.approx(32)


@pytest.mark.parametrize(
    ("input_rate", "step_rate", "shared", "expected"),
    [
        (100, 400, False, "the input starves the device, which will wait 75% of the time"),
        (100, 90, False, "the input only just keeps up"),
        (1000, 100, False, "the input is 10.0 times as fast as the device"),
        (300, 100, True, "the input needs 25% of its time"),
    ],
)
def test_a_sentence_compares_the_speeds(input_rate, step_rate, shared, expected):
    assert expected in speed_check.verdict(input_rate, step_rate, shared)


@pytest.mark.parametrize("program", [train_centre, train_triplet])
def test_check_trains_nothing(data, program, monkeypatch):
    monkeypatch.setattr(measure_speed, "__defaults__", (0.01,))
    of_triplets = ["--sample_per_class=2", "--source=vgg", "--from_scratch"]
    given = ["--check", *(of_triplets if program is train_triplet else [])]
    processor = data / "cpuinfo"
    processor.write_text("flags\t\t: fpu avx avx2\n")
    monkeypatch.setattr(speed_check, "_PROCESSOR", processor)
    assert program.main([*flags(data, precision="mixed_bfloat16"), *given]) == 0
    text = log(data)
    for words in (
        "data: vgg: 60 images of 4 identities, 112x112, in 1 shard(s)",
        "the net gets BGR of 16x16, mirrored at random",
        "--precision mixed_bfloat16 is slower than float32 here",
        "memory: at least",
        "disk: 4 more checkpoint(s) of",
        "first batch: 4 images of",
        "speed: the input gives",
        "Check passed. Nothing was trained.",
    ):
        assert words in text
    assert cv2.imread(str(data / "summary" / "first_batch.png")) is not None
    assert not (data / "ckpt").exists() and not (data / "models").exists()


def test_full_disk_is_found_before_the_first_step(data, monkeypatch, caplog):
    usage = namedtuple("usage", "free")
    # Only in this module, because the converter also checks the disk.
    monkeypatch.setattr(needs, "shutil", SimpleNamespace(disk_usage=lambda folder: usage(3_000_000)))
    assert train_centre.main(flags(data)) == 1
    assert "4 more checkpoint(s) of 3.11 MB and 1 more SavedModel(s)" in caplog.text
    assert "3 MB free at" in caplog.text
    assert not (data / "ckpt").exists()


def test_check_refuses_a_checkpoint_of_another_loss(data, capsys):
    assert train_centre.main(flags(data, max_steps=1)) == 0
    before = newest_checkpoint(data / "ckpt")[0].stat().st_mtime_ns
    with pytest.raises(SystemExit):
        train_centre.main([*flags(data, loss="arcface"), "--check"])
    assert "--loss is arcface, but the run in" in capsys.readouterr().err
    assert sorted(path.name for path in Path(data / "ckpt").iterdir()) == ["run.json", "step_00000001"]
    assert newest_checkpoint(data / "ckpt")[0].stat().st_mtime_ns == before
