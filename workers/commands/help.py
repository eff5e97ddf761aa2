"""Help in plain words: no types of a programming language, no marks of code, and examples at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from workers.commands.examples import EXAMPLES

__all__ = ["explain_plainly", "plain_text"]

_MAX_CHOICES: Final = 32  # characters of choices beside an option's name
_WORDS: Final = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "FILE"}
_COLUMN: Final = 2
_NO_LIMIT: Final = 2**31 - 1  # from here on, a maximum is only what Kafka and Postgres can hold: nobody has to know


def plain_text(text: str | None) -> str | None:
    """Return a text without marks of code, each paragraph on one line: the terminal's width breaks the lines."""
    if not text:
        return text
    return "\n\n".join(" ".join(paragraph.replace("`", "").split()) for paragraph in text.split("\n\n"))


def explain_plainly(command: Any, path: str) -> None:  # noqa: ANN401 - typer's classes are not typed
    """Rewrite the help of a command, and of the commands in it.

    Args:
        command: the command or group.
        path: its name as it is typed after `inmail`; an empty text for `inmail` itself.

    """
    command.help = plain_text(command.help)
    if path in EXAMPLES:
        command.epilog = _examples(path)
    find: Callable[[Any], list[Any]] = command.get_params

    def get_params(context: Any) -> list[Any]:  # noqa: ANN401 - typer's
        found = find(context)  # with --help
        for parameter in found:
            _spell(parameter)
        return found

    command.get_params = get_params
    if path:
        for name, each in getattr(command, "commands", {}).items():
            explain_plainly(each, f"{path} {name}")


def _examples(path: str) -> str:
    width = max(len(line) for line, _ in EXAMPLES[path]) + _COLUMN
    # On a narrow terminal a purpose below its line is read more easily than one that is wrapped beside it.
    lines = [f"  {line.ljust(width)}# {purpose}" for line, purpose in EXAMPLES[path]]
    if max(map(len, lines)) > 78:
        lines = [f"  # {purpose}\n  {line}" for line, purpose in EXAMPLES[path]]
    return "\n".join(["Examples:", *lines])


def _spell(parameter: Any) -> None:  # noqa: ANN401 - typer's
    """Give a parameter a word for its value, and its range and choices in words."""
    if getattr(parameter, "spelled", False):
        return
    parameter.spelled = True
    help_ = plain_text(parameter.help) or ""
    if parameter.param_type_name == "argument":
        word = parameter.metavar or (parameter.name or "").upper()
        parameter.metavar = word
        many = "" if parameter.nargs == 1 or "..." in word else "..."
        choices = "|".join(_choices(parameter))
        parameter.get_usage_pieces = lambda ctx: [word + many]  # noqa: ARG005 - as typer calls it
        parameter.display_type_rich = lambda ctx: choices  # noqa: ARG005
    elif parameter.is_flag:
        parameter.metavar = ""
    elif parameter.metavar is None:
        parameter.metavar, told = _word(parameter)
        help_ = f"{help_} {told}".strip()
    if (limits := parameter._get_number_range_help_str()) is not None:  # noqa: SLF001 - no other way
        parameter._get_number_range_help_str = lambda: None  # noqa: SLF001
        help_ = f"{help_} {_range(parameter.min, parameter.max, limits)}".strip()
    parameter.help = help_


def _word(parameter: Any) -> tuple[str, str]:  # noqa: ANN401 - typer's
    """Return the word for an option's value, and a sentence with its choices if they are many."""
    if choices := _choices(parameter):
        if len("|".join(choices)) <= _MAX_CHOICES:
            return "|".join(choices), ""
        return (parameter.name or "").rstrip("_").upper(), f"One of {', '.join(choices)}."
    kind = str(parameter.type_descriptor.annotation)
    word = next((word for each, word in _WORDS.items() if each.__name__ in kind), "TEXT")
    return word if word != "TEXT" else (parameter.name or "").rstrip("_").upper(), ""


def _choices(parameter: Any) -> list[str]:  # noqa: ANN401 - typer's
    return [str(getattr(each, "value", each)) for each in parameter.type_descriptor.choices or ()]


def _range(least: float | None, most: float | None, limits: str) -> str:
    if most is not None and most >= _NO_LIMIT:
        most = None
    if least is not None and most is not None:
        return f"From {least:,g} to {most:,.15g}."
    return f"At least {least:,g}." if least is not None else f"At most {most:,g}." if most is not None else limits
