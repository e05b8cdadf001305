import unicodedata
from pathlib import Path

import numpy as np
import pytest

from eval.recognition.gallery import Gallery, Person, find_people, load_gallery
from tests.eval.fake_tracks import make_found, make_track, unit

ANNA, BEN, CARL = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def load(folder, templates):
    """Loads a gallery whose files show faces with these templates, by the file's stem."""

    def find(path):
        found = templates[path.stem]
        if isinstance(found, Exception):
            raise found
        return make_found(path, *([make_track(found)] if isinstance(found, np.ndarray) else found))

    return load_gallery(folder, find)


def gallery_of(**templates):
    return Gallery(Path("people"), tuple(Person(name, (), template) for name, template in templates.items()))


class TestFindPeople:
    def test_folders_and_single_files_are_people(self, tmp_path):
        write(tmp_path, "anna/2.jpg", "anna/10.JPG", "anna/1.mkv", "anna/notes.txt", "anna/.x.jpg", "ben.png")
        write(tmp_path, "README.md", ".hidden/1.jpg", "carl/frames/1.jpg", "carl/empty/1.txt")
        found = find_people(tmp_path)
        assert {name: [path.name for path in paths] for name, paths in found.items()} == {
            "anna": ["1.mkv", "2.jpg", "10.JPG"],
            "ben": ["ben.png"],
            "carl": ["frames"],
        }

    @pytest.mark.parametrize(
        "names",
        [
            ("Anna/1.jpg", "anna/2.jpg"),
            ("anna/1.jpg", "anna.jpg"),
            ("anna.jpg", "anna.mkv"),
            (unicodedata.normalize("NFC", "Zoë/1.jpg"), unicodedata.normalize("NFD", "Zoë/2.jpg")),
        ],
    )
    def test_two_people_under_one_name_are_refused(self, tmp_path, names):
        write(tmp_path, *names)
        with pytest.raises(ValueError) as error:
            find_people(tmp_path)
        for name in names:
            assert str(tmp_path / Path(name).parts[0]) in str(error.value)

    def test_a_folder_without_people_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="absent"):
            find_people(tmp_path / "absent")
        write(tmp_path, "README.md")
        with pytest.raises(ValueError, match=str(tmp_path)):
            find_people(tmp_path)


class TestLoadGallery:
    def test_files_of_a_person_are_pooled(self, tmp_path):
        write(tmp_path, "anna/a.jpg", "anna/b.mkv", "ben/c.jpg")
        gallery = load(tmp_path, {"a": unit(1, 1, 0), "b": unit(1, -1, 0), "c": BEN})
        assert [person.name for person in gallery.people] == ["anna", "ben"]
        np.testing.assert_allclose(gallery.people[0].template, ANNA, atol=1e-12)
        assert gallery.people[0].num_faces == 6
        assert gallery.problems == ()
        assert gallery.seconds["detecting"] == 1.5

    def test_the_person_who_is_seen_most_in_a_file_is_used(self, tmp_path):
        write(tmp_path, "anna/a.mkv")
        tracks = [make_track(BEN, (0,)), make_track(ANNA, (0, 5, 10))]
        gallery = load(tmp_path, {"a": tracks})
        assert gallery.rank(ANNA)[0].similarity == 1
        assert list(gallery.doubts(0.5)) == []

    def test_several_people_in_a_file_raise_a_doubt(self, tmp_path):
        write(tmp_path, "anna/a.mkv")
        gallery = load(tmp_path, {"a": [make_track(BEN, (0, 5)), make_track(ANNA, (0, 5, 10))]})
        [doubt] = gallery.doubts(0.5)
        assert str(tmp_path / "anna" / "a.mkv") in doubt
        # Two tracks of one person do not make two people.
        gallery = load(tmp_path, {"a": [make_track(ANNA, (0, 5)), make_track(ANNA, (0, 5, 10))]})
        assert list(gallery.doubts(0.5)) == []

    def test_people_without_a_usable_face_are_left_out(self, tmp_path):
        write(tmp_path, "anna/a.jpg", "ben/b.jpg", "ben/c.jpg", "carl/notes.txt")
        rejected = make_track(BEN, rejected="it flickers")
        gallery = load(tmp_path, {"a": ANNA, "b": [rejected], "c": ValueError("damaged")})
        assert [person.name for person in gallery.people] == ["anna"]
        texts = {"ben/b.jpg": "flickers", "ben/c.jpg": "damaged", "ben:": "ben", "carl:": "carl"}
        for place, text in texts.items():
            assert [
                problem
                for problem in gallery.problems
                if f"{tmp_path}/{place}" in problem and text in problem
            ]
        assert len(gallery.problems) == 4

    def test_a_gallery_without_a_usable_face_is_refused(self, tmp_path):
        write(tmp_path, "ben/b.jpg")
        with pytest.raises(ValueError, match=f"{tmp_path}/ben/b.jpg"):
            load(tmp_path, {"b": []})

    def test_the_same_file_under_two_names_is_refused(self, tmp_path):
        write(tmp_path, "anna/a.jpg", "ben/b.jpg")
        (tmp_path / "ben" / "b.jpg").write_bytes((tmp_path / "anna" / "a.jpg").read_bytes())
        with pytest.raises(ValueError, match=f"{tmp_path}/anna/a.jpg and {tmp_path}/ben/b.jpg"):
            load(tmp_path, {"a": ANNA, "b": ANNA})

    def test_a_second_copy_of_a_file_is_left_out(self, tmp_path):
        write(tmp_path, "anna/a.jpg", "anna/b.jpg")
        (tmp_path / "anna" / "b.jpg").write_bytes((tmp_path / "anna" / "a.jpg").read_bytes())
        gallery = load(tmp_path, {"a": ANNA})
        assert gallery.people[0].num_faces == 3
        assert f"{tmp_path}/anna/b.jpg" in gallery.problems[0]


class TestGallery:
    def test_the_most_similar_people_rank_first(self):
        gallery = gallery_of(anna=ANNA, ben=unit(0.6, 0.8, 0), carl=CARL)
        matches = gallery.rank(ANNA, 2)
        assert [match.name for match in matches] == ["anna", "ben"]
        np.testing.assert_allclose([match.similarity for match in matches], [1, 0.6])
        assert len(gallery.rank(ANNA)) == 3

    def test_similarity_of_strangers_is_the_median(self):
        assert gallery_of(anna=ANNA, ben=ANNA).stranger_similarity is None
        # Two names of one person do not change it.
        people = {"anna": ANNA, "hanna": ANNA, "ben": unit(0.6, 0.8, 0), "carl": unit(0.6, 0, 0.8)}
        np.testing.assert_allclose(gallery_of(**people).stranger_similarity, 0.6)

    def test_faces_of_one_name_that_do_not_resemble_each_other_raise_a_doubt(self, tmp_path):
        write(tmp_path, "anna/a.jpg", "anna/b.jpg", "ben/c.jpg")
        gallery = load(tmp_path, {"a": ANNA, "b": unit(1, 0, 1), "c": BEN})
        assert list(gallery.doubts(0.7)) == []
        assert len(list(gallery.doubts(0.71))) == 2
        assert all(f"{tmp_path}/anna/" in doubt for doubt in gallery.doubts(0.71))

    def test_one_face_under_two_names_raises_a_doubt(self):
        gallery = gallery_of(anna=ANNA, ben=BEN, hanna=unit(1, 0, 0.5))
        assert list(gallery.doubts(0.9)) == []
        [doubt] = gallery.doubts(0.89)
        assert doubt.startswith("anna and hanna")
