import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from nets.importers.model_files import ModelDescription, describe_model, find_model, model_sha256
from nets.importers.onnx_graph import open_graph
from tests.nets.written_models import (
    flip_bit,
    write_checkpoint,
    write_onnx,
    write_saved_model,
    write_tf1_checkpoint,
)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class TestOneFile:
    @pytest.mark.parametrize("name", ["net.keras", "net.pth", "net.pt"])
    def test_digest_is_that_of_sha256sum_and_ignores_the_name(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"weights")
        assert find_model(str(tmp_path / name)) == tmp_path / name
        assert model_sha256(str(tmp_path / name)) == sha256(b"weights")
        (tmp_path / name).write_bytes(b"weightz")
        assert model_sha256(tmp_path / name) == sha256(b"weightz")

    def test_a_missing_model_is_an_error(self, tmp_path):
        for function in (find_model, model_sha256):
            with pytest.raises(FileNotFoundError, match=r"gone\.keras"):
                function(tmp_path / "gone.keras")


class TestOnnx:
    WEIGHTS = np.arange(6000, dtype=np.float32).reshape(60, 100)

    def test_the_digest_of_one_file_is_its_own(self, tmp_path):
        path = write_onnx(tmp_path / "a", self.WEIGHTS)
        assert model_sha256(path) == sha256(path.read_bytes())

    def test_the_digest_covers_tensors_in_another_file(self, tmp_path):
        options = {"save_as_external_data": True, "location": "net.bin", "size_threshold": 0}
        path = write_onnx(tmp_path / "a", self.WEIGHTS, **options)
        expected = model_sha256(path)
        assert expected != sha256(path.read_bytes())
        assert model_sha256(shutil.copytree(path.parent, tmp_path / "b") / "net.onnx") == expected
        other = write_onnx(tmp_path / "c", self.WEIGHTS + 1, **options)
        assert other.read_bytes() == path.read_bytes()
        assert model_sha256(other) != expected
        path.write_bytes(
            path.read_bytes() + helper.make_model(helper.make_graph([], "", [], [])).SerializeToString()
        )
        assert model_sha256(path) != expected
        (path.parent / "net.bin").unlink()
        with pytest.raises(FileNotFoundError, match=r"net\.bin"):
            model_sha256(path)

    @pytest.mark.parametrize(
        "name", ["/dev/zero", "../secret", "pipe", "link", "folder", "", "a/../../secret"]
    )
    def test_files_that_do_not_belong_to_the_model_are_refused(self, tmp_path, name):
        path = write_onnx(tmp_path / "a", self.WEIGHTS)
        (tmp_path / "secret").write_bytes(bytes(self.WEIGHTS.nbytes))
        os.mkfifo(path.with_name("pipe"))
        path.with_name("link").symlink_to("../secret")
        path.with_name("folder").mkdir()
        model = onnx.load(path)
        tensor = model.graph.initializer[0]
        external_data_helper.set_external_data(tensor, name)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        path.write_bytes(model.SerializeToString())
        for read in (model_sha256, open_graph):
            with pytest.raises(ValueError, match=r"net\.onnx: expected tensors in"):
                read(path)

    def test_many_tensors_in_the_same_bytes_are_refused(self, tmp_path):
        path = write_onnx(tmp_path / "a", self.WEIGHTS)
        path.with_name("bytes").write_bytes(bytes(10**6))
        model = onnx.load(path)
        tensors = [numpy_helper.from_array(np.zeros(1, np.float32), str(number)) for number in range(2000)]
        for tensor in tensors:
            external_data_helper.set_external_data(tensor, "bytes", 0, 10**6)
            tensor.ClearField("raw_data")
            tensor.dims[:] = [250_000]
        model.graph.initializer.extend(tensors)
        path.write_bytes(model.SerializeToString())
        for read in (model_sha256, open_graph):
            with pytest.raises(ValueError, match="at most 1000000 bytes in bytes, received 2000000000"):
                read(path)

    def test_a_damaged_file_is_refused(self, tmp_path):
        (tmp_path / "net.onnx").write_bytes(b"no such thing")
        with pytest.raises(ValueError, match=r"net\.onnx"):
            model_sha256(tmp_path / "net.onnx")


def test_onnx_is_optional(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"net\.onnx: .*pip install onnx"):
        model_sha256(tmp_path / "net.onnx")


class TestFolders:
    def test_the_digest_covers_the_files_of_a_saved_model(self, tmp_path):
        path = write_saved_model(tmp_path / "a")
        assert find_model(path) == path
        digests = {model_sha256(path)}
        assert model_sha256(shutil.copytree(path, tmp_path / "b")) in digests
        files = sorted(file for file in path.rglob("*") if file.is_file())
        assert len(files) == 4
        for file in files:
            flip_bit(file)
            digests.add(model_sha256(path))
        files[0].rename(path / "net.txt")
        digests.add(model_sha256(path))
        assert len(digests) == 6

    def test_order_of_listing_does_not_matter(self, tmp_path, monkeypatch):
        path, rglob = write_saved_model(tmp_path / "a"), Path.rglob
        digests = set()
        for reverse in (False, True):
            monkeypatch.setattr(Path, "rglob", lambda *a, r=reverse: sorted(rglob(*a), reverse=r))
            digests.add(model_sha256(path))
        assert len(digests) == 1

    def test_the_digest_depends_on_where_each_file_ends(self, tmp_path):
        digests = set()
        for number, (first, second) in enumerate([(b"ab", b"c"), (b"a", b"bc"), (b"c", b"ab")]):
            path = write_saved_model(tmp_path / str(number))
            (path / "x").write_bytes(first)
            (path / "y").write_bytes(second)
            digests.add(model_sha256(path))
        assert len(digests) == 3

    def test_the_digest_covers_the_files_of_a_tensorflow_1_checkpoint(self, tmp_path):
        prefix = write_tf1_checkpoint(tmp_path / "a")
        digests = {model_sha256(prefix)}
        for path in (tmp_path / "a", *(prefix.with_name(prefix.name + end) for end in (".index", ".meta"))):
            assert find_model(path) == prefix
            assert model_sha256(path) in digests
        for name in ("iter_9.ckpt.meta", "iter_99.ckpt.index"):  # which are not read
            flip_bit(prefix.with_name(name))
            assert model_sha256(prefix) in digests
        for name in ("iter_9.ckpt.index", "iter_9.ckpt.data-00000-of-00001"):
            flip_bit(prefix.with_name(name))
            digests.add(model_sha256(prefix))
        assert len(digests) == 3
        for file in sorted(prefix.parent.glob("iter_9.*")):
            file.rename(file.with_name(file.name.replace("iter_9.", "best.")))
        assert model_sha256(prefix.with_name("best.ckpt")) in digests

    def test_the_digest_covers_the_files_of_a_training_checkpoint(self, tmp_path):
        path = write_checkpoint(tmp_path / "run" / "step_00000003", b"weights")
        assert find_model(path) == path
        assert model_sha256(path) == sha256((path / "checkpoint.json").read_bytes())
        other = write_checkpoint(tmp_path / "run" / "step_00000004", b"other weights")
        assert model_sha256(other) != model_sha256(path)

    def test_the_newest_whole_checkpoint_of_a_run_is_found(self, tmp_path, caplog):
        old = write_checkpoint(tmp_path / "step_00000003", b"old")
        new = write_checkpoint(tmp_path / "step_00000012", b"new")
        assert find_model(tmp_path) == new
        assert model_sha256(tmp_path) == model_sha256(new)
        flip_bit(new / "state.data-00000-of-00001")  # The loaders also use the checkpoint before it.
        assert find_model(tmp_path) == old
        assert model_sha256(tmp_path) == model_sha256(old)
        assert "skipping a damaged checkpoint" in caplog.text
        flip_bit(old / "state.index")
        with pytest.raises(ValueError, match="none can be read"):
            model_sha256(tmp_path)

    @pytest.mark.parametrize(
        "changes",
        [
            {"sha256": []},
            {"sha256": {"../secret": ""}},
            {"sha256": {"/dev/zero": ""}},
            {"net": {}},
            {"net": []},
            {"net": {"depth": 32}},
            {"step": "3"},
            {"recipe": [1]},
            {"version": [1]},
        ],
    )
    def test_a_checkpoint_with_other_values_is_skipped(self, tmp_path, changes, caplog):
        old = write_checkpoint(tmp_path / "step_00000003", b"old")
        new = write_checkpoint(tmp_path / "step_00000012", b"new")
        path = new / "checkpoint.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        assert find_model(tmp_path) == old
        assert f"skipping a damaged checkpoint: {path}" in caplog.text

    @pytest.mark.parametrize("text", ["[" * 100_000, " " * 2**21])
    def test_a_manifest_that_is_too_large_is_skipped(self, tmp_path, text):
        old = write_checkpoint(tmp_path / "step_00000003", b"old")
        (write_checkpoint(tmp_path / "step_00000012", b"new") / "checkpoint.json").write_text(text)
        assert find_model(tmp_path) == old

    def test_a_folder_without_a_model_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_bytes(b"")
        with pytest.raises(ValueError, match="expected a SavedModel, a training checkpoint"):
            model_sha256(tmp_path)


def test_imports_neither_tensorflow_nor_onnx():
    program = (
        "import sys, nets.importers.model_files\n"
        "sys.exit(bool({'tensorflow', 'keras', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0


class TestDescription:
    def described(self, path, *made):
        for file in made:
            os.utime(file, (0, 24 * 3600 * 365))
        return describe_model(find_model(path))

    def test_a_checkpoint_is_described_by_net_and_step(self, tmp_path):
        step = write_checkpoint(tmp_path / "ckpt" / "step_00000003", b"weights")
        described = self.described(tmp_path / "ckpt", step / "checkpoint.json")
        assert described == ModelDescription("ir32, step 3", "ir32", 3, "1971-01-01")

    def test_the_digest_covers_the_files_of_a_saved_model(self, tmp_path):
        path = write_saved_model(tmp_path / "iter_258000_lfw_0.99133")
        (path / "net.json").write_text('{"architecture": "ir50"}')
        described = self.described(path, path / "saved_model.pb")
        assert described == ModelDescription("iter_258000_lfw_0.99133", "ir50", 258_000, "1971-01-01")
        (path / "model_card.json").write_text('{"step": 77}')
        assert describe_model(path).steps == 77
        (path / "net.json").write_text("{}")
        with pytest.raises(ValueError, match=r"net\.json"):
            describe_model(path)

    def test_other_models_are_described_by_their_file_name(self, tmp_path):
        prefix = write_tf1_checkpoint(tmp_path / "tf1")
        described = self.described(prefix.parent, f"{prefix}.index")
        assert described == ModelDescription("iter_9.ckpt", None, 9, "1971-01-01")
        (tmp_path / "face.pth").write_bytes(b"weights")
        described = self.described(tmp_path / "face.pth", tmp_path / "face.pth")
        assert described == ModelDescription("face.pth", None, None, "1971-01-01")
