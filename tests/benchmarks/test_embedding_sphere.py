import re

import numpy as np

from benchmarks.embedding_sphere import draw, identity_centres


def test_centres_are_mean_directions():
    directions = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1]])
    np.testing.assert_allclose(
        identity_centres(directions, np.array([4, 4, 9])), [[0.5**0.5, 0.5**0.5, 0], [0, 0, -1]]
    )


def test_points_lie_on_the_spheres():
    directions = np.random.default_rng(0).normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    picture = draw([(directions, np.arange(40) % 8), (directions, np.arange(40) % 8)])
    points = re.findall(r'cx="(.*?)" cy="(.*?)" r="3" fill="(.*?)" fill-opacity="(.*?)"', picture)
    assert len(points) == 80 and len({colour for _, _, colour, _ in points}) == 8
    places = np.array([(float(x), float(y)) for x, y, _, _ in points])
    for half, x in ((places[:40], 180), (places[40:], 540)):
        lengths = np.hypot(half[:, 0] - x, half[:, 1] - 160)
        assert 100 < lengths.max() < 150.1
    # A sphere has as many points in front as behind, about.
    assert 20 < [opacity for *_, opacity in points].count("0.85") < 60
