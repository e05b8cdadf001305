"""Draws faces: a small data set that needs no download."""

from dataset.synthetic.drawing import draw_frame, draw_identity, draw_image
from dataset.synthetic.face_set import FaceSetOptions, write_set
from dataset.synthetic.files import write_source, write_videos

__all__ = [
    "FaceSetOptions",
    "draw_frame",
    "draw_identity",
    "draw_image",
    "write_set",
    "write_source",
    "write_videos",
]
