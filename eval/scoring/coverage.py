"""How much of a video set is there, before hours go into the rest."""

import numpy as np

_SHOWN = 10  # names in a message


def coverage_of(pairs, frames, wrong_videos):
    """What was asked for and what was found.

    Args:
        pairs: `dataset.pairs.video_pairs.VideoPairs`.
        frames: `dataset.pairs.video_frames.VideoFrames` of the videos of `pairs`.
        wrong_videos: sequence of str.

    Returns:
        dict, JSON-able: numbers of videos, frames and pairs, and the names of what is missing.
    """
    lengths = np.diff(frames.offsets)
    scorable = scorable_pairs(pairs, frames)
    found = lengths[lengths > 0]
    return {
        "videos": len(pairs.videos),
        "missing": list(frames.missing),
        "empty": list(frames.empty),
        "frames": len(frames),
        "unusable": dict(frames.unusable),
        "wrong_videos": len(set(wrong_videos) & set(pairs.videos)),
        "pairs": len(pairs),
        "genuine": int(np.count_nonzero(pairs.is_same)),
        "impostor": int(np.count_nonzero(~pairs.is_same)),
        "pairs_left_out": int(np.count_nonzero(~scorable)),
        "frames_per_video": {
            "min": int(found.min()),
            "median": float(np.median(found)),
            "max": int(found.max()),
        },
    }


def scorable_pairs(pairs, frames):
    """Which pairs have frames on both sides: bool array, shape `(num_pairs,)`."""
    has_frames = np.diff(frames.offsets) > 0
    return has_frames[pairs.first] & has_frames[pairs.second]


def describe_coverage(coverage):
    """The coverage as lines of text; what is missing is named, the first ten of each kind."""
    per_video = coverage["frames_per_video"]
    missing, empty, unusable = coverage["missing"], coverage["empty"], coverage["unusable"]
    lines = [
        f"Videos : {coverage['videos']} named, {coverage['videos'] - len(missing) - len(empty)} found, "
        f"{len(missing)} missing, {len(empty)} empty; {coverage['wrong_videos']} of them listed as wrong",
        f"Frames : {coverage['frames']}, {per_video['min']} to {per_video['max']} per video; "
        f"{len(unusable)} unusable",
        f"Pairs : {coverage['pairs']}, {coverage['genuine']} genuine and {coverage['impostor']} impostor; "
        f"{coverage['pairs_left_out']} left out",
    ]
    for kind, names in (("missing", missing), ("empty", empty)):
        lines += _shown(kind, names)
    return lines + _shown("unusable", [f"{path}: {reason}" for path, reason in unusable.items()])


def is_complete(coverage):
    """Whether every video and every frame that was asked for can be used."""
    return not (coverage["missing"] or coverage["empty"] or coverage["unusable"])


def _shown(kind, names):
    lines = [f"  {kind}: {name}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        lines.append(f"  {kind}: and {len(names) - _SHOWN} more")
    return lines
