import json
import shlex
import socket
import sys

import pytest

from dataset.records.manifest import Manifest
from training.options import parse_centre_options
from training.run_record import check_changes, describe_sources, read_starts, recorded


def test_every_start_is_recorded(tmp_path):
    sources = {"vgg": {"manifest_sha256": "1"}}
    with recorded(tmp_path, parse_centre_options(["--margin=0.4"]), sources, first_step=0) as entry:
        (running,) = read_starts(tmp_path)  # as after a kill
        entry["exit_code"] = 0
    with pytest.raises(KeyboardInterrupt), recorded(tmp_path, parse_centre_options([]), {}):
        raise KeyboardInterrupt
    first, second = read_starts(tmp_path)
    assert running["end"] is None and first["start"] <= first["end"] <= second["start"]
    assert (first["exit_code"], second["error"]) == (0, "KeyboardInterrupt: ")
    assert (first["host"], first["sources"], first["first_step"]) == (socket.gethostname(), sources, 0)
    assert {"python", "tensorflow", "keras", "numpy"} == first["versions"].keys()
    assert first["options"]["margin"] == 0.4 and first["options"]["source"] == ["vgg", "ms1m"]
    assert first["command"] == shlex.join(sys.orig_argv)
    assert first["git_commit"] is None or len(first["git_commit"].removesuffix("-dirty")) == 40


def test_each_changed_flag_is_logged(tmp_path, caplog):
    with recorded(tmp_path, parse_centre_options(["--margin=0.4", "--precision=mixed_bfloat16"]), {}):
        pass
    now = parse_centre_options(["--lr_values", "1", "0.5", "--lr_steps", "9", "--check", "--init_from=a"])
    check_changes(now, read_starts(tmp_path)[-1:], {})
    changes = [message.removeprefix("changed since the last start: ") for message in caplog.messages]
    assert sorted(changes) == [
        "--lr_steps 40000 60000 80000 -> 9",
        "--lr_values 0.001 0.0005 0.0003 0.0001 -> 1.0 0.5",
        "--margin 0.4 -> (not given)",
        "--precision mixed_bfloat16 -> float32",
    ]
    check_changes(now, [], {"vgg": {}})
    assert len(caplog.messages) == 4


def write_source(folder, num_images):
    folder.mkdir(exist_ok=True)
    numbers = {
        "num_identities": 2,
        "num_images": num_images,
        "seed": 0,
        "num_bad": 0,
        "num_label_mismatches": 0,
    }
    texts = dict.fromkeys(("colour", "verify", "fingerprint", "index_sha256"), "")
    manifest = Manifest(folder, "vgg", image_size=(112, 112), shards=(), **numbers, **texts)
    manifest.write()
    return describe_sources([manifest])


def test_changed_data_needs_allow_changes(tmp_path, caplog):
    options = parse_centre_options([])
    with recorded(tmp_path, options, write_source(tmp_path / "vgg", 3)):
        pass
    previous = read_starts(tmp_path)[-1:]
    check_changes(options, previous, write_source(tmp_path / "vgg", 3))
    assert not caplog.messages
    changed = write_source(tmp_path / "vgg", 4)
    with pytest.raises(ValueError, match=r"vgg .*--allow_changes"):
        check_changes(options, previous, changed)
    check_changes(parse_centre_options(["--allow_changes"]), previous, changed)
    assert "the data of source vgg" in caplog.messages[-1]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"starts": [{}]}', '{"starts": 3}', '{"starts": [{"options": {}, "sources": 3}]}']
)
def test_a_damaged_record_does_not_stop_a_run(tmp_path, text, caplog):
    assert read_starts(tmp_path) == []
    (tmp_path / "run.json").write_text(text)
    assert read_starts(tmp_path) == [] and "run.json" in caplog.text
    with recorded(tmp_path, parse_centre_options([]), {}):
        pass
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1
