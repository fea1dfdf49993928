"""The command ``unlabeled``: finds the command, runs it, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cyclopts
from cyclopts import App

from unlabeled import __version__
from unlabeled.cli.render import messages, print_error
from unlabeled.errors import UnlabeledError

COMMANDS = {
    "check": "unlabeled.cli.check:check",
    "pretrain": "unlabeled.cli.pretrain:pretrain",
    "finetune": "unlabeled.cli.finetune:finetune",
    "probe": "unlabeled.cli.probe:probe",
    "predict": "unlabeled.cli.predict:predict",
    "export": "unlabeled.cli.export:export",
    "methods": "unlabeled.cli.methods:methods",
    "cache": "unlabeled.cli.cache:cache",
    "doctor": "unlabeled.cli.doctor:doctor",
    "demo": "unlabeled.cli.demo:demo",
}
INTERRUPTED = 130  # what shells say of a program that Ctrl-C ended
# threads of OpenMP that wait by spinning slow each other down where a machine is shared; a short spin costs nothing
SPIN = ("GOMP_SPINCOUNT", "5000")


def make_app(arguments: Sequence[str]) -> App:
    """Make the application; ``pretrain SLUG`` gets the options of its method."""
    app = App(
        name="unlabeled",
        help="Learn from unlabelled medical scans, then from few labels, and measure what it brings.",
        version=__version__,
        help_format="plaintext",
    )
    words = [word for word in arguments if not word.startswith("-")]
    for name, place in COMMANDS.items():
        if words[:1] == [name] and name in ("pretrain", "finetune"):
            continue
        app.command(place, name=name)
    if words[:1] == ["pretrain"]:
        from unlabeled.cli.pretrain import pretrain_command

        slug = words[1] if len(words) > 1 else None
        app.command(pretrain_command(slug), name="pretrain")
    elif words[:1] == ["finetune"]:
        from unlabeled.cli.finetune import finetune_command

        app.command(finetune_command(), name="finetune")
    return app


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
    except UnlabeledError as fault:
        print_error(fault)
        return fault.exit_code
    except cyclopts.CycloptsError as fault:
        print_error(UnlabeledError(_one_line(str(fault)), _help_hint(arguments)))
        return UnlabeledError.exit_code
    except KeyboardInterrupt:
        messages().print("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _help_hint(arguments: Sequence[str]) -> str:
    words = [word for word in arguments if not word.startswith("-")]
    known = words[0] if words and words[0] in COMMANDS else ""
    command = " ".join(part for part in ("unlabeled", known, "--help") if part)
    return f"`{command}` lists what can be typed."
