"""What is said on standard error: one line each, with nothing in it that a terminal would obey."""

from __future__ import annotations

import codecs
import re
from typing import TextIO

import typer


class Mistake(typer.TyperException):
    """A mistake on the command line that shows before anything heavy is imported."""

    exit_code = 2


def say(line: str) -> None:
    """A line on standard error."""
    typer.echo(one_line(line), err=True)


def one_line(text: str) -> str:
    """The text with its line breaks as blanks, and other control characters as escapes such as `\\x1b`."""
    return visible(re.sub(r"\s*[\r\n]\s*", " ", text.strip()))


def visible(text: str) -> str:
    """The text with every character that is not printed (escapes, line breaks, marks of direction) as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def takes_unicode(stream: TextIO) -> bool:
    """Whether every character can be written to a stream."""
    return codecs.lookup(stream.encoding or "ascii").name.startswith("utf")
