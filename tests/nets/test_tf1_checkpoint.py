"""Tests that checkpoints of the original with the golden weights give the golden embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest

from nets.backbone import load_backbone
from nets.importers.tf1_weights import checkpoint_prefix, identify_net, load_tf1_checkpoint
from nets.tf1_checkpoint import main
from nets.variants import VARIANTS
from tests.golden.weight_rule import golden_weight
from tests.nets.tf1_writer import write_tf1_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "nets"
NETS = {
    "ir32_112x96": ("ir32", [112, 96]),
    "se_ir32_112x112": ("se_ir32", [112, 112]),
    "ir50_112x96": ("ir50", [112, 96]),
    "variables_gn_ir50": ("gn_ir50", [112, 112]),
    "variables_wide_ir50": ("wide_ir50", [112, 112]),
    "variables_ir100_112x112": ("ir100", [112, 112]),
    "variables_ir152_112x96": ("ir152", [112, 96]),
    "variables_se_ir50_112x112": ("se_ir50", [112, 112]),
}


def shapes_of(name):
    return {
        variable: tuple(shape) for variable, shape, _ in json.loads((GOLDEN / f"{name}.json").read_text())
    }


@pytest.mark.parametrize("name", NETS)
def test_names_and_shapes_tell_the_net(name):
    architecture, image_size = NETS[name]
    assert architecture in VARIANTS
    received = identify_net(shapes_of(name) | {"global_step": (), "arcface_loss/embedding_weights": (512, 9)})
    assert (received["architecture"], list(received["image_size"])) == (architecture, image_size)
    assert received["embedding_size"] == 512


@pytest.fixture(scope="module")
def ir32(tmp_path_factory):
    return write_tf1_checkpoint(
        GOLDEN / "ir32_112x96.json", tmp_path_factory.mktemp("tf1") / "iter_9_lfw.ckpt"
    )


@pytest.mark.parametrize("name", ["ir32_112x96", "se_ir32_112x112", "ir50_112x96"])
def test_embeddings_equal_those_of_the_original(name, tmp_path):
    prefix = write_tf1_checkpoint(GOLDEN / f"{name}.json", tmp_path / "model.ckpt")
    imported = load_tf1_checkpoint(prefix)
    golden = np.load(GOLDEN / f"{name}.npz")
    images = (golden["images"].astype(np.float32) - 127.5) / 128
    received = imported.backbone(images, training=False).numpy()
    expected = golden["embedding_inference"]
    assert np.abs(received - expected).max() < 1e-5 * np.abs(expected).max()
    net = imported.backbone.net
    assert (net["architecture"], net["image_size"], net["keep_prob"]) == (*NETS[name], 0.4)
    num_variables = len(shapes_of(name))
    assert imported.num_mapped == num_variables
    assert imported.ignored["others"] == ["global_step"]
    assert all(slot.endswith("/Momentum") for slot in imported.ignored["optimizer slots"])
    np.testing.assert_array_equal(imported.centres, golden_weight("arc_loss/embedding_weights", (512, 10)))


def test_program_writes_a_keras_file_and_a_summary(ir32, tmp_path, capsys):
    out = tmp_path / "new" / "model.keras"
    main([str(ir32), str(out)])
    printed = capsys.readouterr().out
    assert "net: ir32, images of (112, 96), embeddings of 512" in printed
    assert f"mapped: {len(shapes_of('ir32_112x96'))} variables, none missing" in printed
    assert "centres: 10 identities" in printed
    assert "ignored optimizer slots: 156 (resnet_v1_32/E_BN1/beta/Momentum, " in printed
    assert "ignored others: 1 (global_step)" in printed
    for one, two in zip(load_backbone(out).weights, load_backbone(ir32).weights, strict=True):
        np.testing.assert_array_equal(one, two)
    assert [path.name for path in out.parent.iterdir()] == ["model.keras"]


def test_a_checkpoint_is_found_by_each_of_its_names(ir32):
    for name in ("", ".index", ".meta", ".data-00000-of-00001"):
        assert checkpoint_prefix(f"{ir32}{name}") == ir32
    assert checkpoint_prefix(ir32.parent) == ir32  # by its `checkpoint` file
    assert checkpoint_prefix(ir32.with_name("other.ckpt")) is None


def error_of(path):
    with pytest.raises((ValueError, OSError)) as raised:
        load_backbone(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_an_incomplete_checkpoint_is_refused(ir32, tmp_path):
    copies = {}
    for file in ir32.parent.glob("iter_9*"):
        copies[file.suffix] = tmp_path / file.name
        copies[file.suffix].write_bytes(file.read_bytes())
    prefix = tmp_path / ir32.name
    data = copies[".data-00000-of-00001"]
    whole = data.read_bytes()

    data.write_bytes(whole[: len(whole) // 2])
    assert "the checkpoint is incomplete or damaged" in error_of(prefix)
    name = "resnet_v1_32/E_DenseLayer/W"
    changed = bytearray(whole)
    changed[whole.index(golden_weight(name, shapes_of("ir32_112x96")[name]).tobytes()) + 4000] ^= 1
    data.write_bytes(bytes(changed))
    assert "the checkpoint is incomplete or damaged" in error_of(prefix)
    data.unlink()
    assert "the checkpoint is incomplete or damaged" in error_of(prefix)
    copies[".index"].unlink()
    assert "no such model, and no TensorFlow 1 checkpoint" in error_of(prefix)


def test_missing_variables_are_named(tmp_path):
    names = [
        f"resnet_v1_32/block3/unit_6/bottleneck_v1/conv2_bn/BatchNorm/{leaf}" for leaf in ("beta", "gamma")
    ]
    prefix = write_tf1_checkpoint(GOLDEN / "ir32_112x96.json", tmp_path / "model.ckpt", leave_out=names)
    assert f"missing: {names[0]}, {names[1]}" in error_of(prefix)


def test_a_checkpoint_of_another_net_is_refused(tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps([["conv1/weights", [3, 3, 3, 8], True]]))
    prefix = write_tf1_checkpoint(other, tmp_path / "other.ckpt")
    assert "expected variables below one resnet_v1_DEPTH/" in error_of(prefix)
    prefix = write_tf1_checkpoint(
        GOLDEN / "ir32_112x96.json",
        tmp_path / "shape.ckpt",
        change={"resnet_v1_32/prelu0/alphas": np.zeros(32, np.float32)},
    )
    assert "resnet_v1_32/prelu0/alphas: expected shape (64,), received (32,)" in error_of(prefix)


def test_program_reports_an_error_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"nets.tf1_checkpoint: .*nothing: "):
        main([str(tmp_path / "nothing"), str(tmp_path / "model.keras")])
    assert not (tmp_path / "model.keras").exists()


def test_program_refuses_other_suffixes(ir32, tmp_path):
    with pytest.raises(SystemExit, match=r"model\.h5"):
        main([str(ir32), str(tmp_path / "model.h5")])
