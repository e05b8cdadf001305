"""Reads `config.ini`, which contains the paths of the data."""

import configparser
import dataclasses
import re
from pathlib import Path

from common.options import nearest
from dataset.sources import SOURCE_MODULES

WRONG_VIDEOS = Path(__file__).with_name("ytf-error.txt")  # the original's `dataset/ytf-error.txt`


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One set of training images.

    Args:
        name: name of the section.
        kind: key in that section, one of `dataset.sources.SOURCE_MODULES`.
        path: value of that key.
        prefix: folder that the paths of an image list are relative to. Defaults to the list's folder.
    """

    name: str
    kind: str
    path: Path
    prefix: Path | None = None


@dataclasses.dataclass(frozen=True)
class LfwConfig:
    """LFW, or any set in the same format, for validation."""

    enable: bool = False
    npdata: Path | None = None
    npdata_order: str = "rgb"
    pairs: Path | None = None
    prefix: Path | None = None


@dataclasses.dataclass(frozen=True)
class YtfConfig:
    """YouTube Faces: image pairs, frames of videos, official splits, videos with wrong identities."""

    enable: bool = False
    pairs: Path | None = None
    prefix: Path | None = None
    splits: Path | None = None
    ytf_error: Path = WRONG_VIDEOS


@dataclasses.dataclass(frozen=True)
class Config:
    """The content of `config.ini`. Paths are absolute or relative to the working directory."""

    path: Path
    tfrecords: Path
    sources: dict[str, SourceConfig]
    lfw: LfwConfig
    ytf: YtfConfig

    def source(self, name: str) -> SourceConfig:
        """Returns the section of one source. Raises `ValueError` with the known names if there is none."""
        if name not in self.sources:
            known = ", ".join(self.sources) or "none"
            raise ValueError(
                f"{self.path}: there is no source [{name}]. Known sources: {known}."
                f"{nearest(name, self.sources)}"
            )
        return self.sources[name]


NPDATA_ORDERS = ("rgb", "bgr")
_SOURCE_KINDS = tuple(SOURCE_MODULES)
_SOURCE_KEYS = (*_SOURCE_KINDS, "prefix")
_BENCHMARKS = {"lfw": LfwConfig, "ytf": YtfConfig}
_FIXED_SECTIONS = {  # name -> its keys
    "records": ("tfrecords",),
    **{name: [field.name for field in dataclasses.fields(kind)] for name, kind in _BENCHMARKS.items()},
}
_CHOICES = {
    "enable": configparser.ConfigParser.BOOLEAN_STATES,
    "npdata_order": {order: order for order in NPDATA_ORDERS},
}
_SHOWN = 20  # problems in an error
REQUIRED_IF_ENABLED = {"lfw": ("npdata",), "ytf": ("pairs", "prefix")}


def read_config(path: Path) -> Config:
    """Reads and checks `config.ini`, which has the sections and keys of the original.

    It does not check whether the files of a source exist, because a run rarely uses all sources.

    Raises:
        FileNotFoundError: the file does not exist.
        IsADirectoryError: `path` is a folder.
        ValueError: sections or keys are unknown or missing, or values are invalid. The message has one line
            per problem, with file, section and key.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder. Give the file, such as {path / 'config.ini'}.")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()}: no such file. Copy config.ini.example to it and edit the paths."
        )
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    parser.optionxform = lambda optionstr: optionstr  # keys are case-sensitive, as paths are
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        # The message quotes whole lines, and a file of another kind can be one long line.
        reason = _short(" ".join(str(error).split()), 300)
        raise ValueError(f"{path}: not a readable configuration: {reason}") from None
    return _ConfigReader(path, parser).read()


class _ConfigReader:
    """Converts parsed sections to a `Config`, and collects all problems."""

    def __init__(self, path, parser):
        self._path = path
        self._parser = parser
        self._problems = []
        self._sources = {}

    def read(self):
        values = {section: dict(self._parser[section]) for section in self._parser.sections()}
        for name in values:
            if name not in _FIXED_SECTIONS:
                self._add_source(name, values[name])
        tfrecords = self._check_keys("records", values.get("records", {}), _FIXED_SECTIONS["records"])
        if "tfrecords" not in values.get("records", {}):
            self._add("records", "tfrecords", "is missing. Set it to the folder for converted sources.")
        lfw, ytf = (self._benchmark(name, values.get(name, {})) for name in _BENCHMARKS)
        if self._problems:
            shown, num_more = self._problems[:_SHOWN], len(self._problems) - _SHOWN
            raise ValueError("\n".join(shown) + (f"\nand {num_more} more" if num_more > 0 else ""))
        return Config(self._path, tfrecords["tfrecords"], self._sources, lfw, ytf)

    def _add(self, section, key, text):
        section, key = _short(section), _short(key)
        place = f"[{section}] {key}" if key else f"[{section}]"
        self._problems.append(f"{self._path}, {place} {text}")

    def _add_source(self, section, values):
        given = [kind for kind in _SOURCE_KINDS if kind in values]
        if not given:
            unknown = [key for key in values if key not in _SOURCE_KEYS]
            near = nearest(section, _FIXED_SECTIONS) or nearest(next(iter(unknown), ""), _SOURCE_KEYS)
            self._add(
                section,
                "",
                f"is neither one of {', '.join(_FIXED_SECTIONS)} nor a source. A source needs one of the "
                f"keys {', '.join(_SOURCE_KINDS)}.{near}",
            )
            return
        if not re.fullmatch(r"\w[\w.-]*", section):
            # The name of the section becomes the name of a folder that conversions replace.
            self._add(section, "", "is not a valid name. Use only letters, digits, '_', '-' and '.'.")
        if len(given) > 1:
            self._add(section, "", f"has the keys {', '.join(given)}. Keep one of them.")
        paths = self._check_keys(section, values, _SOURCE_KEYS)
        path = paths.get(given[0], Path())
        self._sources[section] = SourceConfig(section, given[0], path, paths.get("prefix"))

    def _benchmark(self, section, values):
        config = _BENCHMARKS[section](**self._check_keys(section, values, _FIXED_SECTIONS[section]))
        if config.enable:
            for key in REQUIRED_IF_ENABLED[section]:
                if key not in values:
                    self._add(section, key, "is missing. Set it, or set enable = false.")
        return config

    def _check_keys(self, section, values, known):
        """Returns the values of the valid keys, and adds a problem for each other key."""
        checked = {}
        for key, value in values.items():
            choices = _CHOICES.get(key, {})
            if key not in known:
                near = nearest(key, known) or f" Known keys: {', '.join(known)}."
                self._add(section, key, f"is not a known key.{near}")
            elif not value:
                self._add(section, key, "has no value. Give one, or remove the line.")
            elif not choices:
                try:
                    checked[key] = self._path.parent / Path(value).expanduser()
                except RuntimeError:
                    self._add(
                        section, key, f"is {_short(value)}, but this user does not exist. Give a full path."
                    )
            elif value.lower() in choices:
                checked[key] = choices[value.lower()]
            else:
                self._add(section, key, f"is {_short(value)}. Give one of {', '.join(choices)}.")
        return checked


def _short(text, length=80):
    return text if len(text) <= length else f"{text[:length]}..."
