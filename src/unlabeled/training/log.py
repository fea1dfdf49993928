"""The run folder: what a run writes, where, and how it is cut back when a run goes on from a checkpoint."""

from __future__ import annotations

import csv
import io
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unlabeled.data.scan import Quarantined
from unlabeled.errors import RunError
from unlabeled.training.checkpoint import write_atomically
from unlabeled.training.settings import is_first_process


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path
        The folder; made by `create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path / "log.jsonl"
        self.checkpoints = path / "checkpoints"
        self.previews = path / "previews"

    @property
    def last(self) -> Path:
        """Checkpoint that a resumed run goes on from."""
        return self.checkpoints / "last.safetensors"

    @property
    def best(self) -> Path:
        """Checkpoint of the best pretext score on held-out subjects."""
        return self.checkpoints / "best.safetensors"

    @property
    def encoder(self) -> Path:
        """What the method carries over."""
        return self.path / "encoder.safetensors"

    def refuse_held(self, again: str = "") -> None:
        """Refuse a folder that holds a run already.

        Parameters
        ----------
        again
            What to type to go on with it.

        Raises
        ------
        RunError
            It does.
        """
        if (self.path / "run.json").exists():
            raise RunError(
                f"{self.path} already holds a run",
                f"Give another --out, or go on with it: {again or '--resume'}",
            )

    def require(self, what: str) -> None:
        """Refuse to go on with what is no run, or a run of something else.

        Raises
        ------
        RunError
            There is none, or it is of another command.
        """
        if not (self.path / "options.toml").exists():
            raise RunError(f"{self.path} holds no run to go on with", "Start it without --resume.")
        was = self.read_facts().get("command", what)
        if was != what:
            raise RunError(
                f"{self.path} is a run of `{was}`, not of `{what}`",
                "Give the --out of the run to go on with, or start anew without --resume.",
            )

    def require_data(self, listing: str, scans: str) -> None:
        """Refuse to go on with other scans than the run was started with.

        Parameters
        ----------
        listing
            Digest of the scans' names and shapes, as ``run.json`` keeps it.
        scans
            What the person typed.

        Raises
        ------
        RunError
            The scans differ.
        """
        if self.read_facts().get("listing", listing) != listing:
            raise RunError(
                f"the scans of {scans} are not those that {self.path} was started with",
                f"Give the same scans, or start anew from its weights: --init {self.path} with another --out.",
            )

    def create(self, *, resume: bool, again: str = "") -> None:
        """Make the folder, or open it to go on.

        Raises
        ------
        RunError
            It holds a run and `resume` is off, or it cannot be written.
        """
        if not resume:
            self.refuse_held(again)
        try:
            for folder in (self.path, self.checkpoints, self.previews):
                folder.mkdir(parents=True, exist_ok=True)
            with (self.path / ".writable").open("w") as probe:
                probe.write("x")
            (self.path / ".writable").unlink()
        except OSError as fault:
            reason = "it is a file" if self.path.is_file() else fault.strerror or fault
            raise RunError(
                f"cannot write to {self.path} ({reason})",
                "Give a folder that you may write to with --out.",
            ) from None

    @contextmanager
    def opened(self, *, resume: bool, again: str = "") -> Iterator[None]:
        """Make the folder as `create` does; where what follows fails before it has written anything, remove it again."""
        first, there = is_first_process(), self.path.exists()
        if first:
            self.create(resume=resume, again=again)
        try:
            yield
        except BaseException:
            if first and not there:
                self._discard()
            raise

    def _discard(self) -> None:
        """Remove the folder as `create` made it; one that holds anything stays."""
        with suppress(OSError):
            for folder in (self.checkpoints, self.previews, self.path):
                folder.rmdir()

    def write_options(self, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        """Write every resolved option with where it came from."""
        lines = ["# every option of this run, and where its value came from", ""]
        for name, value in values.items():
            origin = sources.get(name, "default")
            if value is None:
                lines.append(f"# {name} =  (not set)  # {origin}")
            else:
                lines.append(f"{name} = {_toml(value)}  # {origin}")
        write_atomically(self.path / "options.toml", ("\n".join(lines) + "\n").encode())

    def read_options(self) -> dict[str, Any]:
        """Read the options of an earlier start."""
        try:
            return tomllib.loads((self.path / "options.toml").read_text())
        except FileNotFoundError:
            raise RunError(f"{self.path} holds no run", "Start without --resume.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise RunError(
                f"{self.path}/options.toml is damaged ({fault})", "Start anew with another --out."
            ) from None

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        write_atomically(self.path / "run.json", (json.dumps(facts, indent=2) + "\n").encode())

    def read_facts(self) -> dict[str, Any]:
        """Read ``run.json``; empty when absent."""
        try:
            facts: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise RunError(
                f"{self.path}/run.json is damaged", "Start anew with another --out."
            ) from None
        return facts

    def note_failure(self, fact: str) -> None:
        """Write down why the run ended, where that can still be written."""
        with suppress(RunError):
            self.write_facts({**self.read_facts(), "exit_reason": f"failed: {fact}"})

    def write_quarantine(self, rows: Iterable[Quarantined]) -> None:
        """Write ``quarantine.csv``: files left out, with reasons."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "reason", "remedy"])
        writer.writerows([row.name, row.reason, row.remedy] for row in rows)
        write_atomically(self.path / "quarantine.csv", text.getvalue().encode())

    def log_length(self) -> int:
        """Bytes of the log so far, kept in each checkpoint."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def cut_log(self, length: int) -> None:
        """Cut the log back to what a checkpoint knew, so that no step stands in it twice."""
        if self.log_path.exists():
            os.truncate(self.log_path, min(length, self.log_length()))

    def read_log(self) -> list[dict[str, Any]]:
        """Read all logged objects."""
        if not self.log_path.exists():
            return []
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]


class Log:
    """Appends one JSON object a logged step, and the same for TensorBoard where it is installed.

    Parameters
    ----------
    folder
        The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._file = folder.log_path.open("a", encoding="utf-8")
        self._board = _open_board(folder.path)

    def write(self, **values: Any) -> None:
        """Append one object; it is on its way to the disk when this returns."""
        self._file.write(json.dumps(values, default=float) + "\n")
        self._file.flush()
        if self._board is not None and "total" in values:
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{values['phase']}/{name}", value, values["total"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _open_board(path: Path) -> Any:
    """Open a TensorBoard writer; None where the extra ``board`` is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return None
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(log_dir=str(path))


def _toml(value: Any) -> str:
    """Write one plain value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value))
