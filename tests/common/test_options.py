import argparse
import dataclasses
import re
from pathlib import Path
from typing import Literal

import pytest

from common.options import ShortHelpParser, exit_on_errors, option, parse_command, parse_options


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Batches.

    See docs/training.md.
    """

    batch_size: int = option(64, "images per step", type=int, metavar="N")
    mirror: bool = option(True, "flip images at random", action=argparse.BooleanOptionalAction)
    max_steps: int | None = option(None, "stop after N steps", type=int, metavar="N")

    def problems(self):
        if self.batch_size < 1:
            yield f"--batch_size is {self.batch_size}. Give at least 1."


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateOptions:
    """Learning rate."""

    lr_values: tuple[float, ...] = option((0.1, 0.01), "rates", type=float, nargs="+")
    weight_decay: float = option(1e-4, "decay", flags=("--weight_decay", "--weight_deacy"), type=float)

    def problems(self):
        if min(self.lr_values) <= 0:
            yield "--lr_values: give rates above 0."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """All of them."""

    config: Path = option(help="where the data is", type=Path)
    faithful: bool = option(False, "as the original", action="store_true")
    preset: str | None = option(None, "a recipe", choices=("fast",))
    batch: BatchOptions
    rate: RateOptions


def parse(*argv, **arguments):
    return parse_options(
        argparse.ArgumentParser(prog="test"), Options, ["--config", "a.ini", *argv], **arguments
    )


def test_defaults_are_those_of_the_classes():
    assert parse() == Options(config=Path("a.ini"), batch=BatchOptions(), rate=RateOptions())


def test_flags_reach_their_group_with_their_types():
    options = parse("--batch_size", "8", "--no-mirror", "--lr_values", "1", "0.5", "--weight_deacy", "0.2")
    assert options.batch == BatchOptions(batch_size=8, mirror=False)
    assert options.rate == RateOptions(lr_values=(1.0, 0.5), weight_decay=0.2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.batch.batch_size = 9


def test_flags_win_over_faithful_and_faithful_over_defaults():
    sets = {"defaults": {"batch_size": 2, "max_steps": 5}, "faithful": {"batch_size": 3, "mirror": False}}
    sets["presets"] = {"fast": {"lr_values": [1.0]}}
    assert parse(**sets).batch == BatchOptions(batch_size=2, max_steps=5)
    assert parse("--faithful", **sets).batch == BatchOptions(batch_size=3, mirror=False, max_steps=5)
    assert parse("--faithful", "--batch_size=4", **sets).batch.batch_size == 4
    assert parse("--preset", "fast", **sets).rate.lr_values == (1.0,)
    with pytest.raises(SystemExit):
        parse("--preset", "fast", "--faithful", **sets)


def test_all_problems_are_shown_together(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--batch_size", "0", "--lr_values", "0")
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert "--batch_size" in shown and "--lr_values" in shown


def test_every_problem_is_shown_with_its_flag_and_value(capsys):
    with pytest.raises(SystemExit) as end:
        parse(
            "--batch_size", "x", "--lr_values", "0.1", "y", "--preset=fst", "--bach_size", "3", "--mirrored"
        )
    assert end.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in shown] == [
        "test: error:",
        "--bach_size is not a known flag. Did you mean --batch_size?",
        "--mirrored is not a known flag. Did you mean --mirror?",
        "--preset is fst. Give one of fast. Did you mean fast?",
        "--batch_size is x. Give a whole number.",
        "--lr_values is y. Give a number.",
        "Run test --help to see all flags.",
    ]


def test_one_wrong_flag_causes_one_problem(capsys):
    with pytest.raises(SystemExit):
        parse("--lr_values", "0", "--batch_size", "a")
    assert "--lr_values: give rates above 0." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("--weight_deacy", "a")
    assert capsys.readouterr().err.startswith("test: error: --weight_decay is a. Give a number.\n")


def test_problems_of_inputs_are_shown_with_those_of_flags(capsys):
    def find(options):
        yield f"{options.config} does not exist."

    with pytest.raises(SystemExit) as end:
        parse("--batch_size=0", find_input_problems=find)
    shown = capsys.readouterr().err
    assert end.value.code == 2 and "--batch_size is 0" in shown and "a.ini does not exist." in shown
    with pytest.raises(SystemExit) as end:
        parse(find_input_problems=find)
    assert end.value.code == 1 and capsys.readouterr().err == "test: error: a.ini does not exist.\n"


def test_help_names_groups_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "Batches:" in shown and "See docs/training.md." in shown
    assert "images per step (default: 64)" in shown and "None" not in shown
    assert "rates (default: 0.1 0.01)" in shown


def test_usage_is_one_line_with_the_required_arguments(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    assert capsys.readouterr().out.startswith("usage: test --config PATH [flags]\n\n")
    with pytest.raises(SystemExit):
        parse_words("count", "--help")
    assert capsys.readouterr().out.startswith("usage: words count --out PATH [flags]\n\n")


def test_help_says_that_a_switch_is_on_by_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "flip images at random (default: on)" in shown and "False" not in shown


def parse_with_short_help(*argv):
    parser = ShortHelpParser("test", "Does it.", ("lr_values", "batch_size"))
    return parse_options(parser, Options, argv)


def test_short_help_shows_the_first_flags_and_help_all_shows_every_flag(capsys):
    shown = []
    for flag in ("--help", "-h", "--help-all"):
        with pytest.raises(SystemExit) as end:
            parse_with_short_help(flag)
        assert end.value.code == 0
        shown.append(capsys.readouterr().out)
    short, same, complete = shown
    assert short == same and short.startswith("usage: test --config PATH [flags]\n\nDoes it.\n")
    assert re.findall(r"^  (--\w+)", short, re.MULTILINE) == ["--lr_values", "--batch_size"]
    assert "images per step (default: 64)" in short
    assert short.endswith("\n--help-all shows every flag.\n")
    assert complete.startswith("usage: test --config PATH [flags]\n\nDoes it.\n")
    flags = {"--config", "--faithful", "--preset", "--batch_size", "--mirror", "--max_steps", "--lr_values"}
    assert set(re.findall(r"^  (--\w+)", complete, re.MULTILINE)) == {*flags, "--weight_decay", "--help"}


def test_a_wrong_flag_points_to_help_all(capsys):
    with pytest.raises(SystemExit):
        parse_with_short_help("--config=a.ini", "--batch_size=0")
    assert capsys.readouterr().err.endswith("\nRun test --help-all to see all flags.\n")


def test_a_flag_without_default_is_required():
    with pytest.raises(SystemExit):
        parse_options(argparse.ArgumentParser(), Options, [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountOptions:
    """Counts words."""

    out: Path = option(help="where to", type=Path)
    most: int | None = option(None, "words", type=int, minimum=1)


def parse_words(*argv):
    parser = argparse.ArgumentParser(prog="words")
    return parse_command(parser, {"count": CountOptions, "rate": RateOptions}, argv)


def test_a_command_has_options_of_its_own(capsys):
    assert parse_words("count", "--out", "a", "--most", "1") == CountOptions(out=Path("a"), most=1)
    assert parse_words("count", "--out", "a") == CountOptions(out=Path("a"))
    assert parse_words("rate", "--lr_values", "1") == RateOptions(lr_values=(1.0,))
    with pytest.raises(SystemExit):
        parse_words("--help")
    assert "Counts words." in capsys.readouterr().out


def test_a_wrong_value_of_a_required_flag_is_an_error(capsys):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Required:
        """Needs a number."""

        number: int = option(help="a number")
        most: int = option(1, "another")

    with pytest.raises(SystemExit):
        parse_options(argparse.ArgumentParser(), Required, ["--number=a", "--most=b"])
    shown = capsys.readouterr().err
    assert "--number is a." in shown and "--most is b." in shown


@pytest.mark.parametrize("argv", [(), ("sum",), ("count",), ("count", "--out", "a", "--most", "0")])
def test_wrong_commands_are_errors(argv, capsys):
    with pytest.raises(SystemExit) as error:
        parse_words(*argv)
    assert error.value.code == 2
    assert ("--most is 0" in capsys.readouterr().err) == ("0" in argv)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TypedOptions:
    """Types of flags come from annotations."""

    kind: Literal["a", "b"] | None = option(None, "one of two")
    sizes: tuple[int, ...] = option((1, 2), "sizes", nargs="+", minimum=1)
    share: float = option(0.5, "share", above=0, below=1)
    check: bool = option(False, "a switch")
    folder: Path | None = None  # not a flag


def test_annotations_give_types_and_choices():
    parser = argparse.ArgumentParser()
    options = parse_options(parser, TypedOptions, ["--kind=b", "--sizes", "3", "--share=0.2", "--check"])
    assert options == TypedOptions(kind="b", sizes=(3,), share=0.2, check=True)
    for wrong in (["--kind=c"], ["--sizes=1.5"], ["--folder=x"]):
        with pytest.raises(SystemExit):
            parse_options(argparse.ArgumentParser(), TypedOptions, wrong)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--sizes", "1", "0"], "--sizes is 0. Give a number >= 1."),
        (["--share=1"], "--share is 1.0. Give a number > 0 and < 1."),
        (["--share=nan"], "--share is nan."),
    ],
)
def test_limits_are_checked(given, problem, capsys):
    with pytest.raises(SystemExit):
        parse_options(argparse.ArgumentParser(), TypedOptions, given)
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a: wrong"), "name: a: wrong"),
        (OSError("b: full"), "name: b: full"),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_and_ctrl_c_end_a_program(error, code):
    with pytest.raises(SystemExit) as received, exit_on_errors("name"):
        raise error
    assert received.value.code == code


def test_names_that_are_not_utf8_can_be_printed(capsys):
    with exit_on_errors("program"):
        print("a\udcff")
    assert capsys.readouterr().out == "a\\udcff\n"
