import json

import pytest

from eval.embedding.model_card import ModelCard, card_path, write_card
from export.card import card_of_source, describe_run
from tests.eval.made_calibration import calibration
from tests.nets.written_models import write_checkpoint, write_saved_model

START = {
    "command": "python -m train_centre --ckpt_path /home/me/ckpt",
    "host": "my-computer",
    "options": {
        "config": "./config.ini",
        "ckpt_path": "/home/me/ckpt",
        "summary_path": "output/summary",
        "source": ["vgg"],
        "margin": 0.4,
        "scale": None,
        "xla": False,
        "optimizer": "sgd",
    },
    "versions": {"tensorflow": "2.21.0"},
    "git_commit": "bc38afe",
    "sources": {"vgg": {"num_images": 90, "num_identities": 6}},
    "start": "2026-11-27T21:33:28+00:00",
    "loss": "cosface",
}


def write_run(folder):
    folder.mkdir()
    record = {"version": 1, "starts": [{"options": {}}, START]}
    (folder / "run.json").write_text(json.dumps(record))
    checkpoint = write_checkpoint(folder / "step_00000003", b"weights")
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    manifest |= {
        "scores": {"lfw": 0.9},
        "intervals": {"lfw": [0.8, 1]},
        "scored_at": {"lfw": 2},
        "protocols": {"lfw": {"pairs": 10}},
    }
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))
    return checkpoint


RUN = {
    "start": START["start"],
    "loss": "cosface",
    "git_commit": "bc38afe",
    "versions": START["versions"],
    "sources": START["sources"],
    "options": {"source": ["vgg"], "margin": 0.4, "xla": False, "optimizer": "sgd"},
}


def test_the_card_of_a_checkpoint_has_scores_and_run_but_no_paths(tmp_path):
    checkpoint = write_run(tmp_path / "ckpt")
    expected = {
        "step": 3,
        "precision": "float32",
        "scores": {
            "lfw": {"accuracy": 0.9, "interval": [0.8, 1], "scored_at_step": 2, "protocol": {"pairs": 10}}
        },
        "run": RUN,
    }
    assert card_of_source(tmp_path / "ckpt") == expected
    # The checkpoint's own card adds thresholds and scores.
    measured = ModelCard({"scores": {"mine": {"accuracy": 0.7}}}).with_calibration(calibration())
    write_card(checkpoint, measured)
    scores = {"scores": {**expected["scores"], **measured["scores"]}}
    assert card_of_source(checkpoint) == {**expected, **measured, **scores}
    card_path(checkpoint).write_text("{")
    with pytest.raises(ValueError, match=r"step_00000003\.model_card\.json"):
        card_of_source(checkpoint)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"starts": []}', '{"starts": [{"options": 3}]}'])
def test_a_run_without_a_readable_record_has_no_description(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    assert describe_run(tmp_path) is None


def test_a_saved_model_passes_on_its_card_without_facts_about_the_file(tmp_path):
    model = write_saved_model(tmp_path / "a")
    assert card_of_source(model) == {}
    card = ModelCard({"step": 7, "run": RUN}).with_calibration(calibration())
    write_card(model, {**card, "signatures": {"serving_default": {}}, "pooling": "mean"})
    assert card_of_source(model) == card
