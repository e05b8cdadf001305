"""Tests `train_centre` with sampled or sharded centres, and their benchmark."""

import pytest

import train_centre
from benchmarks import many_identities
from tests.small_runs import data, flags, log, state
from training import centre_head
from training.options import parse_centre_options

__all__ = ["data"]  # the fixture


@pytest.mark.long
def test_train_centre_samples_centres(data):
    assert train_centre.main(flags(data, sample_rate=0.7, max_steps=2)) == 0
    assert "6 centres need" in log(data) and "velocities 12.3 kB" in log(data)
    assert state(data / "ckpt")["head/centres/.ATTRIBUTES/VARIABLE_VALUE"].shape == (512, 6)


@pytest.mark.long
def test_train_centre_shards_centres(data, two_replicas):
    options = parse_centre_options([*flags(data, max_steps=2), "--shard_centres"])
    assert train_centre.train(options, two_replicas) == 0
    assert state(data / "ckpt")["head/centres/.ATTRIBUTES/VARIABLE_VALUE"].shape == (512, 6)


def test_shards_need_several_devices(data, caplog):
    assert train_centre.main([*flags(data), "--shard_centres"]) == 1
    assert "--shard_centres: expected several devices of one process, received 1 of 1" in caplog.text
    assert not (data / "tfrecords").exists()


def test_centres_that_do_not_fit_are_an_error(data, caplog, monkeypatch):
    monkeypatch.setattr(centre_head, "device_memory", lambda *_: 70_000)
    assert train_centre.main(flags(data)) == 1
    assert "6 centres need" in caplog.text and "but 70 kB are free" in caplog.text
    assert "--sample_rate 0.5 would fit" in caplog.text


def test_the_benchmark_prints_a_row_for_each_setting(capsys):
    many_identities.main(["--identities", "2000", "--settings", "sampled 0.1", "--steps", "3"])
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.count("|") == row.count("|")
    identities, setting, stored, *_, step = row.strip("| ").split(" | ")
    assert (identities, setting, stored) == ("2,000", "sampled 0.1", "8")  # 2 * 4 * 512 * 2,000 bytes
    assert float(step) > 0
