"""The command ``unlabeled``: finds the command, runs it, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cyclopts
from cyclopts import App

from unlabeled import __version__
from unlabeled.catalogue import cards
from unlabeled.cli.commands import COMMANDS
from unlabeled.cli.faults import command_of, explain_typing
from unlabeled.cli.render import messages, print_error
from unlabeled.errors import DEBUG, UnlabeledError, explain_exception

FLAGS = ("--quiet", "--resume", "--json")
INTERRUPTED = 130  # what shells say of a program that Ctrl-C ended
# threads of OpenMP that wait by spinning slow each other down where a machine is shared; a short spin costs nothing
SPIN = ("GOMP_SPINCOUNT", "5000")


def make_app(arguments: Sequence[str]) -> App:
    """Make the application; ``pretrain SLUG`` and ``estimate SLUG`` get the options of the method."""
    app = App(
        name="unlabeled",
        help="Learn from unlabelled medical scans, then from few labels, and measure what it brings.",
        version=__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )
    typed = command_of(arguments)
    for name, (place, does, _) in COMMANDS.items():
        if name == typed and name == "pretrain":
            from unlabeled.cli.pretrain import pretrain_command

            app.command(pretrain_command(slug_of(arguments), arguments), name=name)
        elif name == typed and name == "estimate":
            from unlabeled.cli.estimate import estimate_command

            app.command(estimate_command(slug_of(arguments)), name=name)
        elif name == typed and name == "finetune":
            from unlabeled.cli.finetune import finetune_command

            app.command(finetune_command(arguments), name=name)
        elif name == typed and name == "compare":
            from unlabeled.cli.compare import compare_command

            app.command(compare_command(arguments), name=name)
        elif name == typed:
            app.command(place, name=name)
        else:  # listed, not imported
            app.command(place, name=name, help=does)
    return app


def slug_of(arguments: Sequence[str]) -> str | None:
    """Find the method of ``pretrain`` or ``estimate`` among the words, wherever the options stand.

    >>> slug_of(["pretrain", "--out", "run", "models-genesis", "scans"])
    'models-genesis'
    """
    rest = list(arguments[list(arguments).index(command_of(arguments)) + 1 :])
    known = [word for word in rest if word in cards()]
    if known:
        return known[0]
    before = ["--quiet", *rest]  # a word after an option is its value, unless that is a flag
    free = (
        word
        for last, word in zip(before, rest, strict=False)
        if not word.startswith("-") and (not last.startswith("-") or last in FLAGS)
    )
    return next(free, None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 our fault, 2 the person's, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    os.environ.setdefault(*SPIN)
    try:
        code = make_app(arguments)(
            list(arguments), exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except UnlabeledError as fault:
        print_error(fault)
        return fault.exit_code
    except cyclopts.CycloptsError as fault:
        print_error(explain_typing(fault, arguments))
        return UnlabeledError.exit_code
    except KeyboardInterrupt:
        messages().print("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as fault:
        if os.environ.get(DEBUG):
            raise
        explained = explain_exception(fault)
        print_error(explained)
        return explained.exit_code
    return code if isinstance(code, int) else 0
