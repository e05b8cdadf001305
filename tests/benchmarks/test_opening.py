import json

import numpy as np

from benchmarks.made_up_sets import write_converted, write_rec
from benchmarks.opening import WAYS, main
from dataset.config import SourceConfig
from dataset.records.manifest import read_manifest
from dataset.sources.insightface_rec import InsightFaceRec, fingerprint


def test_every_part_opens_the_made_up_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.made_up_sets._IMAGES_PER_SHARD", 300)
    rec = write_rec(tmp_path / "rec", 1000, 7)
    write_converted(tmp_path / "faces", 1000, 143, fingerprint(SourceConfig("faces", "mxrec", rec)))
    manifest = read_manifest(tmp_path / "faces")
    assert len(manifest.shards) == 4 and manifest.num_images == 1000
    assert np.unique(manifest.open_index()["label"]).tolist() == list(range(143))
    assert InsightFaceRec(rec).num_identities == 143
    monkeypatch.setattr("dataset.convert.sources.Conversion", None)  # The conversion is up to date.
    for name in WAYS:
        main(["--one", name, "--folder", str(tmp_path)])
    numbers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(numbers) == len(WAYS) and all(seconds > 0 for seconds, _ in numbers)
