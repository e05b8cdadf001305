import contextlib
import functools
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from losses.angular_centre import AngularCentreLoss
from nets.backbone import Backbone
from nets.importers.training_checkpoint import load_backbone_of_checkpoint, newest_checkpoint, read_checkpoint
from tests.full_disk import no_file_larger_than
from tests.training.small_trainer import NET, batch, make_checkpoints, make_trainer, weights
from training.checkpoints import Checkpoints
from training.distribution import make_strategy


@pytest.fixture
def trained(tmp_path):
    """A trainer with checkpoints of its steps 1 and 2."""
    trainer = make_trainer(make_strategy())
    checkpoints = make_checkpoints(tmp_path / "ckpt", trainer)
    for _ in range(2):
        trainer.train_step(*batch(trainer.step, 8))
        checkpoints.save(trainer.step, best={"lfw": 0.9})
    return trainer, checkpoints


def test_resumed_run_equals_the_unbroken_run_bit_for_bit(trained):
    unbroken, checkpoints = trained
    resumed = make_trainer(make_strategy())
    manifest = make_checkpoints(checkpoints.folder, resumed).restore()
    assert (manifest["step"], resumed.step, manifest["best"]) == (2, 2, {"lfw": 0.9})
    for trainer in (unbroken, resumed):
        trainer.train_step(*batch(2, 8))
    for one, two in zip(weights(unbroken), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, two)


def test_dropout_resumes_its_sequence(tmp_path):
    masks = []
    for resume in (False, True):
        backbone = Backbone("ir8", image_size=(16, 16), seed=1)
        state = tf.train.Checkpoint(backbone=backbone)
        checkpoints = Checkpoints(tmp_path, state, backbone.net, 1, "triplet")
        images = batch(0, 4)[0]
        if resume:
            checkpoints.restore()
        else:
            backbone(images, training=True)
            checkpoints.save(1)
        masks.append(backbone(images, training=True).numpy())
    np.testing.assert_array_equal(*masks)


def test_two_replicas_resume_from_one_device(trained, two_replicas):
    one, checkpoints = trained
    two = make_trainer(two_replicas)
    make_checkpoints(checkpoints.folder, two).restore()
    for a, b in zip(weights(one), weights(two), strict=True):
        np.testing.assert_array_equal(a, b)
    # The other way round: checkpoints store the mean of the replicas' statistics.
    two.train_step(*batch(5, 8))
    make_checkpoints(checkpoints.folder, two).save(two.step)
    make_checkpoints(checkpoints.folder, one).restore()
    for a, b in zip(weights(one), weights(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.fixture(scope="module")
def resnet_checkpoints(tmp_path_factory):
    """A net of NET, and checkpoints of its steps 1 and 2."""
    folder = tmp_path_factory.mktemp("resnet")
    backbone = Backbone(**NET)
    checkpoints = Checkpoints(folder, tf.train.Checkpoint(backbone=backbone), NET, 6, "triplet")
    for step in (1, 2):
        backbone(batch(step, 4)[0], training=True)  # moves the statistics
        checkpoints.save(step)
    return backbone, folder


def test_a_checkpoint_gives_its_backbone(resnet_checkpoints):
    backbone, folder = resnet_checkpoints
    images = batch(0, 4)[0]
    expected = backbone(images, training=False)
    for path in (folder, folder / "step_00000002"):
        np.testing.assert_array_equal(load_backbone_of_checkpoint(path)(images, training=False), expected)
    older = load_backbone_of_checkpoint(folder / "step_00000001")(images, training=False)
    assert (older != expected).numpy().any()


def test_the_newest_checkpoints_are_kept(trained):
    _trainer, checkpoints = trained
    for step in (3, 4):
        checkpoints.save(step)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        f"step_0000000{n}" for n in (2, 3, 4)
    ]


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["state.data-00000-of-00001", "state.index", "checkpoint.json"])
def test_a_damaged_checkpoint_is_skipped(trained, name, caplog):
    _, checkpoints = trained
    newest = checkpoints.folder / "step_00000002"
    if name == "checkpoint.json":
        (newest / name).write_text((newest / name).read_text()[:40])
    else:
        damage(newest / name)
    resumed = make_trainer(make_strategy())
    assert make_checkpoints(checkpoints.folder, resumed).restore()["step"] == resumed.step == 1
    assert name in caplog.text
    # Resuming replaces it.
    resumed.train_step(*batch(1, 8))
    make_checkpoints(checkpoints.folder, resumed).save(2)
    assert newest_checkpoint(checkpoints.folder)[1]["step"] == 2


def test_unreadable_checkpoints_are_an_error(trained):
    _trainer, checkpoints = trained
    for folder in checkpoints.folder.iterdir():
        damage(folder / "state.index")
    with pytest.raises(ValueError, match=r"state\.index"):
        checkpoints.restore()
    shutil.rmtree(checkpoints.folder)
    assert checkpoints.restore() is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"net": {**NET, "architecture": "ir50"}},
            "this run needs net = .*'architecture': 'ir50'.*the checkpoint has .*'architecture': 'ir8'",
        ),
        ({"num_identities": 7}, "this run needs num_identities = 7, the checkpoint has 6"),
        ({"teacher": "a"}, "this run needs teacher = a, the checkpoint has None"),
        ({"loss": "triplet"}, "this run needs loss = triplet, the checkpoint has angular_centre"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(trained, other, message):
    trainer, checkpoints = trained
    before = weights(trainer)
    with pytest.raises(ValueError, match=message):
        make_checkpoints(checkpoints.folder, trainer, **other).restore()
    for one, two in zip(before, weights(trainer), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_checkpoint_of_a_run_with_a_teacher_is_refused(trained):
    trainer, checkpoints = trained
    make_checkpoints(checkpoints.folder, trainer, teacher="a").save(3)
    with pytest.raises(ValueError, match="this run needs teacher = None, the checkpoint has a"):
        checkpoints.restore()


def test_allow_changes_restores_the_same_variables(trained):
    """It restores another net if the variables have the same names and shapes."""
    trainer, checkpoints = trained
    other = {"loss": "arcface", "net": {**NET, "keep_prob": 0.9}}
    changed = make_checkpoints(checkpoints.folder, trainer, allow_changes=True, **other)
    assert changed.restore()["step"] == 2
    with pytest.raises(ValueError, match="recipe"):
        make_checkpoints(checkpoints.folder, trainer, allow_changes=True, recipe={"ema": True}).restore()
    taught = make_checkpoints(checkpoints.folder, trainer, allow_changes=True, teacher="a")
    assert taught.restore()["step"] == 2
    larger = make_trainer(make_strategy(), make_head=lambda: AngularCentreLoss(7))
    with pytest.raises(ValueError, match=r"num_identities = 7, the checkpoint has 6; the variables differ"):
        make_checkpoints(checkpoints.folder, larger, allow_changes=True, num_identities=7).restore()


@pytest.mark.parametrize(
    "other", [{"architecture": "se_ir32"}, {"architecture": "ir50"}, {"embedding_size": 64}]
)
def test_weights_that_contradict_the_manifest_are_refused(resnet_checkpoints, tmp_path, other):
    folder = shutil.copytree(resnet_checkpoints[1] / "step_00000002", tmp_path / "step_00000002")
    manifest = json.loads((folder / "checkpoint.json").read_text())
    manifest["net"] |= other
    (folder / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"step_00000002.*{next(iter(other))}"):
        load_backbone_of_checkpoint(folder)


def test_a_failed_save_keeps_older_checkpoints(trained, monkeypatch):
    _trainer, checkpoints = trained

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(checkpoints.state, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save(3)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00000001", "step_00000002"]


@pytest.mark.parametrize("num_bytes", [0, 200, 4096])
def test_a_full_disk_keeps_older_checkpoints(trained, num_bytes):
    _, checkpoints = trained
    before = {file: file.read_bytes() for file in checkpoints.folder.glob("*/*")}
    with (
        no_file_larger_than(num_bytes),
        pytest.raises(OSError, match=r"cannot write the checkpoint|too large"),
    ):
        checkpoints.save(3)
    if num_bytes < 500:  # Only the scores are written, because the step exists.
        with no_file_larger_than(num_bytes), pytest.raises(OSError, match="too large"):
            checkpoints.save(2, best={"lfw": 0.95})
    assert {file: file.read_bytes() for file in checkpoints.folder.glob("*/*")} == before
    assert step_names(checkpoints) == [1, 2]
    checkpoints.save(3)
    assert read_checkpoint(checkpoints.folder / "step_00000003")["step"] == 3


def test_leftovers_of_a_kill_are_removed(trained):
    _, checkpoints = trained
    (checkpoints.folder / ".step_00000003.tmp").mkdir()
    (checkpoints.folder / ".step_00000003.tmp" / "state.index").write_bytes(b"half")
    assert checkpoints.restore()["step"] == 2
    assert len(list(checkpoints.folder.iterdir())) == 2


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_backbone_of_checkpoint(tmp_path)
    (tmp_path / "step_00000001").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint\.json"):
        read_checkpoint(tmp_path / "step_00000001")


def test_own_checkpoints_win_over_the_start_model(trained, tmp_path):
    trainer, checkpoints = trained
    other = make_checkpoints(tmp_path / "other", trainer)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        other.restore(tmp_path / "nowhere")
    assert other.restore(checkpoints.folder / "step_00000001")["step"] == trainer.step == 1
    for step in (2, 3):
        trainer.train_step(*batch(step, 8))
    other.save(3)
    assert other.restore(checkpoints.folder / "step_00000001")["step"] == trainer.step == 3


def test_restores_an_older_checkpoint_that_workers_agreed_on(trained):
    trainer, checkpoints = trained
    older = checkpoints.folder / "step_00000001"
    assert checkpoints.restore(own=older)["step"] == trainer.step == checkpoints.saved_step == 1


def test_damaged_later_checkpoints_do_not_count(trained):
    _, checkpoints = trained
    for step in (7, 8, 9):
        damage(checkpoints.save(step) / "state.index")
    checkpoints.save(1)
    assert checkpoints.restore()["step"] == 1
    checkpoints.save(3)
    assert checkpoints.restore()["step"] == 3


def test_reads_the_first_format_without_architecture_and_loss(resnet_checkpoints, tmp_path):
    backbone, folder = resnet_checkpoints
    folder = shutil.copytree(folder / "step_00000002", tmp_path / "step_00000002")
    manifest = json.loads((folder / "checkpoint.json").read_text())
    del manifest["loss"]
    manifest["net"] = {"depth": 8, "unit_type": "ir", "image_size": [16, 16], "keep_prob": 1.0, "seed": 0}
    (folder / "checkpoint.json").write_text(json.dumps(manifest))
    read = read_checkpoint(folder)
    assert read["net"] == {**backbone.net, "embedding_size": 512}
    assert read["loss"] == "angular_centre"


def step_names(checkpoints):
    return sorted(int(path.name.removeprefix("step_")) for path in checkpoints.folder.iterdir())


def test_the_best_checkpoints_are_kept(trained):
    _, checkpoints = trained
    best = {"lfw": 1}
    for step in range(3, 8):
        best = {"lfw": 1, "ytf": 4} if step > 3 else best
        checkpoints.save(step, best_steps=best)
    assert step_names(checkpoints) == [1, 4, 5, 6, 7]
    # One best checkpoint per validator is kept. Earlier best ones are removed.
    checkpoints.save(8, best_steps={"lfw": 8, "ytf": 4})
    assert step_names(checkpoints) == [4, 6, 7, 8]
    assert newest_checkpoint(checkpoints.folder)[1]["best_steps"] == {"lfw": 8, "ytf": 4}


def test_saving_a_step_again_writes_only_the_scores(trained, monkeypatch):
    trainer, checkpoints = trained

    def refused(*_):
        raise AssertionError("the weights were written again")

    monkeypatch.setattr(checkpoints.state, "write", refused)
    folder = checkpoints.save(2, best={"lfw": 0.95})
    assert read_checkpoint(folder)["best"] == {"lfw": 0.95}
    assert len(list(folder.iterdir())) == 3
    resumed = make_checkpoints(checkpoints.folder, make_trainer(make_strategy()))
    assert resumed.saved_step is None
    assert resumed.restore()["step"] == resumed.saved_step == 2
    monkeypatch.setattr(resumed.state, "write", refused)
    resumed.save(2, best={"lfw": 0.97})
    assert read_checkpoint(folder)["best"] == {"lfw": 0.97}
    # A checkpoint of another run is written with its weights.
    other = make_checkpoints(checkpoints.folder.parent / "other", trainer)
    other.restore(checkpoints.folder)
    assert other.saved_step is None
    monkeypatch.undo()
    assert read_checkpoint(other.save(2))["step"] == 2


def test_only_exact_names_are_checkpoints(trained):
    """Copies that a user keeps are never removed, and never count as the newest."""
    _, checkpoints = trained
    folder = checkpoints.folder
    copies = [
        "step_00000001_keep",
        "step_00000009_old",
        "step_9",
        "step_000000009",
        "step_backup",
        ".step_mine",
    ]
    for name in copies:
        shutil.copytree(folder / "step_00000001", folder / name)
    assert checkpoints.restore()["step"] == 2
    for step in range(3, 9):
        checkpoints.save(step)
    own = [f"step_0000000{step}" for step in (6, 7, 8)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*own, *copies])
    assert newest_checkpoint(folder)[0].name == own[-1]
    assert newest_checkpoint(folder / copies[0])[1]["step"] == 1  # It is used when it is named.


def test_steps_may_have_nine_digits(trained):
    _, checkpoints = trained
    for step in (99_999_999, 100_000_000, 100_000_001):
        checkpoints.save(step)
    assert step_names(checkpoints) == [99_999_999, 100_000_000, 100_000_001]
    assert newest_checkpoint(checkpoints.folder)[1]["step"] == 100_000_001


@pytest.mark.parametrize("after", ["write", "scores"])
def test_kill_while_writing_or_removing_leaves_complete_checkpoints(trained, monkeypatch, after):
    """A kill can come before any system call. Every folder with a final name is complete."""
    _, checkpoints = trained

    class Killed(BaseException):
        pass

    def save(step):
        checkpoints.save(step) if after == "write" else checkpoints.save(2, best={"lfw": step})

    for name in ("os.fsync", "os.rename", "os.replace", "shutil.rmtree", "os.unlink"):
        for nth in range(4):
            calls = []

            def killed(*given, real, calls=calls, nth=nth, **named):
                calls.append(1)
                # Code that cleans up after an exception does not run after a kill.
                if len(calls) > nth:
                    raise Killed
                return real(*given, **named)

            module, function = name.split(".")
            real = getattr({"os": os, "shutil": shutil}[module], function)
            with monkeypatch.context() as patch:
                patch.setattr(name, functools.partial(killed, real=real))
                with contextlib.suppress(Killed):
                    save(3 + nth)
            for folder in checkpoints.folder.glob("step_*"):
                read_checkpoint(folder)
            assert checkpoints.restore()["step"] >= 2
            assert not list(checkpoints.folder.glob(".*"))
