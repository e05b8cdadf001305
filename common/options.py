"""Command-line flags that become frozen, typed dataclasses: past the parser no code sees a namespace."""

import argparse
import dataclasses
import typing

# Keys of a field's metadata that are not arguments of `add_argument`.
_FLAGS, _MINIMUM = "flags", "minimum"


def option(default=dataclasses.MISSING, help="", *, flags=(), minimum=None, **argument) -> typing.Any:
    """A field of a dataclass that is also a command-line flag.

    The flag is called like the field. A field that may be left out and has no default of its own has the
    default `None`, which `--help` does not show.

    Args:
        default: value of the flag when it is not given. Without a default the flag is required.
        help: str, what `--help` says about it.
        flags: sequence of str, names to use instead, such as `("--weight_decay", "--weight_deacy")`.
        minimum: smallest valid value.
        **argument: arguments of `argparse.ArgumentParser.add_argument`, such as `type`, `nargs` or `choices`.

    Returns:
        A field for `dataclasses.dataclass`.

    Example:

    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Options:
    ...     batch_size: int = option(64, "images per step", type=int, metavar="N")
    >>> parse_options(argparse.ArgumentParser(), Options, ["--batch_size", "8"])
    Options(batch_size=8)
    """
    own = {_FLAGS: tuple(flags), _MINIMUM: minimum}
    return dataclasses.field(default=default, metadata={**own, "help": help, **argument})


def parse_options(parser, options_class, argv=None, *, defaults=None, faithful=None, presets=None):
    """Parses the command line into an options object.

    A field of `options_class` is either an `option` or a dataclass of options. The latter becomes a group
    of flags in `--help`: the first line of its docstring is the title, the next paragraph the description.
    A class may have a method `problems` that yields one sentence for each wrong value and names the flag;
    values below an option's `minimum` are reported without it.
    The problems of all classes are shown together.

    Args:
        parser: `argparse.ArgumentParser` with the program's name and description.
        options_class: frozen dataclass with keyword-only fields.
        argv: list of str. Defaults to the arguments of the process.
        defaults: dict from flags to defaults of this program in place of the class's.
        faithful: dict from flags to the defaults that `--faithful` sets.
        presets: dict from the names that `--preset` takes to dicts of defaults.

    Returns:
        An instance of `options_class`. Lists of values are tuples.

    Raises:
        SystemExit: with code 2 after a usage error, with code 0 after `--help`.
    """
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    _add_flags(parser, options_class)
    parser.set_defaults(**(defaults or {}))
    parser.set_defaults(**_chosen_defaults(parser, argv, faithful or {}, presets or {}))
    return _build_checked(parser, options_class, vars(parser.parse_args(argv)))


def parse_command(parser, commands, argv=None):
    """Parses a command line that starts with the name of a command, such as `lfw --out lfw.np`.

    Args:
        parser: `argparse.ArgumentParser` with the program's name and description.
        commands: dict from names of commands to options classes as for `parse_options`. The first line of a
            class's docstring describes its command.
        argv: list of str. Defaults to the arguments of the process.

    Returns:
        An instance of the options class of the command.

    Raises:
        SystemExit: with code 2 after a usage error, with code 0 after `--help`.
    """
    subparsers = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    parsers = {}
    for name, options_class in commands.items():
        summary = options_class.__doc__.partition("\n")[0]
        parsers[name] = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        _add_flags(parsers[name], options_class)
    values = vars(parser.parse_args(argv))
    name = values["command"]
    return _build_checked(parsers[name], commands[name], values)


def _build_checked(parser, options_class, values):
    options = _build(options_class, values)
    problems = list(_problems(options))
    if problems:
        parser.error("\n".join(problems))
    return options


def _groups(options_class):
    """Yields `(field, dataclass)`, where the second is `None` for a single flag."""
    hints = typing.get_type_hints(options_class)
    for item in dataclasses.fields(options_class):
        is_flag = _FLAGS in item.metadata
        yield item, None if is_flag else hints[item.name]


def _add_flags(parser, options_class):
    for item, group_class in _groups(options_class):
        if group_class is not None:
            title, _, description = (group_class.__doc__ or item.name).strip().partition("\n")
            group = parser.add_argument_group(title.rstrip("."), description.strip().split("\n\n")[0] or None)
            _add_flags(group, group_class)
            continue
        argument = dict(item.metadata)
        names = argument.pop(_FLAGS) or (f"--{item.name}",)
        del argument[_MINIMUM]
        if item.default is dataclasses.MISSING:
            argument["required"] = True
        has_default = item.default not in (None, dataclasses.MISSING)
        # argparse would show "default: None".
        argument["default"] = item.default if has_default else argparse.SUPPRESS
        parser.add_argument(*names, dest=item.name, **argument)


def _chosen_defaults(parser, argv, faithful, presets):
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--faithful", action="store_true")
    early.add_argument("--preset", choices=presets)
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
            arguments[item.name] = tuple(value) if isinstance(value, list) else value
    return options_class(**arguments)


def _problems(options):
    if hasattr(options, "problems"):
        yield from options.problems()
    for item, group_class in _groups(type(options)):
        value = getattr(options, item.name)
        if group_class is not None:
            yield from _problems(value)
        elif value is not None and item.metadata[_MINIMUM] is not None and value < item.metadata[_MINIMUM]:
            yield f"--{item.name}: expected at least {item.metadata[_MINIMUM]}, received {value}."
