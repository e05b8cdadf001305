import numpy as np
import pytest

from eval.recognition.aligned import find_aligned
from eval.recognition.tracks import frame_weight
from eval.scoring.templates import pool
from tests.portrait import write_picture


class MeanColour:
    """Embeds a face as its mean colour, without brightness."""

    face_size = (112, 96)

    def embed(self, faces):
        means = faces.reshape(len(faces), -1, 3).mean(axis=1)
        return means - means.mean(axis=1, keepdims=True)


def face(colour, size=(112, 112)):
    return np.full((*size, 3), colour, np.uint8)


def test_a_folder_is_one_track(tmp_path):
    colours = [(200, 10, 60), (220, 80, 0), (0, 0, 90)]
    for number, colour in enumerate(colours):
        write_picture(tmp_path / f"{number}.png", face(colour))
    found = find_aligned(tmp_path, MeanColour())
    track = found.main
    raw = np.array(colours, float) - np.mean(colours, axis=1, keepdims=True)
    np.testing.assert_allclose(track.embeddings, raw)
    np.testing.assert_allclose(track.template, pool(raw, "mean"))  # All faces are equally sharp.
    lengths = np.linalg.norm(raw, axis=1)
    np.testing.assert_allclose(track.weights, lengths / lengths.sum())
    assert [one.image[0, 0].tolist() for one in track.faces] == [list(colour) for colour in colours]


def test_faces_have_the_same_weights_as_in_tracks(tmp_path):
    sharp = face((200, 10, 60))
    sharp[::2] //= 2
    for number, picture in enumerate((sharp, face((0, 0, 90)))):
        write_picture(tmp_path / f"{number}.png", picture)
    track = find_aligned(tmp_path, MeanColour()).main
    weights = np.array([frame_weight(*one) for one in zip(track.faces, track.embeddings, strict=True)])
    assert weights[0] > 5 * weights[1] > 0
    np.testing.assert_allclose(track.weights, weights / weights.sum())
    units = track.embeddings / np.linalg.norm(track.embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(track.template, pool(units * weights[:, np.newaxis], "mean"))


def test_a_picture_is_one_face(tmp_path):
    path = write_picture(tmp_path / "a.png", face((9, 4, 5), (112, 96)))
    assert len(find_aligned(path, MeanColour()).main.faces) == 1


def test_photographs_are_refused(tmp_path):
    write_picture(tmp_path / "1.png", face((1, 2, 3)))
    path = write_picture(tmp_path / "2.png", face((1, 2, 3), (250, 250)))
    with pytest.raises(ValueError, match=str(path)):
        find_aligned(tmp_path, MeanColour())


def test_embeddings_of_length_0_give_no_track(tmp_path):
    path = write_picture(tmp_path / "a.png", face((5, 5, 5)))
    with pytest.raises(ValueError, match=str(path)):
        _ = find_aligned(path, MeanColour()).main
