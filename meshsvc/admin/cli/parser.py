"""What the arguments are declared with: a parser, and a place to add verbs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from meshsvc.admin.cli import exits

Verb = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser that ends the program with the exit code for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to read on."""
        self.print_usage(sys.stderr)
        self.exit(exits.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


class Verbs:
    """Where verbs are added, and the options they all have."""

    def __init__(
        self,
        adding: argparse._SubParsersAction[Parser],
        *common: Parser,
    ) -> None:
        self.adding = adding
        self.common = common

    def add(self, name: str, function: Verb, *more: Parser) -> Parser:
        """A verb, described by the first line of its function, with options of its own kind."""
        text = (function.__doc__ or "").splitlines()[0].replace("``", "")
        parents = (*self.common, *more)
        made = self.adding.add_parser(name, help=text, description=text, parents=parents)
        made.set_defaults(verb=function)
        return made

    def below(self, parser: Parser, required: bool) -> Verbs:
        """Where the verbs of a verb are added."""
        metavar = "VERB" if required else "[VERB]"
        return Verbs(parser.add_subparsers(metavar=metavar, required=required), *self.common)

    def group(self, name: str, text: str, *more: Parser) -> Verbs:
        """Where verbs are added below a word that does nothing by itself."""
        parser = self.adding.add_parser(name, help=text, description=text)
        below = parser.add_subparsers(metavar="VERB", required=True)
        return Verbs(below, *self.common, *more)
