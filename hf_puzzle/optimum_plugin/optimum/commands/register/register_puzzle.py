"""`optimum-cli puzzle ...`: the same commands as `hf-puzzle ...`, found by optimum through its namespace package.

This folder is no package of hf_puzzle: installing puts the file into optimum's namespace, as
`optimum.commands.register.register_puzzle`.
"""

import argparse
import sys

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


class PuzzleCommand(BaseOptimumCLICommand):
    """Hands everything behind `puzzle` to hf_puzzle's own command line."""

    COMMAND = CommandInfo(
        name="puzzle", help="Compress a model for one machine, and check, convert, export the child."
    )

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "arguments", nargs=argparse.REMAINDER, help="as of `hf-puzzle`; `puzzle -- --help` lists them"
        )

    def run(self) -> None:
        from hf_puzzle.cli import main

        arguments = self.args.arguments
        sys.exit(main(arguments[1:] if arguments[:1] == ["--"] else arguments))


REGISTER_COMMANDS = [PuzzleCommand]
