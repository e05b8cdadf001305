"""Draws single encoded images. Each is a pure function of the seed, the identity and its numbers."""

import cv2
import numpy as np

from dataset.synthetic.drawing import draw_face
from dataset.synthetic.parameters import Capture, Face

FACE_STREAM, IMAGE_STREAM, VIDEO_STREAM, PLAN_STREAM = range(4)  # independent random numbers of one seed

_VIDEO_MOTION = 0.5  # how far a video moves from one random picture towards another


def draw_identity(seed: int, identity: int) -> Face:
    """Draws the parameters of an identity; seed and identity are at least 0."""
    return Face.sample(np.random.default_rng((seed, FACE_STREAM, identity)))


def draw_image(seed: int, identity: int, number: int) -> bytes:
    """Draws one image of an identity, independently of its other images. Returns a JPEG of 112x112."""
    rng = np.random.default_rng((seed, IMAGE_STREAM, identity, number))
    return _picture(draw_identity(seed, identity), Capture.sample(rng), rng)


def draw_frame(seed: int, identity: int, video: int, frame: int, num_frames: int) -> bytes:
    """Draws frame `frame` of a video with `num_frames`, in which pose, light and expression change smoothly.

    Returns a JPEG of 112x112.
    """
    rng = np.random.default_rng((seed, VIDEO_STREAM, identity, video))
    first, last = Capture.sample(rng), Capture.sample(rng)
    capture = first.towards(last, _VIDEO_MOTION * frame / max(1, num_frames - 1))
    noise = np.random.default_rng((seed, VIDEO_STREAM, identity, video, frame))
    return _picture(draw_identity(seed, identity), capture, noise)


def _picture(face, capture, rng):
    image = draw_face(face, capture, rng)
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(capture.jpeg_quality)]
    return cv2.imencode(".jpg", image[..., ::-1], quality)[1].tobytes()
