"""The charts of a report with their captions, in one order for a run and for a comparison."""

from eval.report.charts import (
    det_chart,
    frames_chart,
    histogram_chart,
    intervals_chart,
    roc_chart,
    splits_chart,
)
from eval.report.html import chart, section


def curves_section(
    about, *, curves, panels, splits, accuracies, frames, fold_name, emphasise_first=False, further=()
):
    """The charts as a section of the page.

    Args:
        about: str, whose curves they are, for those who cannot see them.
        curves: for `roc_chart` and `det_chart`.
        panels: for `histogram_chart`.
        splits: for `splits_chart`.
        accuracies: for `intervals_chart`.
        frames: for `frames_chart`; may be empty.
        fold_name: str, what a fold is called.
        emphasise_first: bool, the first curve is the one to look at. Defaults to `False`.
        further: sequence of markup for below the charts.

    Returns:
        str, markup.
    """
    first = "The thick line is the chosen method. " if emphasise_first else ""
    drawn = [
        (
            roc_chart(curves, "roc", f"ROC curves of {about}", emphasise_first),
            ("ROC", f"{first}Curves start where one impostor pair is accepted."),
        ),
        (
            det_chart(curves, "det", f"DET curves of {about}", emphasise_first),
            ("DET", "Both errors, on axes of normal deviates. On the dotted line they are equal (EER)."),
        ),
        (
            histogram_chart(panels, "distances", f"Histograms of distances of {about}"),
            ("Distances", "The threshold is the mean over the folds."),
        ),
        (
            splits_chart(splits, "splits", f"Accuracies of folds of {about}", fold_name),
            (f"Every {fold_name}", "With the threshold found on the others."),
        ),
        (
            intervals_chart(accuracies, "accuracies", f"Accuracies of {about}"),
            ("Accuracies", "Means over the folds, with their intervals."),
        ),
    ]
    if frames:
        drawn.append(
            (
                frames_chart(frames, "frames", f"Accuracy by number of frames of {about}"),
                ("Template quality", "Of each video at most so many frames are used, evenly spaced."),
            )
        )
    charts = "\n".join(chart(svg, *caption) for svg, caption in drawn)
    return section("Curves", f'<div class="charts">\n{charts}\n</div>', *further)
