import numpy as np

from benchmarks.intra_identity import main, own_centre_cosines
from export.saved_model import export_saved_model
from nets.backbone import Backbone
from tests.small_runs import make_data


def test_own_centres_are_mean_directions():
    # Embeddings have different lengths, labels have gaps, and two identities have a single image.
    embeddings = np.array([[2.0, 0.0], [0.0, 5.0], [0.0, 1.0], [-3.0, 3.0]])
    cosines, identity_means = own_centre_cosines(embeddings, np.array([7, 2, 7, 4]))
    np.testing.assert_allclose(cosines, [np.sqrt(0.5), 1, np.sqrt(0.5), 1])
    np.testing.assert_allclose(identity_means, [1, 1, np.sqrt(0.5)])


def test_each_model_has_a_row(tmp_path, capsys):
    folder = make_data(tmp_path)
    export_saved_model(Backbone("ir8", (32, 32)), tmp_path / "model")
    model = str(tmp_path / "model")
    main([model, model, "--config", str(folder / "config.ini"), "--batch_size", "16"])
    heading, line, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("| model | LFW accuracy") and set(line) == set("|-")
    assert len(rows) == 2 and rows[0] == rows[1]
    assert rows[0].count("|") == heading.count("|") and rows[0].startswith(f"| {model} | ")
