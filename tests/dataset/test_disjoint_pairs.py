import collections

import numpy as np
import pytest

from dataset.pairs.disjoint_pairs import make_disjoint_pairs
from eval.scoring.verification import even_folds


def people(*sizes):
    return {
        f"p{number}": [f"p{number}/{i}" for i in range(size)] for number, size in enumerate(sizes, start=1)
    }


def person(item):
    return item.split("/")[0]


def counts(rows, kind):
    """Counts the items of each identity in all pairs of one kind."""
    return collections.Counter(
        person(item) for _, first, second, same in rows if same == kind for item in (first, second)
    )


def check(rows, items, num_folds, num_pairs):
    """Checks everything that holds for any data."""
    folds, firsts, seconds, is_same = zip(*rows, strict=True)
    is_same = np.array(is_same)
    assert folds == tuple(np.repeat(np.arange(1, num_folds + 1), 2 * num_pairs))
    assert is_same.tolist() == ([True] * num_pairs + [False] * num_pairs) * num_folds
    known = {item for of_one in items.values() for item in of_one}
    assert {*firsts, *seconds} <= known
    assert [person(a) == person(b) for a, b in zip(firsts, seconds, strict=True)] == is_same.tolist()
    assert len({frozenset(pair) for pair in zip(firsts, seconds, strict=True)}) == len(rows)
    assert all(a != b for a, b in zip(firsts, seconds, strict=True))

    folds_of = collections.defaultdict(set)
    for fold, *pair, _ in rows:
        for item in pair:
            folds_of[person(item)].add(fold)
    assert all(len(found) == 1 for found in folds_of.values())

    # Pairs stored by fold or by kind are divided into the same folds.
    np.testing.assert_array_equal(even_folds(is_same, num_folds), np.array(folds) - 1)
    order = np.argsort(~is_same, kind="stable")
    np.testing.assert_array_equal(even_folds(is_same[order], num_folds), np.array(folds)[order] - 1)


@pytest.mark.parametrize("seed", range(25))
def test_folds_of_random_data_are_disjoint(seed):
    rng = np.random.default_rng(seed)
    num_folds, asked = int(rng.integers(2, 6)), int(rng.integers(1, 40))
    sizes = [2] * num_folds + rng.integers(1, 9, rng.integers(num_folds, 30)).tolist()
    items = people(*rng.permutation(sizes).tolist())
    rows = make_disjoint_pairs(items, num_folds, asked, seed)
    num_pairs = len(rows) // (2 * num_folds)
    assert 1 <= num_pairs <= asked
    check(rows, items, num_folds, num_pairs)


@pytest.mark.parametrize(
    ("sizes", "num_folds", "num_pairs"),
    [
        ([2] * 20, 10, 2),  # uses every genuine pair
        ([3] * 20, 10, 6),
        ([2, 2, 2, 2, 1, 1], 2, 2),
        ([5, 5, 1, 1], 2, 5),  # uses every impostor pair
        ([4, 4, 4, 1, 1, 1], 3, 4),
        ([4, 3, 3, 2], 2, 6),  # puts the biggest together with the smallest
        # The fold with the big identity needs only one other. The other folds share the rest.
        ([100] + [2] * 13, 4, 4),
        ([3, 3, 3, 2, 2, 2, 2, 2, 2], 3, 5),
    ],
)
def test_all_available_pairs_are_used(sizes, num_folds, num_pairs):
    items = people(*sizes)
    for seed in range(3):
        check(make_disjoint_pairs(items, num_folds, 1000, seed), items, num_folds, num_pairs)


def test_the_requested_number_of_pairs_is_drawn():
    items = people(*[12] * 30)
    check(make_disjoint_pairs(items, 10, 50), items, 10, 50)


def test_all_identities_take_part_equally():
    rows = make_disjoint_pairs(people(*[400, 200] + [6] * 18), 2, 100)
    for fold in (1, 2):
        of_fold = [row for row in rows if row[0] == fold]
        for kind in (True, False):
            assert set(counts(of_fold, kind).values()) <= {20, 22, 19, 21}
            assert len(counts(of_fold, kind)) == 10


def test_small_identities_give_all_their_pairs():
    rows = make_disjoint_pairs(people(30, 30, 3, 3, 2, 2), 2, 14)
    for fold in (1, 2):
        # 14 genuine pairs: 1 + 3 + 10
        genuine = counts([row for row in rows if row[0] == fold], True)
        assert sorted(genuine.values()) == [2, 6, 20]


def test_images_of_one_identity_are_drawn_from_all_of_them():
    rows = make_disjoint_pairs(people(*[50] * 4), 2, 200)
    used = collections.Counter(item for _, *pair, _ in rows for item in pair)
    assert len(used) == 200
    assert max(used.values()) < 20  # 8 on average


def test_a_remaining_pair_may_belong_to_any_identity():
    extra = set()
    for seed in range(10):
        genuine = counts(make_disjoint_pairs(people(9, 8, 7, 6, 5, 4), 2, 4, seed), True)
        assert sorted(genuine.values()) == [2, 2, 2, 2, 4, 4]
        extra |= {identity for identity, count in genuine.items() if count == 4}
    assert len(extra) > 4


def test_identities_with_one_item_are_in_every_fold():
    # One fold has more genuine pairs, but the other fold must not get all of these identities.
    rows = make_disjoint_pairs(people(4, 2, 2, 2, *[1] * 20), 2, 10)
    single = {f"p{number}" for number in range(5, 25)}
    assert {fold for fold, *pair, _ in rows if single & set(map(person, pair))} == {1, 2}


def test_the_same_seed_gives_the_same_pairs():
    items = people(*range(1, 25))
    rows = make_disjoint_pairs(items, 3, 20, 5)
    assert make_disjoint_pairs(items, 3, 20, 5) == rows
    assert make_disjoint_pairs(items, 3, 20, 6) != rows


def test_folds_depend_on_the_seed():
    def first_fold(seed):
        rows = make_disjoint_pairs(people(*[4] * 20), 2, 50, seed)
        return {person(row[1]) for row in rows if row[0] == 1}

    assert len({frozenset(first_fold(seed)) for seed in range(5)}) == 5


def test_many_identities_are_divided_into_folds():
    items = people(*[3] * 20_000)
    check(make_disjoint_pairs(items, 10, 300), items, 10, 300)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([2] * 9 + [1] * 30, (10, 5), "10 identities with two .* 9 of 39"),
        ([2] * 19, (10, 5), "20 identities.* 19"),
        ([], (10, 5), "10 identities with two .* 0 of 0"),
    ],
)
def test_too_few_identities_are_an_error(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        make_disjoint_pairs(people(*sizes), *options)
