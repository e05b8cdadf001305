"""Exports `.keras` files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nets.backbone import Backbone


def export(backbone: Backbone, path: Path, face_size: tuple[int, int]) -> None:
    """Writes a net as a `.keras` file. Its input is normalised images, so `face_size` has no effect."""
    from nets.importers.keras_file import save_keras_file

    save_keras_file(backbone, path)
