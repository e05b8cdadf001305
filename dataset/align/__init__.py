"""Detection and alignment of faces."""

from dataset.align.alignment import face_template, similarity_transform
from dataset.align.folder import align_folder
from dataset.align.options import AlignOptions, FaceOptions

__all__ = ["AlignOptions", "FaceOptions", "align_folder", "face_template", "similarity_transform"]
