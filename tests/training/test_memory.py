"""Compares the memory of the centres with numbers computed by hand."""

import pytest
import tensorflow as tf

from training.memory import CentreMemory, centre_memory, device_memory, host_memory, require_memory


def test_memory_of_all_centres_is_computed():
    # 1,000 x 512 floats are 2,048,000 bytes; 64 x 1,000 logits are 256,000.
    memory = centre_memory(1000, 512, 64)
    assert memory == CentreMemory(centres=2_048_000, sampled=2_048_000, logits=256_000)
    assert memory.copies == 4 * 2_048_000 - 512_000
    assert memory.total == 6 * 2_048_000


def test_many_logits_decide_the_memory():
    # 2,000 x 1,000 logits are 8,000,000 bytes. 5 of them and 3 copies of the centres exceed 4 copies of the
    # centres.
    memory = centre_memory(1000, 512, 2000)
    assert memory.logits == 8_000_000
    assert memory.total == 2 * 2_048_000 + 3 * 2_048_000 + 5 * 8_000_000


def test_memory_of_sampled_centres_is_computed():
    # A tenth of the logits. Reading a checkpoint takes more than a step.
    memory = centre_memory(1000, 512, 64, sample_rate=0.1)
    assert memory == CentreMemory(2_048_000, 204_800, 25_600)
    assert memory.copies == 3 * 2_048_000 - 51_200
    # Here a step takes more: 4 times 0.9 of the centres.
    assert centre_memory(1000, 512, 64, sample_rate=0.9).total == 2 * 2_048_000 + 4 * 1_843_200


def test_memory_of_sharded_centres_is_computed():
    # 334 of 1,000 centres are 684,032 bytes. Their logits with all 3 x 64 images are 256,512 bytes.
    memory = centre_memory(1000, 512, 64, num_shards=3)
    assert memory == CentreMemory(684_032, 684_032, 256_512)
    assert memory.copies == 3 * 684_032 + 5 * 256_512 - 513_024
    with pytest.raises(ValueError, match=r"--batch_size"):
        require_memory(1000, 512, 64, 1.0, memory.total - 1, num_shards=3)


def test_sample_size_equals_that_of_the_loss():
    # In floating point 0.1 * 30 is a little above 3.
    assert centre_memory(30, 512, 64, sample_rate=0.1).logits == 4 * 64 * 3


def test_memory_is_printed_with_units():
    printed = str(centre_memory(1_000_000, 512, 64))
    assert printed == "12.3 GB (centres 2.05 GB, velocities 2.05 GB, logits 512 MB, copies 7.68 GB)"


def test_centres_that_do_not_fit_are_an_error():
    memory = centre_memory(1000, 512, 64)
    assert require_memory(1000, 512, 64, 1.0, memory.total) == memory
    assert require_memory(1000, 512, 64, 1.0, None) == memory
    with pytest.raises(ValueError, match=r"^1000 .*12\.3 MB .* 12\.3 MB "):
        require_memory(1000, 512, 64, 1.0, memory.total - 1)
    with pytest.raises(ValueError, match=r"--sample_rate 0\.5 "):
        require_memory(1000, 512, 64, 1.0, 5 * 2_048_000)
    with pytest.raises(ValueError, match="No --sample_rate"):  # Reading a checkpoint needs more.
        require_memory(1000, 512, 64, 1.0, 5 * 2_048_000 - 1)
    with pytest.raises(ValueError, match="No --sample_rate"):
        require_memory(1000, 512, 64, 0.1, 4 * 2_048_000)


def write_system(folder, available_kb, limit=None, used=None):
    (folder / "proc").mkdir()
    (folder / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {available_kb} kB\n")
    if limit is not None:
        group = folder / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        *((None, None, 102_400), ("max", 5000, 102_400), (50_000, 20_000, 30_000)),
        *((500_000, 0, 102_400), (50_000, 60_000, 0)),
    ],
)
def test_free_memory_is_read_on_linux(tmp_path, limit, used, expected):
    write_system(tmp_path, 100, limit, used)
    assert host_memory(tmp_path) == expected


def test_free_memory_is_unknown_on_other_systems(tmp_path):
    assert host_memory(tmp_path) is None


def test_devices_share_the_memory_of_their_host(two_replicas):
    one, two = device_memory(tf.distribute.get_strategy()), device_memory(two_replicas)
    assert 0.8 * one / 2 < two < 1.25 * one / 2
