"""Reads `config.ini`, which says where the data lies."""

import configparser
import dataclasses
import difflib
import re
from pathlib import Path

from dataset.sources import SOURCE_MODULES


WRONG_VIDEOS = Path(__file__).with_name("ytf-error.txt")  # the original's `dataset/ytf-error.txt`


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One set of training images.

    Args:
        name: the section.
        kind: the key in it, one of `dataset.sources.SOURCE_MODULES`.
        path: the value of that key.
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
    """The contents of `config.ini`. Paths are absolute or relative to the working directory."""

    path: Path
    tfrecords: Path
    sources: dict[str, SourceConfig]
    lfw: LfwConfig
    ytf: YtfConfig

    def source(self, name: str) -> SourceConfig:
        """Returns the section of one source; `ValueError` with the known names if it does not exist."""
        if name not in self.sources:
            known = ", ".join(self.sources) or "none"
            raise ValueError(f"{self.path}: expected a source section [{name}]; sources there: {known}")
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
_REQUIRED_IF_ENABLED = {"lfw": ("npdata",), "ytf": ("pairs", "prefix")}


def read_config(path: Path) -> Config:
    """Reads and checks `config.ini`. Its sections and keys are those of the original.

    It does not check whether the files of a source exist, because a run rarely uses all sources.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a section or key is unknown or missing, or a value is invalid. The message names file,
            section and key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; copy config.ini.example to it and edit the paths")
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    parser.optionxform = lambda optionstr: optionstr  # keys are case-sensitive, as paths are
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable configuration: {error}") from None

    sources = {}
    for section in parser.sections():
        if section in _FIXED_SECTIONS:
            _check_keys(path, parser, section, _FIXED_SECTIONS[section])
        else:
            sources[section] = _source(path, parser, section)
    if not parser.has_option("records", "tfrecords"):
        raise ValueError(f"{path}: expected key 'tfrecords' in section [records]: where converted sources go")
    return Config(
        path=path,
        tfrecords=_path(path, parser["records"]["tfrecords"]),
        sources=sources,
        lfw=_benchmark(path, parser, "lfw"),
        ytf=_benchmark(path, parser, "ytf"),
    )


def _source(path, parser, section):
    given = [kind for kind in _SOURCE_KINDS if parser.has_option(section, kind)]
    if not given:
        unknown = [key for key in parser[section] if key not in _SOURCE_KEYS]
        near = _nearest(section, _FIXED_SECTIONS) or _nearest(next(iter(unknown), ""), _SOURCE_KEYS)
        raise ValueError(
            f"{path}: section [{section}] is neither one of {', '.join(_FIXED_SECTIONS)}, nor a source "
            f"(expected one of the keys {', '.join(_SOURCE_KINDS)}){near}"
        )
    if not re.fullmatch(r"\w[\w.-]*", section):
        # The section becomes the name of a folder that a new conversion replaces.
        raise ValueError(f"{path}: section [{section}]: expected a name of letters, digits, '_', '-' and '.'")
    _check_keys(path, parser, section, _SOURCE_KEYS)
    if len(given) > 1:
        raise ValueError(
            f"{path}: section [{section}]: expected one of {', '.join(_SOURCE_KINDS)}, "
            f"received {', '.join(given)}"
        )
    paths = {key: _path(path, value) for key, value in parser[section].items()}
    return SourceConfig(section, given[0], paths[given[0]], paths.get("prefix"))


def _benchmark(path, parser, section):
    kind = _BENCHMARKS[section]
    if not parser.has_section(section):
        return kind()
    values = {}
    for key, value in parser[section].items():
        if key not in _CHOICES:
            values[key] = _path(path, value)
        elif value.lower() in _CHOICES[key]:
            values[key] = _CHOICES[key][value.lower()]
        else:
            raise ValueError(
                f"{path}: section [{section}]: key '{key}': expected one of {', '.join(_CHOICES[key])}, "
                f"received '{value}'"
            )
    config = kind(**values)
    if config.enable:
        for key in _REQUIRED_IF_ENABLED[section]:
            if getattr(config, key) is None:
                raise ValueError(f"{path}: section [{section}] is enabled: expected key '{key}'")
    return config


def _check_keys(path, parser, section, known):
    for key, value in parser[section].items():
        if key not in known:
            raise ValueError(
                f"{path}: section [{section}]: unknown key '{key}'{_nearest(key, known)}; "
                f"expected {', '.join(known)}"
            )
        if not value:
            raise ValueError(f"{path}: section [{section}]: key '{key}': expected a value, received none")


def _nearest(word, known):
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _path(config_path, value):
    return config_path.parent / Path(value).expanduser()
