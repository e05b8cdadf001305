"""One side of a comparison: a picture, a folder of pictures of one person, or a video."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eval.recognition.faces import Face
from eval.recognition.tracks import FoundTracks, frame_weight
from eval.scoring.templates import pool


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """The faces of one side, and their template.

    Args:
        path: the file or folder.
        kind: `"picture"`, `"folder"` (of pictures) or `"video"`.
        names: file names of the pictures, by the number of their frame; empty for a video.
        num_searched: number of frames or pictures that were searched for faces.
        faces: the usable faces of the person, in order of time.
        embeddings: float `(num_faces, dim)`, not normalised.
        template: float64 `(dim,)` of length 1.
        num_others: number of other people in a video, or of other usable faces in pictures.
        problems: a sentence for each picture that could not be read, for a damaged video, and for each
            unusable face that is bigger than the one that is used.
    """

    path: Path
    kind: str
    names: tuple[str, ...]
    num_searched: int
    faces: list[Face]
    embeddings: np.ndarray
    template: np.ndarray
    num_others: int
    problems: tuple[str, ...]

    @property
    def typicality(self) -> np.ndarray:
        """The cosine of each face's embedding and the template: float64 `(num_faces,)`."""
        return self.embeddings @ self.template / np.linalg.norm(self.embeddings, axis=1)

    def place(self, face: Face) -> str:
        """Returns where a face is: the file name of a picture, or the time in a video."""
        return self.names[face.frame] if self.names else f"{face.time:.2f} s"

    def describe(self) -> str:
        """Describes the side, such as `video, face in 12 of 40 frames`."""
        others = "" if not self.num_others else f"; {self.num_others} "
        if self.kind == "video":
            others += others and ("other person is" if self.num_others == 1 else "other people are")
            others += others and " seen less"
            return f"video, face in {len(self.faces)} of {self.num_searched} frames{others}"
        others += others and ("other face is" if self.num_others == 1 else "other faces are") + " smaller"
        if self.kind == "picture":
            return f"picture{others}"
        return f"folder, face in {len(self.faces)} of {self.num_searched} pictures{others}"


def read_side(path: Path, find: Callable[[Path], FoundTracks], pooling: str = "mean") -> Side:
    """Finds the person of one side: the biggest face of each picture, or the person that a video shows most.

    Args:
        path: picture, folder or video.
        find: finds the tracks, such as `eval.recognition.tracks.find_tracks` with a model.
        pooling: pools the faces to a template; one of `eval.scoring.templates.POOLINGS`.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read or has no usable face.
    """
    found = find(path)
    main, problems = found.main, list(found.problems)
    if found.source.kind == "video":
        chosen = _usable_faces(main)
        num_others = len(found.tracks) - 1
    else:
        # A folder shows one person. So a picture that does not resemble the others is used, too, although its
        # face is in another track.
        by_picture: dict[int, list[tuple[Face, np.ndarray]]] = {}
        for track in found.tracks:
            for face, embedding in _usable_faces(track):
                by_picture.setdefault(face.frame, []).append((face, embedding))
        chosen = [max(faces, key=lambda one: one[0].size) for _, faces in sorted(by_picture.items())]
        num_others = sum(map(len, by_picture.values())) - len(chosen)
        problems += _bigger_faces(found, [face for face, _ in chosen])
    faces, embeddings = [face for face, _ in chosen], np.stack([embedding for _, embedding in chosen])
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    weights = np.array([frame_weight(*one) for one in chosen])
    return Side(
        path,
        found.source.kind,
        found.source.names,
        found.num_searched,
        faces,
        embeddings,
        pool(embeddings / lengths * weights[:, np.newaxis], pooling),
        num_others,
        tuple(problems),
    )


def _usable_faces(track):
    """Returns the usable faces of a track, with their embeddings."""
    pairs = zip(track.faces, track.embeddings, strict=True)
    return [(face, embedding) for face, embedding in pairs if frame_weight(face, embedding) > 0]


def _bigger_faces(found, chosen):
    """Yields a sentence for each unusable face that is bigger than the face used from the same picture."""
    used = {face.frame: face for face in chosen}
    folder = found.source.path if found.source.kind == "folder" else found.source.path.parent
    for face in (face for track in (*found.tracks, *found.rejected) for face in track.faces):
        if face.rejected and face.frame in used and face.size > used[face.frame].size:
            yield f"{folder / found.source.names[face.frame]}: a bigger face is not used: {face.rejected}"
