"""A gallery: known people, each with one template from their pictures and videos."""

from __future__ import annotations

import collections
import dataclasses
import functools
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common.files import file_sha256
from common.progress import Progress
from dataset import images, video
from dataset.pairs.image_folders import list_images, natural_key
from eval.recognition.tracks import FoundTracks, Track

_SUFFIXES = (*images.SUFFIXES, *video.SUFFIXES)

# A second face in a file counts as another person if it is seen at least this much, relative to the first.
_MUCH_SEEN = 0.5
# Fewer people have fewer than three pairs, too few to tell how similar strangers are.
_MIN_PEOPLE = 3
_MAX_PEOPLE = 1000  # to compare with one another; the similarities of more would fill the memory


@dataclasses.dataclass(frozen=True)
class Match:
    """A person of the gallery and the similarity to a template: the cosine, from -1 to 1."""

    name: str
    similarity: float


@dataclasses.dataclass(frozen=True, eq=False)
class GalleryFile:
    """The face of a person in one picture or video.

    Args:
        path: the file, or a folder of frames.
        template: float64 `(dim,)` of length 1, of the person who is seen most.
        num_faces: number of faces in the template.
        face: the best of these faces, aligned, uint8 `(height, width, 3)`, RGB.
        other: the track of another person who is seen at least half as much, or `None`.
    """

    path: Path
    template: np.ndarray
    num_faces: int
    face: np.ndarray
    other: Track | None


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """A person of a gallery. The template is the mean of the files' templates, scaled to length 1."""

    name: str
    files: tuple[GalleryFile, ...]
    template: np.ndarray

    @property
    def num_faces(self) -> int:
        """Number of faces in the template."""
        return sum(file.num_faces for file in self.files)

    @property
    def face(self) -> np.ndarray:
        """The best face of the file that is most like the template."""
        return max(self.files, key=lambda file: float(file.template @ self.template)).face


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """The people who can be recognised; at least one. Made by `load_gallery`.

    Args:
        folder: the folder that was read.
        people: the people with a usable face, in natural order of their names.
        problems: a sentence for each file or person that is left out.
        digests: paths of the files by their SHA-256.
        seconds: time that each stage took.
    """

    folder: Path
    people: tuple[Person, ...]
    problems: tuple[str, ...] = ()
    digests: dict[str, Path] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _templates(self) -> np.ndarray:
        return np.stack([person.template for person in self.people])

    def rank(self, template: np.ndarray, limit: int | None = None) -> tuple[Match, ...]:
        """Compares a template with all people.

        Args:
            template: float `(dim,)` of length 1.
            limit: largest number of people to return. Defaults to all.

        Returns:
            The most similar people first.
        """
        similarities = self._templates @ template
        order = np.argsort(-similarities, kind="stable")[:limit].tolist()
        return tuple(Match(self.people[i].name, float(similarities[i])) for i in order)

    @property
    def stranger_similarity(self) -> float | None:
        """The median similarity of two people of the gallery, or `None` for fewer than three people.

        A median hardly changes if one person has two names, or if two people are twins.
        """
        num_people = len(self.people)
        if num_people < _MIN_PEOPLE:
            return None
        templates = self._templates[:: -(-num_people // _MAX_PEOPLE)]
        pairs = np.triu_indices(len(templates), 1)
        return float(np.median((templates @ templates.T)[pairs]))

    def doubts(self, threshold: float) -> Iterator[str]:
        """Yields a sentence for each sign that a face has the wrong name.

        Args:
            threshold: smallest similarity of two templates of one person.
        """
        for person in self.people:
            for file in person.files:
                if file.other is not None and float(file.other.template @ person.template) < threshold:
                    yield f"{file.path}: shows several people; {person.name} is the one who is seen most"
                others = [other.template for other in person.files if other is not file]
                nearest = max((float(file.template @ other) for other in others), default=1.0)
                if nearest < threshold:
                    yield (
                        f"{file.path}: resembles no other file of {person.name} "
                        f"(similarity at most {nearest:.2f}, threshold {threshold:.2f})"
                    )
        for number, person in enumerate(self.people[1:], 1):
            for i in np.flatnonzero(self._templates[:number] @ person.template >= threshold):
                similarity = float(self._templates[i] @ person.template)
                yield (
                    f"{self.people[i].name} and {person.name}: one person under two names? "
                    f"(similarity {similarity:.2f}, threshold {threshold:.2f})"
                )


def find_people(folder: Path) -> dict[str, list[Path]]:
    """Finds the files of each person of a gallery.

    A person is a folder with pictures, videos and folders of frames, or a single file. The folder or file has
    the name of the person. Hidden files and files of other kinds are ignored.

    Returns:
        For each person's name, the paths, both in natural order. The list of a person without files is empty.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no people, or two names differ only in case or in how an accent is encoded.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected people: PERSON/*.jpg or PERSON/*.mkv")
    found: dict[str, tuple[Path, list[Path]]] = {}
    for path in _visible(folder):
        is_person = path.is_dir()
        if not is_person and path.suffix.lower() not in _SUFFIXES:
            continue
        name = unicodedata.normalize("NFC", path.name if is_person else path.stem)
        key = unicodedata.normalize("NFC", name.casefold())
        if key in found:
            raise ValueError(
                f"{found[key][0]} and {path}: two people under one name. Put the files of one person into "
                "one folder, and give two people two names."
            )
        files = [file for file in _visible(path) if _is_media(file)] if is_person else [path]
        found[key] = path, files
    if not found:
        raise ValueError(f"{folder}: expected people, PERSON/*.jpg or PERSON/*.mkv, received none")
    return {
        unicodedata.normalize("NFC", path.name if path.is_dir() else path.stem): files
        for path, files in found.values()
    }


def load_gallery(folder: Path, find: Callable[[Path], FoundTracks], progress: bool = False) -> Gallery:
    """Finds the people of a gallery and their faces.

    Args:
        folder: see `find_people`.
        find: finds the tracks of a file, such as `find_tracks` with a model.
        progress: show progress.

    Raises:
        FileNotFoundError, ValueError: see `find_people`; or two people have the same file, or no person has a
            usable face.
    """
    files = find_people(folder)
    people, problems, seconds = [], [], collections.Counter[str]()
    digests: dict[str, tuple[str, Path]] = {}
    kept: dict[str, list[Path]] = collections.defaultdict(list)
    for name, paths in files.items():
        for path in paths:
            digest = file_sha256(path) if path.is_file() else str(path)
            other, first = digests.setdefault(digest, (name, path))
            if other != name:
                raise ValueError(f"{first} and {path}: the same file under two names. Remove one of them.")
            if first == path:
                kept[name].append(path)
            else:
                problems.append(f"{path}: left out, because it is the same file as {first}")
    progress_bar = Progress(desc="gallery", unit="files", total=len(digests), shown=progress)
    for name in files:
        used = []
        for path in kept[name]:
            try:
                found = find(path)
                seconds.update(found.seconds)
                problems += found.problems
                used.append(_gallery_file(path, found))
            except (ValueError, OSError) as error:
                problems.append(_message_with_path(path, error))
            progress_bar.update()
        template = np.sum([file.template for file in used], axis=0)
        length = np.linalg.norm(template)
        if length > 0:
            people.append(Person(name, tuple(used), template / length))
        else:
            reason = "no usable face" if kept[name] else "no picture and no video"
            problems.append(f"{folder / name}: {reason}; {name} cannot be recognised")
    progress_bar.close()
    if not people:
        raise ValueError(f"{folder}: nobody has a usable face. {problems[0]}")
    paths = {digest: path for digest, (_, path) in digests.items()}
    return Gallery(folder, tuple(people), tuple(problems), paths, dict(seconds))


def _visible(folder):
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(paths, key=lambda path: natural_key(path.name))


def _is_media(path):
    return bool(list_images(path)) if path.is_dir() else path.suffix.lower() in _SUFFIXES


def _gallery_file(path, found):
    main = found.main
    others = [track for track in found.tracks if track is not main]
    other = max(others, key=_extent, default=None)
    if other is not None and _extent(other) < _MUCH_SEEN * _extent(main):
        other = None
    num_faces = int(np.count_nonzero(main.weights))
    return GalleryFile(path, main.template, num_faces, main.best[0].image, other)


def _extent(track):
    return sum(face.size for face in track.faces if face.rejected is None)


def _message_with_path(path, error):
    """Returns the message of an error, with the path of the file in front if it is missing."""
    text = str(error)
    return text if str(path) in text else f"{path}: {text}"
