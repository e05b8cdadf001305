"""The result of a comparison, as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from eval.compare.sides import Side
from eval.embedding.embedder import Embedder
from eval.scoring.calibration import Calibration, OperatingPoint

KINDS = {"single": "single pictures", "template": "templates"}  # of a calibration


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Two sides, and what their similarity means.

    Args:
        sides: A and B.
        similarity: cosine of the templates, from -1 to 1.
        threshold: smallest similarity that counts as the same person.
        calibration: similarities of other pairs, if the model card has them.
        point: the point of the calibration that gave the threshold, with its TAR; `None` if the user gave the
            threshold.
        notes: sentences about the sides and the threshold that limit the result.
    """

    sides: tuple[Side, Side]
    similarity: float
    threshold: float
    calibration: Calibration | None
    point: OperatingPoint | None
    notes: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """True if the similarity reaches the threshold."""
        return self.similarity >= self.threshold

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return "same person" if self.is_same else "different people"

    @property
    def tar_interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the TAR, if it was measured for this FAR."""
        if self.calibration is None or self.point is None:
            return None
        far = self.point.asked_far
        return next((row.interval for row in self.calibration.table if row.far == far), None)

    def lines(self) -> Iterator[str]:
        """Yields the result as lines of text."""
        for letter, side in zip("AB", self.sides, strict=True):
            yield f"{letter}          : {side.path} ({side.describe()})"
        yield f"Similarity : {self.similarity:.4f}"
        if self.calibration is None or self.point is None:
            yield f"Threshold  : {self.threshold:.4f} (given)"
        else:
            measured = f"measured on {KINDS[self.calibration.kind]} of {self.calibration.set}"
            interval = self.tar_interval
            between = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
            yield f"Threshold  : {self.threshold:.4f} (FAR {self.point.asked_far:g}, {measured})"
            yield f"TAR        : {self.point.tar:.4f}{between} at this threshold"
        yield f"Verdict    : {self.verdict}"
        yield from (f"Note : {note}" for note in self.notes)

    def to_json(self, embedder: Embedder) -> dict[str, Any]:
        """Returns the result as JSON values."""
        point = self.point
        return {
            "verdict": self.verdict,
            "same_person": self.is_same,
            "similarity": self.similarity,
            "threshold": self.threshold,
            "far": point and point.asked_far,
            "tar": point and point.tar,
            "tar_interval": self.tar_interval,
            "measured_on": point and self.calibration and [self.calibration.kind, self.calibration.set],
            "a": _side_json(self.sides[0]),
            "b": _side_json(self.sides[1]),
            "model": {"path": str(embedder.path), "sha256": embedder.sha256},
            "notes": self.notes,
        }


def _side_json(side: Side) -> dict[str, Any]:
    typicality = side.typicality
    extremes = {"most_typical": typicality.argmax(), "least_typical": typicality.argmin()}
    return {
        "path": str(side.path),
        "kind": side.kind,
        "num_searched": side.num_searched,
        "num_faces": len(side.faces),
        "num_others": side.num_others,
        **{
            name: {"frame": side.faces[i].frame, "similarity": float(typicality[i])}
            for name, i in extremes.items()
        },
    }
