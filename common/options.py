"""Parses command-line flags into frozen, typed dataclasses."""

import argparse
import contextlib
import dataclasses
import difflib
import io
import operator
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

# Keys of a field's metadata that are not arguments of `add_argument`.
_FLAGS, _LIMITS = "flags", "limits"
_COMPARISONS = {
    "minimum": (">=", operator.ge),
    "above": (">", operator.gt),
    "maximum": ("<=", operator.le),
    "below": ("<", operator.lt),
}
_METAVARS = {int: "N", float: "X", Path: "PATH"}
_TYPE_NAMES = {int: "a whole number", float: "a number"}

Options = TypeVar("Options")


def option(
    default: Any = dataclasses.MISSING, help: str = "", *, flags: Sequence[str] = (), **argument: Any
) -> Any:
    """Declares a field of a dataclass that is also a command-line flag.

    The flag has the name of the field, and the field's annotation sets its type: `int`, `int | None` and
    `tuple[int, ...]` take integers, `Literal["a", "b"]` takes one of these values, and `bool` is a switch
    without a value. The default `None` marks an optional flag without a default value; `--help` does not
    show it.

    Args:
        default: value of the flag if it is not given. Without a default the flag is required.
        help: description of the flag for `--help`.
        flags: other names for the flag, such as `("--weight_decay", "--weight_deacy")`. The name of the field
            without dashes makes it a positional argument. Defaults to the name of the field.
        **argument: limits of the value (`minimum`, `above`, `maximum`, `below`), and arguments of
            `argparse.ArgumentParser.add_argument`, such as `nargs` or `choices`, which override the
            annotation.

    Returns:
        A field for `dataclasses.dataclass`.

    Example:

    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Options:
    ...     batch_size: int = option(64, "images per step", minimum=1)
    >>> parse_options(argparse.ArgumentParser(), Options, ["--batch_size", "8"])
    Options(batch_size=8)
    """
    limits = {name: argument.pop(name) for name in _COMPARISONS if name in argument}
    metadata = {_FLAGS: tuple(flags), _LIMITS: limits, "help": help, **argument}
    return dataclasses.field(default=default, metadata=metadata)


@contextlib.contextmanager
def exit_on_errors(program: str) -> Iterator[None]:
    """Exits with a message on a `ValueError` or `OSError` in the block, and with code 130 on Ctrl-C.

    From then on, `print` escapes characters that the terminal cannot show, such as `\\udcff`, as Python does
    on standard error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"{program}: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def parse_options(
    parser: argparse.ArgumentParser,
    options_class: type[Options],
    argv: Sequence[str] | None = None,
    *,
    defaults: dict[str, Any] | None = None,
    faithful: dict[str, Any] | None = None,
    presets: dict[str, dict[str, Any]] | None = None,
    find_input_problems: Callable[[Options], Iterable[str]] | None = None,
) -> Options:
    """Parses the command line into an options object.

    A field of `options_class` is either an `option` or a dataclass of options. A dataclass becomes a group
    of flags in `--help`: the first line of its docstring is the title, and the next paragraph is the
    description. Other fields keep their defaults.

    A class may have a method `problems` that yields one sentence for each wrong value and names the flag.
    All problems are shown together, including those that `find_input_problems` yields.

    Args:
        parser: parser with the program's name and description.
        options_class: frozen dataclass with keyword-only fields.
        argv: command line. Defaults to the arguments of the process.
        defaults: dict from flag to a default that replaces the one of the class.
        faithful: dict from flag to the default that `--faithful` sets.
        presets: for each name that `--preset` accepts, a dict from flag to default.
        find_input_problems: yields one sentence for each problem with the files that the options name.

    Returns:
        An instance of `options_class`. Flags with several values hold tuples.

    Raises:
        SystemExit: with code 2 after a usage error, code 1 if only inputs are wrong, code 0 after help.
    """
    parser.formatter_class = _HelpFormatter
    _add_flags(parser, options_class)
    _set_usage(parser)
    chosen = _chosen_defaults(parser, argv, faithful or {}, presets or {})
    parser.set_defaults(**{flag: _as_typed(value) for flag, value in {**(defaults or {}), **chosen}.items()})
    values, unknown = parser.parse_known_args(argv)
    return _build_checked(parser, options_class, vars(values), unknown, find_input_problems)


def parse_command(
    parser: argparse.ArgumentParser, commands: dict[str, type], argv: Sequence[str] | None = None
) -> Any:
    """Parses a command line that starts with the name of a command, such as `lfw --out lfw.np`.

    Args:
        parser: parser with the program's name and description.
        commands: dict from the name of a command to its options class. The first line of the class's
            docstring describes the command in `--help`.
        argv: command line. Defaults to the arguments of the process.

    Returns:
        An instance of the command's options class, checked as by `parse_options`.

    Raises:
        SystemExit: as in `parse_options`.
    """
    subparsers = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    parsers = {}
    for name, options_class in commands.items():
        summary = (options_class.__doc__ or "").partition("\n")[0]
        parsers[name] = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=_HelpFormatter
        )
        _add_flags(parsers[name], options_class)
        _set_usage(parsers[name])
    given, unknown = parser.parse_known_args(argv)
    values = vars(given)
    name = values["command"]
    return _build_checked(parsers[name], commands[name], values, unknown)


def flag_values(options: Any) -> dict[str, Any]:
    """Returns a dict from the field name of every flag, in all groups, to its value."""
    values = {}
    for item, group_class in _groups(type(options)):
        value = getattr(options, item.name)
        values |= {item.name: value} if group_class is None else flag_values(value)
    return values


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean ...?` with the most similar known word, or `""` if none is similar."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


class ShortHelpParser(argparse.ArgumentParser):
    """A parser whose `--help` shows the most important flags. `--help-all` shows every flag.

    Args:
        prog: name of the program, such as `python -m train_centre`.
        description: what the program does.
        first_flags: names of the flags that `--help` shows, without dashes, in this order.
    """

    def __init__(self, prog: str, description: str, first_flags: Sequence[str]) -> None:
        super().__init__(prog, description=description, add_help=False)
        self._first_flags = first_flags
        self.add_argument("-h", "--help", action="help", help="show the most important flags and exit")
        show_all = {"action": _AllHelpAction, "nargs": 0, "default": argparse.SUPPRESS}
        self.add_argument("--help-all", **show_all, help="show every flag and exit")

    def format_help(self) -> str:
        """Returns the text for `--help`."""
        actions = {action.dest: action for action in self._actions}
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        formatter.start_section("most important flags")
        formatter.add_arguments([actions[name] for name in self._first_flags])
        formatter.end_section()
        formatter.add_text("--help-all shows every flag.")
        return formatter.format_help()


class _AllHelpAction(argparse.Action):
    def __call__(self, parser, *_: Any, **__: Any) -> None:
        sys.stdout.write(argparse.ArgumentParser.format_help(parser))
        parser.exit()


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends the default to a flag's help, except for a switch that is off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, bool):
            return f"{action.help} (default: on)" if action.default else action.help
        return super()._get_help_string(action)


def _set_usage(parser):
    """Shortens the usage to the arguments that are required or positional, and `[flags]`."""
    formatter = parser._get_formatter()
    needed = [action for action in parser._actions if action.required or not action.option_strings]
    formatter.add_usage(None, needed, [], prefix="")
    parser.usage = " ".join(formatter.format_help().replace("%", "%%").split()) + " [flags]"


class _WrongValue(NamedTuple):
    """An unreadable value of a flag. It is kept so that it can be reported with all other problems."""

    text: str
    advice: str


def _reader(value_type, choices):
    """Returns a function that reads one value of a flag."""

    def read(text):
        try:
            value = value_type(text)
        except ValueError:
            return _WrongValue(text, f"Give {_TYPE_NAMES[value_type]}.")
        if choices is None or value in choices:
            return value
        names = [str(choice) for choice in choices]
        return _WrongValue(text, f"Give one of {', '.join(names)}.{nearest(text, names)}")

    return read


def _build_checked(parser, options_class, values, unknown, find_input_problems=None):
    problems, wrong, lacks_required = list(_unknown_flags(options_class, unknown)), [], False
    for item in _leaves(options_class):
        value = values.get(item.name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, _WrongValue):
                problems.append(f"{_flags_of(item)[0]} is {one.text}. {one.advice}")
                values.pop(item.name, None)  # Other checks use the default.
                wrong.append(item)
                lacks_required |= item.default is dataclasses.MISSING
    if lacks_required:
        _exit_with(parser, problems, 2)
    options = _build(options_class, values)
    shown = [f"{flag} " for item in wrong for flag in _flags_of(item)]
    problems += [text for text in _problems(options) if not any(flag in text for flag in shown)]
    input_problems = list(find_input_problems(options)) if find_input_problems else []
    if problems or input_problems:
        _exit_with(parser, [*problems, *input_problems], 2 if problems else 1)
    return options


def _exit_with(parser: argparse.ArgumentParser, problems: Sequence[str], code: int) -> NoReturn:
    text = f" {problems[0]}" if len(problems) == 1 else "".join(f"\n  {problem}" for problem in problems)
    help_flag = "--help-all" if isinstance(parser, ShortHelpParser) else "--help"
    hint = f"\nRun {parser.prog} {help_flag} to see all flags." if code == 2 else ""
    parser.exit(code, f"{parser.prog}: error:{text}{hint}\n")


def _unknown_flags(options_class, unknown):
    known = [flag for item in _leaves(options_class) for flag in _flags_of(item)]
    is_value = False  # the value of an unknown flag
    for text in unknown:
        if text.startswith("--"):
            flag = text.partition("=")[0]
            yield f"{flag} is not a known flag.{nearest(flag, known)}"
        elif not is_value:
            yield f"{text}: expected a flag here."
        is_value = text.startswith("--")


def _leaves(options_class):
    """Yields the fields of all groups that are flags."""
    for item, group_class in _groups(options_class):
        if group_class is None:
            yield item
        else:
            yield from _leaves(group_class)


def _flags_of(item):
    return item.metadata[_FLAGS] or (f"--{item.name}",)


def _groups(options_class):
    """Yields `(field, dataclass)`, where the second is `None` for a single flag."""
    hints = typing.get_type_hints(options_class)
    for item in dataclasses.fields(options_class):
        if _FLAGS in item.metadata:
            yield item, None
        elif dataclasses.is_dataclass(hints[item.name]):
            yield item, hints[item.name]


def _value_type(hint):
    """Returns the type of one value, such as `int` for `int | None`, and the choices of a `Literal`."""
    parts = [part for part in typing.get_args(hint) if part not in (type(None), Ellipsis)]
    if typing.get_origin(hint) is typing.Literal:
        return type(parts[0]), parts
    return _value_type(parts[0]) if parts else (hint, None)


def _add_flags(parser, options_class):
    hints = typing.get_type_hints(options_class)
    for item, group_class in _groups(options_class):
        if group_class is not None:
            title, _, description = (group_class.__doc__ or item.name).strip().partition("\n")
            group = parser.add_argument_group(title.rstrip("."), description.strip().split("\n\n")[0] or None)
            _add_flags(group, group_class)
            continue
        argument = dict(item.metadata)
        names = _flags_of(item)
        del argument[_FLAGS], argument[_LIMITS]
        if hints[item.name] is bool:
            argument.setdefault("action", "store_true")
        else:
            value_type, choices = _value_type(hints[item.name])
            value_type, choices = argument.get("type", value_type), argument.pop("choices", choices)
            argument["type"] = _reader(value_type, choices)
            if choices is not None:
                argument.setdefault("metavar", f"{{{','.join(map(str, choices))}}}")
            elif value_type in _METAVARS:
                argument.setdefault("metavar", _METAVARS[value_type])
        if names != (item.name,):  # not positional
            argument |= {"dest": item.name, "required": item.default is dataclasses.MISSING}
        has_default = item.default not in (None, dataclasses.MISSING)
        # argparse would show "default: None".
        argument["default"] = _as_typed(item.default) if has_default else argparse.SUPPRESS
        parser.add_argument(*names, **argument)


class _Words(tuple):
    """A tuple that `--help` shows the way a user types it."""

    def __str__(self) -> str:
        return " ".join(map(str, self))


def _as_typed(value):
    return _Words(value) if isinstance(value, tuple) else value


def _chosen_defaults(parser, argv, faithful, presets):
    early = argparse.ArgumentParser(parser.prog, add_help=False)
    early.add_argument("--faithful", action="store_true")
    early.add_argument("--preset")
    known = early.parse_known_args(argv)[0]
    if known.faithful and known.preset:
        parser.error("--preset and --faithful: give only one of them. Each sets its own list of flags.")
    return faithful if known.faithful else presets.get(known.preset, {})


def _build(options_class, values):
    arguments = {}
    for item, group_class in _groups(options_class):
        if group_class is not None:
            arguments[item.name] = _build(group_class, values)
        elif item.name in values:
            value = values[item.name]
            arguments[item.name] = tuple(value) if isinstance(value, (list, tuple)) else value
    return options_class(**arguments)


def _problems(options):
    if hasattr(options, "problems"):
        yield from options.problems()
    for item, group_class in _groups(type(options)):
        value = getattr(options, item.name)
        if group_class is not None:
            yield from _problems(value)
        elif limits := item.metadata[_LIMITS]:
            comparisons = [(*_COMPARISONS[name], limit) for name, limit in limits.items()]
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not all(holds(number, limit) for _, holds, limit in comparisons):
                    expected = " and ".join(f"{sign} {limit}" for sign, _, limit in comparisons)
                    yield f"{_flags_of(item)[0]} is {number}. Give a number {expected}."
