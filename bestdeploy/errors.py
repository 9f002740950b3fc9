"""Exceptions of bestdeploy: one class per kind of failure, each with its exit code and a hint.

The message says what is wrong, with the offending name and value and what was expected; the hint
says what to do next. The command line prints `error:`, `where:` and `hint:` lines from them and
leaves with `exit_code`; a library caller catches `BestDeployError`.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArtifactError",
    "BestDeployError",
    "BudgetError",
    "CheckpointError",
    "GraphError",
    "InputError",
    "MissingToolError",
    "NativeError",
    "OutputError",
    "PassError",
    "UnsupportedModelError",
    "UsageError",
    "VerificationError",
]


class BestDeployError(Exception):
    """Base of every error a user can cause or meet.

    Args:
        message: what is wrong, with the value and the expectation.
        where: the layer, file, key or step that the message is about.
        hint: what to do next; a command where there is one.
    """

    exit_code = 1
    default_hint: str | None = None

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.where = where
        self.hint = hint or self.default_hint


class UsageError(BestDeployError):
    """A command or function was called with arguments that make no sense."""

    exit_code = 2


class MissingToolError(BestDeployError):
    """A compiler, emulator or optional package is not installed."""

    exit_code = 3


class UnsupportedModelError(BestDeployError):
    """The model family, op or setting is unknown, or a needed setting is missing."""

    exit_code = 4


class GraphError(UnsupportedModelError):
    """A graph breaks a promise of its stage (names the node and the rule)."""

    default_hint = "give a model.onnx as `bestdeploy export` wrote it"


class PassError(UnsupportedModelError):
    """A pass cannot transform this graph (names the pass and the node)."""

    default_hint = "are the weights and batch norm statistics of this layer sound?"


class VerificationError(BestDeployError):
    """Two forms of one model disagree where they must not."""

    exit_code = 5
    default_hint = "report it with the output of `bestdeploy doctor --json`"


class BudgetError(BestDeployError):
    """A limit given by the user was exceeded; `report` is what was measured."""

    exit_code = 6

    def __init__(self, message: str, *, report: Any = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class CheckpointError(BestDeployError):
    """A checkpoint is unreadable, or its tensors are missing, extra, mis-shaped or not finite."""

    exit_code = 7


class ArtifactError(BestDeployError):
    """A .bstm, .onnx or bundle is not valid."""

    exit_code = 7
    default_hint = "export the model again, or compile it again"


class InputError(BestDeployError):
    """An image, array or data set cannot be used as input."""

    exit_code = 7


class OutputError(BestDeployError):
    """An output file or folder cannot be written."""

    exit_code = 8


class NativeError(BestDeployError):
    """The C runtime refused a call; `status` is its name (BAD_FILE, UNSUPPORTED, ...)."""

    exit_code = 7

    def __init__(self, message: str, *, status: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        if status == "UNSUPPORTED":
            self.exit_code = UnsupportedModelError.exit_code
