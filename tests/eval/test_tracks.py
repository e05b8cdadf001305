from eval.recognition.tracks import find_tracks
from tests.portrait import moving, write_picture, write_video


class PixelEmbedder:
    """Takes the differences of coarse pixels to their mean as an embedding."""

    face_size = (112, 112)

    def embed(self, faces):
        coarse = faces[:, ::16, ::16].reshape(len(faces), -1).astype("float32")
        return coarse - coarse.mean(axis=1, keepdims=True)


def test_a_moving_face_is_one_track(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(21))
    found = find_tracks(path, PixelEmbedder())
    (track,) = found.tracks
    assert [face.frame for face in track.faces] == [0, 5, 10, 15, 20]
    assert not found.rejected
    assert track.weights.sum() == 1


def test_a_folder_of_pictures_is_one_track(tmp_path):
    for number, picture in enumerate(moving(3, step=(60, 0))):
        write_picture(tmp_path / f"{number}.png", picture)
    (track,) = find_tracks(tmp_path, PixelEmbedder()).tracks
    assert [face.frame for face in track.faces] == [0, 1, 2]
