import dataclasses
import subprocess

import pytest

from benchmarks.gpu import (
    _HEADINGS,
    LoopClock,
    Setting,
    chosen,
    main,
    measure,
    parse_arguments,
    read_results,
    row,
    run_alone,
    scaling,
    settings,
    share_of_peak,
    write_results,
)
from benchmarks.made_up_sets import write_list
from tests.dataset.samples import make_images
from tests.training.small_trainer import SIZE, small_net

DONE = {
    **{"loop": 1500.0, "step": 2000.0, "input": 9000.0, "first_step": 61.0, "memory": 5.5e9},
    **{"card": "NVIDIA H100 80GB HBM3", "tensorflow": "2.21.0", "work": [4.945e12, 0.67e12]},
}


def test_a_row_measures_a_run_of_train_centre(tmp_path, monkeypatch, two_replicas):
    def tiny_backbone(architecture, image_size, **_):
        backbone = small_net()
        backbone.architecture, backbone.net = architecture, {"image_size": image_size}
        return backbone

    monkeypatch.setattr("training.session.Backbone", tiny_backbone)
    write_list(tmp_path, [image for image, _ in make_images()], 40)
    setting = Setting(identities=40, gpus=2, batch_size=4, image_size=SIZE, precision="float32", xla=False)
    result = measure(setting, tmp_path, seconds=0.01, strategy=two_replicas, interval=2)
    for name in ("loop", "step", "input", "first_step"):
        assert result[name] > 0
    net, head = result["work"]
    assert net == 6 * 4 * (7 * 7 * 8 * 3 * 3 * 3 + 392 * 32)  # a conv and a dense layer
    assert head == 6 * 4 * 32 * 40
    assert (result["card"], result["memory"]) == ("processor", None)


def test_the_loop_is_timed_between_log_lines():
    now = 0.0

    def batches():
        nonlocal now
        for number in range(100):
            now += 1000 if number == 0 else 0  # time to make the first batch
            yield number

    clock = LoopClock(interval=3, seconds=50, clock=lambda: now)
    taken = []
    with pytest.raises(Exception) as ended:
        for number in clock.time(batches()):
            taken.append(number)
            # The first step traces. Others are only queued, except where the loop logs and waits for them.
            now += 500 if number == 0 else 30 if number % 3 == 2 else 1
    assert not isinstance(ended.value, (ValueError, OSError))  # `train_centre` would handle these and save.
    assert clock.first_step == 500
    assert len(taken) == 9 and clock.steps_per_second == pytest.approx(6 / 64)


def test_rows_cover_precisions_nets_centres_and_numbers_of_gpus():
    rows = settings(6, parse_arguments([]))
    assert len(set(rows)) == len(rows)
    assert [(each.gpus, each.xla) for each in rows[:8]] == [
        (gpus, xla) for gpus in (1, 2, 4, 6) for xla in (False, True)
    ]
    for name, values in {
        "net": {"ir50", "ir100"},
        "precision": {"float32", "tf32", "bfloat16", "float16"},
        "identities": {94_000, 1_000_000},
        "head": {"dense", "sampled", "sharded"},
    }.items():
        assert {getattr(each, name) for each in rows} == values
    assert all(each.gpus == 6 for each in rows if each.head == "sharded")
    quick = settings(1, parse_arguments(["--quick", "--precision=float16"]))
    assert [each.name for each in quick] == [
        f"ir50 float16 {xla} 94000 dense 1gpu batch128 112x112" for xla in ("plain", "xla")
    ]
    assert {each.net for each in chosen(rows, ["ir100", "xla"])} == {"ir100"}
    assert chosen(rows, ["ir100", "xla"]) and not chosen(rows, ["ir10"])


def test_share_of_peak_and_scaling_equal_numbers_computed_by_hand():
    one, two = Setting(), Setting(gpus=2)
    # At the peak, the net takes 5 ms and the centres take 10 ms. The measured step takes 64 ms.
    assert share_of_peak(one, DONE) == pytest.approx(15 / 64, rel=1e-3)
    assert share_of_peak(Setting(precision="tf32"), DONE) == pytest.approx(20.01 / 64, rel=1e-3)
    for card in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "processor", "Tesla V100-SXM2-32GB"):
        assert share_of_peak(one, {**DONE, "card": card}) is None
    assert share_of_peak(Setting(precision="float32"), {**DONE, "card": "Tesla T4"}) > 1
    results = {one: DONE, two: {**DONE, "loop": 2400.0}}
    assert scaling(two, results) == pytest.approx(0.8) and scaling(one, results) is None


def test_rows_with_results_are_not_measured_again(tmp_path, monkeypatch, capsys):
    """Only failed rows are measured again."""
    first, second = settings(1, parse_arguments(["--quick"]))
    path = tmp_path / "gpu.jsonl"
    write_results(path, {first: DONE, second: {"failed": "out of memory"}})
    asked = []

    def alone(setting, args, data):
        asked.append(setting)
        return {**DONE, "loop": 1800.0}

    monkeypatch.setattr("benchmarks.gpu.count_gpus", lambda: 1)
    monkeypatch.setattr("benchmarks.gpu.data_folder", lambda *_: tmp_path)
    monkeypatch.setattr("benchmarks.gpu.run_alone", alone)
    assert main(["--quick", f"--out={path}"]) == 0
    assert asked == [second]
    assert read_results(path) == {first: DONE, second: {**DONE, "loop": 1800.0}}
    lines = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in lines} == {len(_HEADINGS) + 1}
    assert "| 1,800 | 2,000 | 9,000 | 0.90 | 5.5 | 0.23 |  | 61 | 585 |" in lines[-1]
    assert row(first, {first: {"failed": "out of memory"}}).count("|") == len(_HEADINGS) + 1
    monkeypatch.setattr("benchmarks.gpu.count_gpus", lambda: 0)
    assert main(["--quick", f"--out={path}"]) == 1


def test_a_failed_row_does_not_stop_the_others(tmp_path, monkeypatch):
    setting = dataclasses.replace(Setting(), gpus=2)
    args = parse_arguments([])
    seen = {}

    def run(command, env, **_):
        seen["gpus"] = env["CUDA_VISIBLE_DEVICES"]
        return subprocess.CompletedProcess(command, -9, "", "some\nline")

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert run_alone(setting, args, tmp_path) == {"failed": "exit code -9: line"}
    assert seen["gpus"] == "0,1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    run_alone(setting, args, tmp_path)
    assert seen["gpus"] == "3,5"

    def late(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("subprocess.run", late)
    assert "1800 s" in run_alone(setting, args, tmp_path)["failed"]
