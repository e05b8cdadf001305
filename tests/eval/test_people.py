from collections import Counter

import numpy as np

from eval.scoring.people import identity_of, name_images, spread_over_people
from tests.eval.fake_run import make_run


def test_the_identity_is_the_name_without_its_last_part():
    assert [identity_of(name) for name in ("Ana/0", "a/b/1", "alone")] == ["Ana", "a/b", "alone"]


def test_at_most_two_pairs_of_a_person_are_kept():
    first = np.array(["A/0", "A/1", "B/0", "A/2", "B/1", "C/0"])
    second = np.array(["A/9", "B/9", "C/9", "D/9", "B/8", "C/8"])
    # The fourth would be the third of A, and the fifth the third of B.
    assert list(spread_over_people(range(6), first, second, 9)) == [0, 1, 2, 5]
    assert list(spread_over_people([5, 2, 1, 0], first, second, 2)) == [5, 2]


def test_linked_images_get_the_same_person():
    """Genuine pairs and an equal picture link images 0, 1, 4 and 5. Images 3 and 6 are equal."""
    digests = [letter * 9 for letter in ("d", "b", "f", "e", "b", "a", "e", "c")]
    names = name_images(digests, np.array([True, False, True, False]))
    assert names.tolist() == [
        ["person aaaaaaaa/image 0", "person aaaaaaaa/image 1"],
        ["person ffffffff/image 2", "person eeeeeeee/image 3"],
        ["person aaaaaaaa/image 4", "person aaaaaaaa/image 5"],
        ["person eeeeeeee/image 6", "person cccccccc/image 7"],
    ]


def test_hardest_pairs_of_a_run(tmp_path):
    run = make_run(tmp_path, num_people=5, pairs_per_fold=8)
    for entries in (run.scores.hardest.genuine, run.scores.hardest.impostor):
        names = [
            {identity_of(side[entry.pair]) for side in (run.pairs.first, run.pairs.second)}
            for entry in entries
        ]
        times = Counter(person for people in names for person in people)
        assert max(times.values()) == 2
