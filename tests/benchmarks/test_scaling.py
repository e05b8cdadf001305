import pytest

from benchmarks.scaling import (
    HEADS,
    LINK,
    NETWORK,
    PARAMETERS,
    PUBLISHED,
    THEIR_HEADS,
    all_reduce,
    checks,
    gpu_memory,
    main,
    step,
)

DENSE, SAMPLED, SHARDED = HEADS


def test_an_all_reduce_is_bound_by_the_slowest_link():
    assert all_reduce(1e9, 1) == 0
    assert all_reduce(1e9, 2) == pytest.approx(1e9 / LINK)
    assert all_reduce(1e9, 8) == pytest.approx(1.75e9 / LINK)
    assert all_reduce(1e9, 16) == pytest.approx(1.875e9 / NETWORK)


def test_only_gradients_of_unsharded_centres_are_exchanged():
    centres = 4 * 512 * 1_000_000
    nets = 4 * PARAMETERS
    for head, share in ((DENSE, 1.0), (SAMPLED, 0.1), (SHARDED, 0.0)):
        assert step(1_000_000, head, 8, 128).exchange == pytest.approx(all_reduce(nets + share * centres, 8))


def test_a_sharded_head_multiplies_the_global_batch_with_its_part_of_the_centres():
    # A shard does as many multiplications as a dense head, but reads fewer centres.
    dense, sharded = (step(1_000_000, head, 8, 128).head for head in (DENSE, SHARDED))
    assert 0.5 * dense < sharded < dense
    assert gpu_memory(1_000_000, SHARDED, 8, 128) < 0.6 * gpu_memory(1_000_000, DENSE, 8, 128)


def test_computed_speeds_are_near_the_published_ones():
    rows = {int(row[0].replace(",", "")): row[1:] for row in checks()}
    for num_identities, published in PUBLISHED.items():
        computed = rows[num_identities][0::2]
        assert len(computed) == len(THEIR_HEADS)
        for text, speed in zip(computed, published, strict=True):
            if speed is None:
                assert text == ""
                continue
            ratio = float(text.replace(",", "")) / speed
            # The computed speeds are optimistic, more so with more centres.
            assert 0.98 < ratio < (1.03 if num_identities < 200_000 else 1.8)


def test_tables_have_a_row_for_every_setting(capsys):
    main(["--epochs", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("| MS1M", "| WebFace")) for line in lines) == 2 * 3 * 3
    assert sum("one machine only" in line for line in lines) == 2
    widths = [line.count("|") for line in lines if line.startswith("| ")]
    assert set(widths) == {4, 11, 8}
