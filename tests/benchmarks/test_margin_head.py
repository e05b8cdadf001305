"""Tests the references of the margin head benchmark."""

import numpy as np
import pytest

from benchmarks import margin_head


@pytest.mark.tensorflow
def test_both_references_compute_the_same_loss():
    embeddings = np.random.default_rng(0).standard_normal((3, margin_head.DIM), np.float32)
    plain, ordered = (
        margin_head.reference(20, embeddings, np.array([0, 19, 7], np.int32), ordered)()
        for ordered in (False, True)
    )
    assert plain == pytest.approx(ordered, rel=1e-5)
