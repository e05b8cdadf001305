"""The report as one page of HTML: of one run, or of several beside one another."""

import base64
import dataclasses
import json
from html import escape

import numpy as np

from common.files import write_file
from eval.report.comparison import comparison_page
from eval.report.figures import curves_section
from eval.report.html import (
    ERROR_FILTERS,
    FOLDS,
    METHODS,
    RULES,
    bootstrap_note,
    cell,
    count,
    facts,
    fold_name,
    folded,
    folded_list,
    frames_text,
    method_label,
    metric_cells,
    metric_heads,
    name_markup,
    num_found,
    page,
    rate,
    section,
    table,
)
from eval.report.runs import Run


def write_report(runs, path):
    """Writes a page that needs nothing but itself: of one run, or of a comparison.

    The same runs give the same bytes.

    Args:
        runs: sequence of `eval.report.runs.Run`, at least one.
        path: Path of the file; its folder is made if need be.

    Raises:
        FileNotFoundError: a picture of a run is not there.
        ValueError: a picture that is no JPEG, or runs that cannot be compared.
    """
    runs = [_with_dicts(run) for run in runs]
    content = run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    write_file(path, content)


def run_page(run):
    """The page of one run, as text; errors as for `write_report`."""
    sections = (_head, _lines, _methods, _charts, _hardest, _coverage, _inputs)
    return page(f"{run.label}: {run.scores['set']}", "\n".join(part(run) for part in sections))


def _head(run):
    scores = run.scores
    description = METHODS.get(scores["method"], (None, f"Method {scores['method']}."))[1]
    return (
        f'<header>\n<p class="kicker">Video verification on {escape(scores["set"])}</p>\n'
        f"<h1>{name_markup(run.label)}</h1>\n<p>{escape(description)}</p>\n</header>"
    )


def _lines(run):
    scores = run.scores
    parts = []
    for number, line in enumerate(scores["lines"]):
        chosen = ' class="chosen"' if number == run.line_number else ""
        parts.append(
            f'<div{chosen}><dt>{escape(line["name"])}</dt><dd class="value">{rate(line["accuracy"], 5)} '
            f"<small>± {rate(line['std'], 5)}</small></dd>"
            f'<dd class="muted">threshold {rate(line["threshold"])}<br>'
            f"{line['num_pairs']:,} pairs, {line['num_genuine']:,} of them genuine</dd></div>"
        )
    mode = (
        "faithful: as the original scored"
        if scores["faithful"]
        else "default: the original’s mistakes put right"
    )
    protocol = [
        ("Distances by", method_label(scores["method"])),
        ("Threshold of a fold", RULES[scores["rule"]]),
        ("Folds", FOLDS[scores["folds"]]),
        ("Curves and pictures", f"{scores['lines'][run.line_number]['name']}: {_filter_text(scores)}"),
        ("Mode", mode),
    ]
    return f'<dl class="lines">{"".join(parts)}</dl>\n{facts(protocol)}'


def _filter_text(scores):
    text = ERROR_FILTERS[scores["error_filter"]]
    substring = scores["error_match"] == "substring" and scores["error_filter"] != "none"
    return f"{text}; names match as parts of others" if substring else text


def _methods(run):
    scores = run.scores
    rows = []
    for name, method in scores["methods"].items():
        chosen = name == scores["method"]
        lines = [
            cell(accuracy, method["intervals"].get("accuracy") if number == run.line_number else None)
            for number, accuracy in enumerate(method["lines"])
        ]
        cells = [*lines, cell(method["std"]), cell(method["threshold"]), *metric_cells(method)]
        rows.append(
            f'<tr{" class=chosen" if chosen else ""}><th scope="row">{escape(method_label(name))}'
            f"{'<small>chosen</small>' if chosen else ''}</th>{''.join(cells)}</tr>"
        )
    names = [line["name"] for line in scores["lines"]]
    heads = ["Method", ("Accuracy", names), "Std", "Threshold", *metric_heads()]
    return section(
        "Scores of all methods",
        f"<p>All from one pass over the frames. What follows the accuracies is of "
        f"{escape(names[run.line_number])}.</p>",
        table("Scores of all methods", heads, rows),
        bootstrap_note(scores),
    )


def _charts(run):
    scores, number = run.scores, run.line_number
    used = run.arrays["used"][number]
    is_same = run.arrays["is_same"][used]
    names = sorted(scores["methods"], key=lambda name: name != scores["method"])  # the chosen one first
    curves = [(method_label(name), run.arrays[f"distances/{name}"][used], is_same) for name in names]
    label, distances, _ = curves[0]
    accuracies = [
        (names.index(name), method_label(name), method["lines"][number], method["intervals"].get("accuracy"))
        for name, method in scores["methods"].items()
    ]
    return curves_section(
        about=f"{run.label}, {label}",
        curves=curves,
        panels=[(label, distances, is_same, scores["lines"][number]["threshold"])],
        splits=[(line["name"], line["folds"], line["fold_accuracies"]) for line in scores["lines"]],
        accuracies=accuracies,
        frames=[(label, scores["frames_curve"])] if scores["frames_curve"] else [],
        fold_name=fold_name(scores),
        emphasise_first=True,
        further=(_fold_numbers(scores), _frame_numbers(scores)),
    )


def _fold_numbers(scores):
    """What every fold came to, as a table to open."""
    keys = ("fold_accuracies", "fold_thresholds", "fold_sizes")
    rows = []
    for fold in sorted({fold for line in scores["lines"] for fold in line["folds"]}):
        cells = [f'<th scope="row">{fold}</th>']
        for line in scores["lines"]:
            place = line["folds"].index(fold) if fold in line["folds"] else None
            accuracy, threshold, size = (None if place is None else line[key][place] for key in keys)
            cells += [cell(accuracy), cell(threshold), f"<td>{count(size)}</td>"]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    name = fold_name(scores)
    groups = [(escape(line["name"]), ["Accuracy", "Threshold", "Pairs"]) for line in scores["lines"]]
    return folded(f"Every {name} in numbers", table(f"Every {name}", [name.capitalize(), *groups], rows))


def _frame_numbers(scores):
    if not scores["frames_curve"]:
        return ""
    rows = [
        f'<tr><th scope="row">{point["num_frames"]:,}</th>{cell(point["accuracy"])}{cell(point["eer"])}</tr>'
        for point in scores["frames_curve"]
    ]
    heads = ["Frames per video, at most", "Accuracy", "EER"]
    return folded("Template quality in numbers", table("Template quality", heads, rows))


def _hardest(run):
    parts = []
    for kind, text in (
        ("genuine", "Hardest genuine pairs: one person, far apart"),
        ("impostor", "Hardest impostor pairs: two people, close together"),
    ):
        pictures = [_pair(run, entry) for entry in run.scores["hardest"][kind]]
        if pictures:
            parts.append(f'<h3>{text}</h3>\n<div class="pairs">\n{chr(10).join(pictures)}\n</div>')
    if not parts:
        return ""
    text = (
        "Frames of both videos side by side, the distance, and whether the threshold of the pair’s fold gets "
        "it right."
    )
    return section("Hardest pairs", f"<p>{text}</p>", *parts)


def _pair(run, entry):
    pair, path = entry["pair"], run.folder / entry["picture"]
    picture = path.read_bytes()
    if not picture.startswith(b"\xff\xd8"):
        raise ValueError(
            f"{path}: expected a JPEG, received a file that starts with {picture[:8].hex() or 'nothing'}"
        )
    first, second = (str(run.arrays[side][pair]) for side in ("first", "second"))
    distance = rate(run.arrays[f"distances/{run.scores['method']}"][pair])
    verdict = _verdict(run, pair)
    return (
        f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}" '
        f'alt="{escape(f"Frames of {first} beside frames of {second}")}">'
        f'<figcaption><b><span>{distance}</span> <span class="{verdict.split()[-1]}">{verdict}</span></b>'
        f"{name_markup(first)}<br>{name_markup(second)}</figcaption></figure>"
    )


def _verdict(run, pair):
    line = run.scores["lines"][run.line_number]
    fold = run.arrays["folds"][run.line_number, pair]
    if fold < 0:
        return "not scored"
    threshold = line["fold_thresholds"][line["folds"].index(fold)]
    distance = run.arrays[f"distances/{run.scores['method']}"][pair]
    right = (distance < threshold) == run.arrays["is_same"][pair]
    # By this rule a distance equal to the threshold is wrong either way.
    if run.scores["rule"] == "crossing" and distance == threshold:
        right = False
    return "right" if right else "wrong"


def _coverage(run):
    coverage = run.scores["coverage"]
    missing, empty, unusable = coverage["missing"], coverage["empty"], coverage["unusable"]
    per_video = coverage["frames_per_video"]
    videos = [
        ("named", count(coverage["videos"])),
        ("found", count(num_found(coverage))),
        ("missing", count(len(missing))),
        ("without frames", count(len(empty))),
        ("listed as wrong", count(coverage["wrong_videos"])),
    ]
    frames = [
        ("used", count(coverage["frames"])),
        ("unusable", count(len(unusable))),
        ("per video, fewest", count(per_video["min"])),
        ("median", count(per_video["median"])),
        ("most", count(per_video["max"])),
    ]
    pairs = [
        ("named", count(coverage["pairs"])),
        ("genuine", count(coverage["genuine"])),
        ("impostor", count(coverage["impostor"])),
        ("left out", count(coverage["pairs_left_out"])),
    ]
    return section(
        "Coverage",
        *(
            f"<h3>{name}</h3>\n{facts(counts, 'counts')}"
            for name, counts in (("Videos", videos), ("Frames", frames), ("Pairs", pairs))
        ),
        folded_list(f"Missing videos: {len(missing):,}", missing),
        folded_list(f"Videos without usable frames: {len(empty):,}", empty),
        folded_list(
            f"Unusable frames: {len(unusable):,}", [f"{path}: {why}" for path, why in unusable.items()]
        ),
    )


def _inputs(run):
    scores = run.scores
    names = {"model": "Model", "splits": "Splits", "ytf_error": "Wrong videos", "frames": "Frames"}
    files = [
        (name, [scores["inputs"][key]["path"], f"SHA-256 {scores['inputs'][key]['sha256']}"])
        for key, name in names.items()
        if scores["inputs"][key] is not None
    ]
    # Runs of earlier versions do not say what computed their embeddings.
    engine = [("Engine", ", ".join(scores["engine"].values()))] if "engine" in scores else []
    frames = ("Frames as embedded", frames_text(scores["inputs"]["frames"]))
    return section(
        "Inputs",
        facts(files, "files"),
        facts([frames, *engine, *scores["versions"].items()]),
        facts([("Command", [scores["command"]])], "files"),
    )


def _with_dicts(run):
    if isinstance(run, Run):
        return run
    pairs = run.pairs
    arrays = {name: getattr(pairs, name) for name in ("first", "second", "is_same", "splits")}
    arrays |= {name: np.stack(getattr(pairs, name)) for name in ("used", "folds")}
    arrays |= {f"distances/{name}": distances for name, distances in pairs.distances.items()}
    scores = json.loads(json.dumps(dataclasses.asdict(run.scores)))
    if scores["engine"] is None:
        del scores["engine"]
    return Run(run.folder, scores, arrays)
