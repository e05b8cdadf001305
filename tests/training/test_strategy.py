import pytest

from training.distribution import describe_strategy, make_strategy
from training.options import parse_centre_options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            [],
            "global batch 64 = 1 device(s) x 64 images; batch norm over the global batch; --lr_values",
        ),
        ([], "--lr_steps x 8 (512 per batch)"),
        (["--accumulate=4"], "1 device(s) x 4 parts x 16 images; batch norm over a part of the global batch"),
        (["--schedule=cosine", "--lr=0.1", "--max_steps=9"], "--lr x 0.125 (it is for a batch of 512)"),
    ],
)
def test_log_line_says_how_the_batch_is_divided(given, expected):
    assert expected in describe_strategy(make_strategy(), parse_centre_options(given))


def test_log_line_describes_two_devices(two_replicas):
    line = describe_strategy(two_replicas, parse_centre_options(["--batch_size=512"]))
    assert "2 device(s) x 256 images; batch norm over each device's share" in line
    assert "--lr_steps x 1 (512 per batch)" in line
    synchronised = parse_centre_options(["--batch_size=512", "--sync_bn"])
    assert "batch norm over the global batch" in describe_strategy(two_replicas, synchronised)
