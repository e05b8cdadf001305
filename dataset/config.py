"""`config.ini`: where the data lies. Read once at start, typed, checked."""

import configparser
import dataclasses
import difflib
import re
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One set of training images. Exactly one of `mxrec`, `train_list`, `tfrecord` is set."""

    name: str
    mxrec: Path | None = None
    train_list: Path | None = None
    prefix: Path | None = None
    tfrecord: Path | None = None


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
    """YouTube Faces: image pairs, videos, official splits, wrong videos."""

    enable: bool = False
    pairs: Path | None = None
    prefix: Path | None = None
    splits: Path | None = None
    ytf_error: Path | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """All of `config.ini`. Paths are absolute or relative to the working directory."""

    path: Path
    tfrecords: Path
    sources: dict[str, SourceConfig]
    lfw: LfwConfig
    ytf: YtfConfig

    def source(self, name):
        """The section of one source; `ValueError` with the known names if there is none."""
        if name not in self.sources:
            known = ", ".join(self.sources) or "none"
            raise ValueError(f"{self.path}: expected a source section [{name}]; sources there: {known}")
        return self.sources[name]


NPDATA_ORDERS = ("rgb", "bgr")
_SOURCE_KINDS = ("mxrec", "train_list", "tfrecord")
_SOURCE_KEYS = (*_SOURCE_KINDS, "prefix")
_FIXED_SECTIONS = {"records": ("tfrecords",), "lfw": LfwConfig, "ytf": YtfConfig}
_NEEDED_IF_ENABLED = {"lfw": ("npdata",), "ytf": ("pairs", "prefix")}


def read_config(path):
    """Reads and checks `config.ini`; sections and keys as in the original's `config.ini`.

    Only what the file says is checked here; whether a source's files exist is checked
    where that source is used, because a run rarely uses all of them.

    Args:
        path: str or Path.

    Returns:
        A `Config`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown section or key (with the nearest known one), a missing one,
            or a value of the wrong type. The message names file, section and key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; copy config.ini.example to it and edit the paths")
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    parser.optionxform = str  # keys are case-sensitive, as paths are
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable configuration: {error}") from None

    sources = {}
    for section in parser.sections():
        known = _FIXED_SECTIONS.get(section)
        if known is None:
            sources[section] = _source(path, parser, section)
        elif section != "records":
            _check_keys(path, parser, section, [field.name for field in dataclasses.fields(known)])
        else:
            _check_keys(path, parser, section, known)
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
    if not any(parser.has_option(section, kind) for kind in _SOURCE_KINDS):
        unknown = [key for key in parser[section] if key not in _SOURCE_KEYS]
        near = _nearest(section, _FIXED_SECTIONS) or _nearest(next(iter(unknown), ""), _SOURCE_KEYS)
        raise ValueError(
            f"{path}: section [{section}] is neither one of {', '.join(_FIXED_SECTIONS)}, nor a source "
            f"(expected one of the keys {', '.join(_SOURCE_KINDS)}){near}"
        )
    if not re.fullmatch(r"\w[\w.-]*", section):
        # It becomes the name of a folder, which a new conversion replaces.
        raise ValueError(f"{path}: section [{section}]: expected a name of letters, digits, '_', '-' and '.'")
    _check_keys(path, parser, section, _SOURCE_KEYS)
    given = [kind for kind in _SOURCE_KINDS if parser.has_option(section, kind)]
    if len(given) != 1:
        raise ValueError(
            f"{path}: section [{section}]: expected one of {', '.join(_SOURCE_KINDS)}, "
            f"received {', '.join(given)}"
        )
    return SourceConfig(section, **{key: _path(path, value) for key, value in parser[section].items()})


def _benchmark(path, parser, section):
    kind = _FIXED_SECTIONS[section]
    if not parser.has_section(section):
        return kind()
    values = {}
    for key, value in parser[section].items():
        if key == "enable":
            values[key] = _switch(path, section, key, value)
        elif key == "npdata_order":
            values[key] = _one_of(path, section, key, value, NPDATA_ORDERS)
        else:
            values[key] = _path(path, value)
    config = kind(**values)
    if config.enable:
        for key in _NEEDED_IF_ENABLED[section]:
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


def _switch(path, section, key, value):
    states = configparser.ConfigParser.BOOLEAN_STATES
    if value.lower() not in states:
        raise ValueError(
            f"{path}: section [{section}]: key '{key}': expected one of {', '.join(states)}, "
            f"received '{value}'"
        )
    return states[value.lower()]


def _one_of(path, section, key, value, choices):
    if value.lower() not in choices:
        raise ValueError(
            f"{path}: section [{section}]: key '{key}': expected {' or '.join(choices)}, received '{value}'"
        )
    return value.lower()
