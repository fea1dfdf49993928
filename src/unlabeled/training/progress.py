"""What a person sees of long work: a bar with rate, loss and remaining time, or a plain line every so often."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 15.0


class Reporter:
    """Shows one piece of long work on standard error.

    Parameters
    ----------
    title
        What is being done.
    total
        Steps in all.
    quiet
        Show nothing.
    unit
        Of the rate.
    """

    def __init__(
        self, title: str, total: int, *, quiet: bool = False, unit: str = "steps/s", done: int = 0
    ) -> None:
        self.title, self.total, self.quiet, self.unit = title, total, quiet, unit
        self.first = self.done = done
        self.console = Console(stderr=True)
        self.began = self.spoke = time.monotonic()
        self.facts = ""
        self._bar: Progress | None = None
        if not quiet and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=False,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, facts="")

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and self.done > self.first:
            self._line()

    @property
    def rate(self) -> float:
        """Steps a second since the start."""
        return (self.done - self.first) / max(time.monotonic() - self.began, 1e-9)

    def show(self, done: int, **facts: float) -> None:
        """Say how far it is, with some numbers."""
        self.done = done
        if self.quiet:
            return
        self.facts = "  ".join(f"{name} {value:.4g}" for name, value in facts.items())
        if self._bar is not None:
            shown = f"{self.rate:.2f} {self.unit}  {self.facts}"
            self._bar.update(self._task, completed=done, facts=shown)
        elif time.monotonic() - self.spoke > SECONDS_BETWEEN_LINES:
            self._line()

    def say(self, text: Any) -> None:
        """Print a line without disturbing the bar."""
        if not self.quiet:
            (self._bar.console if self._bar is not None else self.console).print(text)

    def _line(self) -> None:
        self.spoke = time.monotonic()
        left = (self.total - self.done) / max(self.rate, 1e-9)
        self.console.print(
            f"{self.title}: {self.done}/{self.total}  {self.rate:.2f} {self.unit}  {self.facts}"
            f"  {_clock(left)} left",
            highlight=False,
            soft_wrap=True,
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
