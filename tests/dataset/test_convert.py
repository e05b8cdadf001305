import dataclasses
import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset.config import SourceConfig
from dataset.convert import sources
from dataset.convert.__main__ import main
from dataset.convert.conversion import BAD_RECORDS_NAME, LABEL_MISMATCHES_NAME, Conversion
from dataset.convert.options import ConvertOptions
from dataset.records.manifest import MANIFEST_NAME, read_manifest
from dataset.records.recordio import RecordReader
from dataset.records.tfrecord import TFRecordFile, decode_example
from dataset.sources.image_list import ImageList
from tests.dataset.samples import encode_example, encoded_image, make_images, write_rec, write_record

PROJECT = Path(__file__).parents[2]
OPTIONS = {"images_per_shard": 25, "workers": 1}


def convert(source, folder, **options):
    return sources.convert(source, folder, ConvertOptions(**options))


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture(scope="module")
def rec(images, tmp_path_factory):
    """A source of 60 valid images. Tests must not change it."""
    return SourceConfig("faces", "mxrec", write_rec(tmp_path_factory.mktemp("rec"), images))


@pytest.fixture(scope="module")
def converted(rec, tmp_path_factory):
    """The conversion of `rec`. Tests must not change it."""
    return convert(rec, tmp_path_factory.mktemp("converted"), **OPTIONS)


@pytest.fixture
def own_rec(rec, tmp_path):
    """A copy of the source that a test may damage."""
    return SourceConfig("faces", "mxrec", Path(shutil.copytree(rec.path, tmp_path / "rec")))


def read_all(manifest):
    """Reads `[(image, label), ...]` in the order of the shards, through the index."""
    index = iter(manifest.open_index().tolist())
    found = []
    for shard in manifest.shards:
        file = TFRecordFile(manifest.folder / shard.name)
        for _ in range(shard.num_images):
            offset, length, label = next(index)
            image, own_label = decode_example(file.read(offset, length))
            assert own_label == label
            found.append((image, label))
    assert next(index, None) is None
    return found


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_config(folder, *sources):
    path = folder / "config.ini"
    sections = "".join(f"[{source.name}]\nmxrec = {source.path}\n" for source in sources)
    path.write_text(f"[records]\ntfrecords = records\n{sections}")
    return str(path)


def list_of(images, folder):
    """Writes the images as files with a list."""
    folder.mkdir()
    for i, (image, _) in enumerate(images):
        (folder / f"{i}.jpg").write_bytes(image)
    (folder / "list.txt").write_text("".join(f"{i}.jpg {label}\n" for i, (_, label) in enumerate(images)))
    return SourceConfig("listed", "train_list", folder / "list.txt")


def test_images_are_unchanged(images, converted):
    assert converted == read_manifest(converted.folder)
    assert converted.num_images == 60 and converted.num_identities == 4 and converted.num_bad == 0
    assert converted.image_size == (112, 112)
    assert [shard.num_images for shard in converted.shards] == [20, 20, 20]
    assert [shard.name for shard in converted.shards][2] == "train-00002-of-00003.tfrecord"
    found = read_all(converted)
    assert sorted(found) == sorted(images)
    assert found != images
    assert set(files(converted.folder)) == {
        MANIFEST_NAME,
        "index.npy",
        *(shard.name for shard in converted.shards),
    }


def test_bytes_of_a_conversion_are_stable(tmp_path):
    """This lets a conversion that another version started be resumed."""
    source = SourceConfig("small", "mxrec", PROJECT / "tests/golden/rec/rec_small")
    manifest = convert(source, tmp_path, images_per_shard=12, workers=1)
    checksums = [*(shard.sha256[:16] for shard in manifest.shards), manifest.index_sha256[:16]]
    assert checksums == ["e72ae35cefdcce6e", "e515f731fd60e046", "2ff80fad2d22949a", "693a5573764bf206"]


def test_split_records_of_mxnet_are_unchanged(tmp_path):
    folder = PROJECT / "tests/golden/rec/rec_small"
    manifest = convert(SourceConfig("small", "mxrec", folder), tmp_path, **OPTIONS)
    found = [[label, len(image), hashlib.sha256(image).hexdigest()] for image, label in read_all(manifest)]
    expected = json.loads((folder / "expected.json").read_text())["images"]
    assert sorted(found) == sorted(image[1:] for image in expected)


@pytest.mark.tensorflow
def test_tensorflow_reads_the_shards(converted):
    import tensorflow as tf

    features = {
        "image_raw": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    paths = [str(converted.folder / shard.name) for shard in converted.shards]
    parsed = tf.data.TFRecordDataset(paths).map(lambda data: tf.io.parse_single_example(data, features))
    found = [(record["image_raw"], int(record["label"])) for record in parsed.as_numpy_iterator()]
    assert found == read_all(converted)


def test_bytes_depend_only_on_the_seed(rec, converted, tmp_path):
    again = convert(rec, tmp_path / "again", images_per_shard=25, workers=3)
    assert files(again.folder) == files(converted.folder)
    other = convert(rec, tmp_path / "other", seed=1, **OPTIONS)
    assert sorted(read_all(other)) == sorted(read_all(converted))
    assert read_all(other) != read_all(converted)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_resumed_conversion_equals_an_uninterrupted_one(images, tmp_path, kill, monkeypatch):
    source = SourceConfig(
        "faces", "mxrec", write_rec(tmp_path / "rec", images + [(i, 4) for i, _ in images * 19])
    )
    config = write_config(tmp_path, source)
    target = tmp_path / "records" / "faces"
    partial = target.with_name("faces.partial")
    command = [sys.executable, "-m", "dataset.convert", "--config", config, "--images_per_shard", "10"]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell ignores SIGINT in background processes, and children inherit that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while len(list(partial.glob("work/*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    if kill == signal.SIGKILL:
        process.kill()  # The workers must notice it on their own.
    else:
        os.killpg(process.pid, kill)
    _, stderr = process.communicate(timeout=20)
    with pytest.raises(ProcessLookupError):
        for _ in range(1000):
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    assert not target.exists()
    finished = set(partial.glob("work/*.npz"))
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command again" in stderr and "Traceback" not in stderr
        assert not list(partial.rglob("*.tmp"))

    # A kill at another moment leaves a temporary file, a shard without a report, or a report without a shard.
    (partial / "train-00050-of-00060.tfrecord.tmp").write_bytes(b"half a shard")
    (partial / "train-00059-of-00060.tfrecord").write_bytes(b"a shard")
    (partial / finished.pop().stem).unlink()
    times = {partial / path.stem: (partial / path.stem).stat().st_mtime_ns for path in finished}
    found = []
    disk_usage = shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: found.extend(partial.iterdir()) or disk_usage(path))
        resumed = convert(source, target.parent, images_per_shard=10, workers=1)
    # The other files were removed before they could count as used disk space.
    assert set(found) == {partial / "work", *times}
    assert all((target / path.name).stat().st_mtime_ns == time for path, time in times.items())
    unbroken = convert(source, tmp_path / "unbroken", images_per_shard=10, workers=2)
    assert files(resumed.folder) == files(unbroken.folder)
    assert not partial.exists()


def test_leftovers_of_other_options_are_not_used(rec, converted, tmp_path):
    work = tmp_path / "faces.partial" / "work"
    work.mkdir(parents=True)
    (work / "plan.json").write_text('{"version": 1, "seed": 3}')
    (work.parent / converted.shards[0].name).write_bytes(b"another shard")
    assert files(convert(rec, tmp_path, **OPTIONS).folder) == files(converted.folder)


def test_damaged_images_are_left_out_and_listed(images, tmp_path, caplog):
    damaged = list(images)
    jpeg = images[4][0]
    damaged[4] = jpeg[: len(jpeg) // 2], 0
    damaged[10] = encoded_image(10, 111, 112), 0
    damaged[22] = jpeg[:1000] + jpeg[1400:], 1  # It has its end marker, so only decoding shows the damage.
    source = SourceConfig("faces", "mxrec", write_rec(tmp_path / "rec", damaged))
    path = source.path / "train.rec"
    data = bytearray(path.read_bytes())
    reader = RecordReader(path)
    data[reader.offsets[31]] ^= 1  # the magic of image 30
    path.write_bytes(data)
    config = write_config(tmp_path, source)
    partial = tmp_path / "records" / "faces.partial"

    with pytest.raises(SystemExit) as caught:
        main(["--config", config, "--workers", "1"])
    message = str(caught.value.code)
    assert "expected at most 0 bad images of 60" in message and "received 4" in message
    assert "record 5: " in message and str(partial / BAD_RECORDS_NAME) in message
    assert not list(tmp_path.rglob(MANIFEST_NAME))
    listed = (partial / BAD_RECORDS_NAME).read_text()

    with caplog.at_level(logging.INFO):
        main(["--config", config, "--workers", "1", "--max_bad", "0.07"])
    assert "0 of 1 shards to write" in caplog.text and "4 bad" in caplog.text
    manifest = read_manifest(tmp_path / "records" / "faces")
    assert manifest.num_bad == 4 and manifest.num_images == 56
    bad = {4, 10, 22, 30}
    assert sorted(read_all(manifest)) == sorted(image for i, image in enumerate(images) if i not in bad)
    assert (manifest.folder / BAD_RECORDS_NAME).read_text() == listed
    reasons = [line.split("\t") for line in listed.splitlines()]
    assert [description for description, _ in reasons] == [f"{path} record {i + 1}" for i in sorted(bad)]
    assert "end marker" in reasons[0][1]
    assert "damaged data" in reasons[2][1]
    assert reasons[1][1] == "expected 112x112, received 111x112"
    assert "magic" in reasons[3][1]

    header = convert(source, tmp_path / "header", verify="header", max_bad=0.05, **OPTIONS)
    assert header.num_bad == 3 and header.verify == "header"


def test_image_size_is_that_of_the_first_sound_image(images, tmp_path):
    source = list_of([(b"no image", 0), (encoded_image(1, 64, 48), 0), images[0]], tmp_path / "list")
    manifest = convert(source, tmp_path, max_bad=0.7, **OPTIONS)
    assert manifest.image_size == (64, 48) and manifest.num_bad == 2
    with pytest.raises(ValueError, match=r"0\.jpg: "):
        convert(source, tmp_path / "strict", **OPTIONS)


def test_own_labels_that_differ_are_reported(images, tmp_path, caplog):
    own_labels = [label for _, label in images]
    own_labels[5] = 2
    own_labels[59] = 0.5
    source = SourceConfig("faces", "mxrec", write_rec(tmp_path / "rec", images, own_labels))
    manifest = convert(source, tmp_path, **OPTIONS)
    assert manifest.num_label_mismatches == 2 and manifest.num_bad == 0
    assert sorted(read_all(manifest)) == sorted(images)
    listed = (manifest.folder / LABEL_MISMATCHES_NAME).read_text().splitlines()
    assert [line.split("\t")[1] for line in listed] == [
        "expected its own label to be 0, received 2",
        "expected its own label to be 3, received 0.5",
    ]
    assert "2 images have a label of their own" in caplog.text


def test_a_full_disk_is_refused(rec, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match=r"faces\.partial: .* [kMG]B "):
        convert(rec, tmp_path, **OPTIONS)
    assert not list(tmp_path.rglob("*.tfrecord"))


def test_required_disk_space_is_slightly_more_than_used(rec, converted, tmp_path, monkeypatch):
    used = sum(map(len, files(converted.folder).values()))
    asked = []
    disk_usage = shutil.disk_usage(tmp_path)

    class Free(int):
        def __lt__(self, needed):
            asked.append(needed)
            return False

    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk_usage._replace(free=Free()))
    convert(rec, tmp_path, **OPTIONS)
    assert used < asked[0] < 1.2 * used


def test_an_image_list_is_converted(images, tmp_path):
    source = list_of(images, tmp_path / "list")
    manifest = convert(source, tmp_path, **OPTIONS)
    assert sorted(read_all(manifest)) == sorted(images)
    assert manifest.image_size == (112, 112) and manifest.num_identities == 4


def test_a_tfrecord_file_is_converted(images, tmp_path):
    with (tmp_path / "tran.tfrecords").open("wb") as file:
        for image, label in images:
            write_record(file, encode_example(image, label))
    manifest = convert(SourceConfig("old", "tfrecord", tmp_path / "tran.tfrecords"), tmp_path, **OPTIONS)
    assert sorted(read_all(manifest)) == sorted(images)


def test_an_up_to_date_conversion_is_left_alone(rec, converted, caplog, monkeypatch):
    monkeypatch.setattr(Conversion, "run", None)
    monkeypatch.setattr(
        "dataset.sources.insightface_rec.InsightFaceRec", None
    )  # The source is not even opened.
    before = files(converted.folder)
    with caplog.at_level(logging.INFO):
        assert convert(rec, converted.folder.parent) == converted
        assert convert(rec, converted.folder.parent, seed=5, verify="header", workers=1) == converted
    assert [record.message.count("is up to date (seed 0, verify full)") for record in caplog.records] == [
        1,
        1,
    ]
    assert files(converted.folder) == before


def test_leftovers_of_a_finished_run_are_removed(rec, converted, tmp_path):
    shutil.copytree(converted.folder, tmp_path / "faces")
    (tmp_path / "faces" / "work").mkdir()
    (tmp_path / f".faces.{1 << 30}.old").mkdir()
    convert(rec, tmp_path)
    assert not (tmp_path / "faces" / "work").exists() and not list(tmp_path.glob("*.old"))


def test_a_changed_source_replaces_its_conversion_once_complete(images, own_rec, converted, tmp_path):
    shutil.copytree(converted.folder, tmp_path / "faces")
    write_rec(own_rec.path, [*images[:-1], (b"no image", 3)])
    with pytest.raises(ValueError, match="--max_bad 0"):
        convert(own_rec, tmp_path, **OPTIONS)
    assert files(tmp_path / "faces") == files(converted.folder)
    changed = convert(own_rec, tmp_path, max_bad=0.1, **OPTIONS)
    assert sorted(read_all(changed)) == sorted(images[:-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".faces.lock", "faces", "rec"]


def test_a_target_that_is_a_link_stays_a_link(rec, converted, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "faces").symlink_to(tmp_path / "disk" / "big")
    for overwrite in (False, True):
        convert(rec, tmp_path / "records", overwrite=overwrite, **OPTIONS)
    assert (tmp_path / "records" / "faces").is_symlink()
    assert files(tmp_path / "disk") == {
        f"big/{name}": content for name, content in files(converted.folder).items()
    }


def test_overwrite_converts_again_and_a_lost_shard_is_replaced(own_rec, tmp_path, caplog):
    convert(own_rec, tmp_path, **OPTIONS)
    assert convert(own_rec, tmp_path, overwrite=True, seed=9, **OPTIONS).seed == 9
    (tmp_path / "faces" / "train-00001-of-00003.tfrecord").unlink()
    with caplog.at_level(logging.INFO):
        assert convert(own_rec, tmp_path, **OPTIONS).seed == 0
    assert "the existing conversion cannot be used" in caplog.text


def test_conversion_without_its_source_is_used(own_rec, tmp_path, converted, caplog):
    shutil.copytree(converted.folder, tmp_path / "faces")
    shutil.rmtree(own_rec.path)
    assert convert(own_rec, tmp_path) == dataclasses.replace(converted, folder=tmp_path / "faces")
    assert "using the existing conversion" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"\[faces\]: "):
        convert(own_rec, tmp_path / "elsewhere")


def test_foreign_files_are_not_replaced(rec, tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "thesis.txt").write_text("42")
    with pytest.raises(ValueError, match=str(tmp_path / "faces")):
        convert(rec, tmp_path, **OPTIONS)
    assert files(tmp_path / "faces") == {"thesis.txt": b"42"}


@pytest.mark.parametrize(
    "flag",
    ["--seed=-1", "--images_per_shard=0", "--workers=0", "--verify=no", "--max_bad=1.5", "--reader=no"],
)
def test_wrong_options_are_errors(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        main([flag])
    assert caught.value.code == 2 and flag.partition("=")[0] in capsys.readouterr().err


class FullDisk(ImageList):
    """Fails like a full disk when it is read."""

    def read(self, index):
        raise OSError(errno.ENOSPC, "No space left on device")


class DeadlyList(ImageList):
    """Kills the worker that reads it."""

    def read(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("kind", "message"), [(FullDisk, "no space left on disk"), (DeadlyList, "a worker process was killed")]
)
def test_a_failing_worker_is_an_error(images, tmp_path, kind, message):
    source = kind(list_of(images, tmp_path / "list").path)
    source.image_size = (112, 112)
    options = ConvertOptions(images_per_shard=20, workers=2, max_bad=0.0)
    conversion = Conversion("listed", source, "made up", tmp_path / "listed", options)
    with pytest.raises(OSError, match=message):
        conversion.run()
    assert not list(tmp_path.rglob("*.tfrecord")) and not (tmp_path / "listed").exists()


def test_only_one_of_two_processes_converts(rec, converted, tmp_path):
    command = [sys.executable, "-m", "dataset.convert", "--config", write_config(tmp_path, rec)]
    options = ["--images_per_shard", "25", "--workers", "1"]
    processes = [
        subprocess.Popen([*command, *options], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    output = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert sorted("is up to date" in text for text in output) == [False, True]
    assert files(tmp_path / "records" / "faces") == files(converted.folder)


def test_program_checks_what_is_converted(rec, converted, tmp_path, caplog):
    config = write_config(tmp_path, rec)
    shutil.copytree(converted.folder, tmp_path / "records" / "faces")
    with caplog.at_level(logging.INFO):
        main(["--config", config, "--check"])
    assert "all checksums are correct" in caplog.text
    path = tmp_path / "records" / "faces" / converted.shards[1].name
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(SystemExit, match=f"{path.name}: "):
        main(["--config", config, "--source", "faces", "--check"])


def test_program_names_what_is_missing(rec, tmp_path):
    missing = SourceConfig("nothing", "mxrec", tmp_path / "nowhere")
    config = write_config(tmp_path, rec, missing)
    with pytest.raises(SystemExit, match=r"config.ini, \[nothing\] mxrec: .*nowhere"):
        main(["--config", config])
    assert not (tmp_path / "records").exists()
    with pytest.raises(SystemExit, match=r"\[nobody\]"):
        main(["--config", config, "--source", "nobody"])


def test_conversion_does_not_import_tensorflow():
    code = "import sys, dataset.convert; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def test_a_source_that_changes_meanwhile_is_converted_again(own_rec, tmp_path, monkeypatch, caplog):
    finish = Conversion._finish

    def change_and_finish(*args):
        os.utime(own_rec.path / "train.rec", (1, 1))
        return finish(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Conversion, "_finish", change_and_finish)
        convert(own_rec, tmp_path, **OPTIONS)
    with caplog.at_level(logging.INFO):
        convert(own_rec, tmp_path, **OPTIONS)
    assert "its source has changed" in caplog.text
