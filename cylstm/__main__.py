"""The command line: arguments in, exit codes out. The work is in the module that a command imports.

Exit codes: 0 done, 1 the command failed, 2 wrong arguments, 130 interrupted.
"""

import argparse
import sys

from cylstm.bench import command

EXAMPLE = "example:\n  python -m cylstm demo --epochs 10 --out digits.safetensors"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Print the whole help, not only the usage line."""
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: error: {message}\n")


def _at_least(least):
    def parse(text):
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(
                f"{number} came, expected an integer of at least {least}"
            )
        return number

    parse.__name__ = "integer"  # argparse: invalid integer value
    return parse


def _demo(arguments):
    from cylstm import demo

    given = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    demo.digits(arguments.out, seed=arguments.seed, **given)


def main(argv=None):
    """Run one command; ``argv`` is ``sys.argv[1:]`` if omitted. Returns the exit code."""
    options = {"epilog": EXAMPLE, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = _Parser(
        prog="python -m cylstm", description="Small, fast recurrent networks on the CPU.", **options
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    text = "train a digit classifier in seconds, test it, stream it, save it"
    demo = commands.add_parser("demo", help=text, description=text, **options)
    demo.add_argument(
        "--out",
        metavar="FILE",
        default="cylstm-digits.safetensors",
        help="where the trained model goes (default: %(default)s)",
    )
    demo.add_argument(
        "--seed", metavar="N", type=_at_least(0), default=0, help="default: %(default)s"
    )
    demo.add_argument(
        "--epochs",
        metavar="N",
        type=_at_least(1),
        help="passes over the training images (default: what reaches 98 %% in seconds)",
    )
    demo.set_defaults(run=_demo)
    text = "time cylstm beside the libraries that are installed, each checked first; about a minute"
    bench = commands.add_parser("bench", help=text, description=text, **{**options, "epilog": command.EXAMPLES})
    command.add_quick_options(bench)
    bench.set_defaults(run=command.quick)

    arguments = parser.parse_args(argv)
    if "run" not in arguments:
        parser.print_help()
        return 0
    try:
        return arguments.run(arguments) or 0
    except (OSError, ValueError, ImportError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
