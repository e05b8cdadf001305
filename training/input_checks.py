"""Checks the files that flags name: config, data, models, checkpoints. Imports no TensorFlow."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset.config import REQUIRED_IF_ENABLED, Config, read_config
from dataset.records.manifest import MANIFEST_NAME
from dataset.sources import UNLABELLED
from nets.importers.model_files import find_model, model_sha256
from nets.importers.tf1_weights import checkpoint_prefix
from nets.importers.training_checkpoint import checkpoint_folders, read_manifest
from training.options import CentreStartOptions, TrainingOptions, TripletStartOptions
from training.run_record import changed_flags, read_starts, shown

logger = logging.getLogger(__name__)

_UNREADABLE = "does not exist or cannot be read"


def find_input_problems(options: TrainingOptions) -> Iterator[str]:
    """Yields one sentence for each file that is missing or contradicts the flags."""
    try:
        yield from _missing_data(read_config(options.data.config), options)
    except (ValueError, OSError) as error:
        yield from str(error).splitlines()
    try:
        yield from _start_problems(options)
    except (ValueError, OSError) as error:
        yield str(error)


def start_record(options: TrainingOptions) -> dict[str, Any]:
    """Describes the model that a new run starts from, for its checkpoints.

    Returns:
        The path of each flag that names a model, as given and absolute. Empty if the run starts from random
        weights. The path as given identifies the same model after all folders were moved, and the absolute
        path does so from another working directory.
    """
    models = options.start.models()
    return {flag: {"given": str(path), "full": str(path.resolve())} for flag, path in models.items()}


def log_start_of_resumed_run(options: TrainingOptions, folder: Path, manifest: dict[str, Any]) -> None:
    """Logs which flags name a model that is not read, because the run resumes from a checkpoint.

    Args:
        options: the flags.
        folder: the checkpoint.
        manifest: manifest of the checkpoint.
    """
    for flag, path in options.start.models().items():
        if "started_from" in manifest:
            logger.info("--%s %s is not read again: this run resumes from %s", flag, path, folder)
        else:
            logger.warning(
                "--%s %s is not used: this run resumes from %s, which does not record its start model",
                *(flag, path, folder),
            )


def _missing_data(config: Config, options: TrainingOptions) -> Iterator[str]:
    for name in options.data.source:
        try:
            source = config.source(name)
        except ValueError as error:
            yield str(error)
            continue
        if source.kind in UNLABELLED and options.needs_labels:
            advice = "Only train_centre --loss distillation takes it. Choose other sections with --source."
            yield f"{config.path}, [{name}] {source.kind} has no labels. {advice}"
        is_converted = (config.tfrecords / name / MANIFEST_NAME).is_file()
        if not (is_converted or _is_readable(source.path)):
            advice = "Set the path, or choose other sections with --source."
            yield f"{config.path}, [{name}] {source.kind}: {source.path} {_UNREADABLE}. {advice}"
    needed = {
        (section, key): "Set the path, or set enable = false."
        for section, keys in REQUIRED_IF_ENABLED.items()
        if getattr(config, section).enable
        for key in keys
    }
    if options.validation.validate_videos is not None:
        needed |= {
            ("ytf", key): "Set the path, or leave out --validate_videos." for key in ("splits", "prefix")
        }
    for (section, key), advice in needed.items():
        path = getattr(getattr(config, section), key)
        if path is None or not _is_readable(path):
            state = " is missing" if path is None else f": {path} {_UNREADABLE}"
            yield f"{config.path}, [{section}] {key}{state}. {advice}"


def _start_problems(options: TrainingOptions) -> Iterator[str]:
    start, folder = options.start, options.output.ckpt_path
    for flag, path in start.models().items():
        if not (_is_readable(path) or checkpoint_prefix(path)):
            yield f"--{flag}: {path} {_UNREADABLE}, and it is not the prefix of a TensorFlow 1 checkpoint."
    teacher = options.distillation.teacher
    if teacher is not None and not (_is_readable(teacher) or checkpoint_prefix(teacher)):
        yield f"--teacher: {teacher} {_UNREADABLE}."
        return
    newest = _newest_manifest(folder)
    if newest is not None:
        yield from _other_start(options, *newest)
    elif isinstance(start, TripletStartOptions) and not (start.model_path or start.from_scratch):
        yield (
            f"There is no net to fine-tune: --model_path is not given, and --ckpt_path {folder} has no "
            "checkpoint to resume from. Give --model_path MODEL, or --from_scratch for random weights."
        )
    elif isinstance(start, CentreStartOptions) and start.model_path:
        newest = _newest_manifest(start.model_path)
    if newest is not None:
        yield from _changes(options, *newest)


def _other_start(options, newest, manifest):
    """Yields a problem for each flag that names another model than the one that the run started from."""
    recorded = manifest.get("started_from")
    if not _is_start_record(recorded):  # an old checkpoint
        return
    started = " ".join(f"--{flag} {paths['given']}" for flag, paths in recorded.items()) or "random weights"
    given = dict(options.start.models())
    if getattr(options.start, "from_scratch", False) and recorded:
        given["from_scratch"] = None
    for flag, path in given.items():
        if path and ((flag in recorded and _is_same(path, recorded[flag])) or _is_own(path, newest)):
            continue
        name = f"--{flag} {path}" if path else f"--{flag}"
        yield (
            f"{name} contradicts the run in {newest.parent}, which started from {started} and is at step "
            f"{manifest['step']}. Leave out --{flag} to resume that run, or give --output NEW for a new run."
        )


def _changes(options, checkpoint, manifest):
    """Yields a problem for each change that prevents a resume, or would make the result meaningless."""
    is_own = checkpoint.parent == options.output.ckpt_path
    run = f"the run in {checkpoint.parent}"
    other_way = "--output NEW for a new run" if is_own else "--init_from to take only its net"
    before, net = manifest["net"], options.net.arguments(options.data.seed, manifest["net"])
    given = [f"--{name}" for name in ("net_depth", "net_type", "backbone") if getattr(options.net, name)]
    sizes = ("image_size", "embedding_size")
    for key, flags in (("architecture", " ".join(given)), *((size, f"--{size}") for size in sizes)):
        old, new = shown(before.get(key)), shown(net.get(key))
        if key in before and old != new:
            yield f"{flags} is {new} here, but {run} trains {old}. Leave {flags} out, or give {other_way}."
    recipe, optimizer = manifest.get("recipe") or {}, options.optimizer
    old, new = recipe.get("optimizer", "sgd"), optimizer.optimizer
    if old != new:
        yield f"--optimizer is {new}, but {run} has {old}. Give --optimizer {old}, or {other_way}."
    if bool(recipe.get("ema")) != bool(optimizer.ema):
        has, advice = ("no", "Leave it out") if optimizer.ema else ("an", "Give the --ema of that run")
        yield f"--ema is {shown(optimizer.ema)}, but {run} has {has} average. {advice}, or give {other_way}."
    old, new = manifest["loss"], options.loss_name
    changed = {"loss": (old, new)}
    if old != new and "triplet" in (old, new):
        yield f"{run} has the loss {old}, which this program cannot resume with {new}. Give {other_way}."
        changed = {}
    if options.allow_changes:
        return
    for key, absent in (("keep_prob", None), ("seed", None), ("random_final_gamma", False)):
        if key in net:
            changed[key] = before.get(key, absent), net[key]
    yield from _other_teacher(options, manifest.get("teacher"), run, other_way)
    # Checkpoints do not store these flags, but run.json does.
    previous = changed_flags(options, read_starts(checkpoint.parent)[-1:])
    changed |= {flag: previous[flag] for flag in ("batch_size", "source") if flag in previous}
    for flag, values in changed.items():
        old, new = map(shown, values)
        if old != new:
            advice = f"Leave out --{flag}" if values[0] is False else f"Give --{flag} {old}"
            yield (
                f"--{flag} is {new}, but {run} has {old}. {advice}, give {other_way}, or give "
                "--allow_changes to resume with this change."
            )


def _other_teacher(options, recorded, run, other_way):
    """Yields a problem if the teacher is not that of the run. Its SHA-256 decides that."""
    path = options.distillation.teacher
    if path is None and recorded:
        problem, advice = f"--teacher is not given, but {run} has a teacher", "Give its teacher"
    elif path is not None and not recorded:
        problem, advice = f"--teacher is {path}, but {run} has no teacher", "Leave out --teacher"
    elif path is not None and model_sha256(find_model(path)) != recorded:
        problem = f"--teacher: {path} is not the teacher of {run}, whose SHA-256 begins with {recorded[:12]}"
        advice = "Give that teacher"
    else:
        return
    yield f"{problem}. {advice}, give {other_way}, or give --allow_changes to resume with this change."


def _is_start_record(value):
    """Tells whether a value has the form that `start_record` returns. Old checkpoints lack the record."""
    if not isinstance(value, dict):
        return False
    return all(isinstance(paths, dict) and paths.keys() >= {"given", "full"} for paths in value.values())


def _is_readable(path):
    return os.access(path, os.R_OK)


def _is_same(path, recorded):
    return str(path) == recorded["given"] or str(path.resolve()) == recorded["full"]


def _is_own(path, newest):
    return path.resolve() in (newest.resolve(), newest.parent.resolve())


def _newest_manifest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Reads the manifest of the newest checkpoint whose manifest is readable. Checks no checksums."""
    for checkpoint in checkpoint_folders(folder):
        try:
            return checkpoint, read_manifest(checkpoint)
        except ValueError:
            pass  # `newest_checkpoint` logs it when the run starts.
    return None
