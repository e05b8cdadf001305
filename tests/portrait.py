"""Makes pictures and short videos of a real face, the portrait in matplotlib's sample data."""

import functools
from fractions import Fraction
from pathlib import Path

import av
import cv2
import matplotlib
import numpy as np

# The face in the portrait is at 176, 118, 357, 337: left, top, right, bottom.
SIZE = (240, 320)  # (height, width) of the frames


@functools.cache
def portrait():
    """Returns the portrait, uint8 `(600, 512, 3)`, RGB."""
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def scene(x=160, y=120, face=90, tint=(1, 1, 1), blur=0, hidden=False, size=SIZE):
    """Places the portrait on a grey picture.

    Args:
        x, y: position of the middle of the face.
        face: height of the face in pixels.
        tint: factor for each channel, RGB.
        blur: standard deviation of a Gaussian blur, in pixels.
        hidden: whether to leave out the portrait.
        size: `(height, width)` of the picture.

    Returns:
        uint8 `(*size, 3)`, RGB.
    """
    picture = np.full((*size, 3), 128, np.uint8)
    if not hidden:
        scale = face / 219
        head = portrait()[40:420, 90:440]
        transform = np.array([(scale, 0, x - scale * 176), (0, scale, y - scale * 188)])
        cv2.warpAffine(
            head, transform, size[::-1], picture, cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT
        )
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    return np.clip(picture * np.array(tint), 0, 255).astype(np.uint8)


def moving(num_frames=20, *, start=(100, 110), step=(4, 1), **options):
    """Returns frames of a moving face. `options` are arguments of `scene`, the same for all frames."""
    return [scene(x=start[0] + step[0] * i, y=start[1] + step[1] * i, **options) for i in range(num_frames)]


def write_picture(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture[..., ::-1])[1].tobytes())
    return path


def write_video(path, frames, fps=10, codec="mpeg4", times=None, pixel_aspect=1):
    """Encodes frames as a video. The suffix of `path` selects the container.

    Args:
        times: time of each frame in seconds, in whole milliseconds, for a variable frame rate.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                stream.codec_context.time_base = frame.time_base = Fraction(1, 1000)
                frame.pts = round(times[number] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
