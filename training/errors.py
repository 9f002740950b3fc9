"""What can go wrong before or during a training, each with its exit code and a hint.

A command prints `error:`, `where:` and `hint:` lines from these and leaves with `exit_code`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

INTERRUPTED = 130


class TrainingError(Exception):
    """Base of every error a user can cause or meet.

    Args:
        message: what is wrong, with the value and what was expected.
        where: the file, key or step that the message is about.
        hint: what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.where = where
        self.hint = hint


class ConfigError(TrainingError):
    """Settings or arguments make no sense, alone or together."""

    exit_code = 2


class MissingPackageError(TrainingError):
    """An optional package is not installed."""

    exit_code = 3


class UnsupportedError(TrainingError):
    """A model, or a combination of features, that does not exist here."""

    exit_code = 4


class DataError(TrainingError):
    """A data file is missing or is not what its name says."""

    exit_code = 7


class CheckpointError(TrainingError):
    """A checkpoint file is missing, damaged, or of something else."""

    exit_code = 7


class OutputError(TrainingError):
    """A result cannot be written."""

    exit_code = 8


class DivergedError(TrainingError):
    """The loss or a weight is no longer a finite number."""

    exit_code = 1


class InterruptedTraining(TrainingError):  # noqa: N818 - the run is fine, it was stopped
    """The user stopped the run; its state is on disk."""

    exit_code = INTERRUPTED


def guarded(parse: Callable, work: Callable, argv: list[str] | None) -> int:
    """Run ``work(parse(argv))`` and return the exit code, errors printed as lines on stderr."""
    args: argparse.Namespace = parse(argv)
    try:
        work(args)
    except TrainingError as error:
        word = "interrupted" if isinstance(error, InterruptedTraining) else "error"
        print(f"{word}: {error}", file=sys.stderr)
        if error.where:
            print(f"where: {error.where}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0
