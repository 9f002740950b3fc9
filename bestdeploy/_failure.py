"""How a command ends when it does not end well: `error:`, `where:`, `hint:` and the exit code.

0 ok, 1 internal error, 2 usage, 3 missing tool or extra, 4 unsupported model or op, 5 verification
failed, 6 budget failed, 7 bad input file or data, 8 cannot write output, 130 interrupted (Ctrl-C or
SIGTERM).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import typer

from bestdeploy import __version__
from bestdeploy._output import message
from bestdeploy.errors import BestDeployError, MissingToolError, OutputError

__all__ = ["INTERRUPTED", "report", "terminable"]

INTERRUPTED = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "safetensors": "export",
    "tvm": "tvm",
    "ziglang": "cross",
}


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that nothing temporary is left."""

    def stop(number: int, frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, cleaning up goes on
        raise KeyboardInterrupt

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _silence_output() -> None:
    """Send what is still buffered for stdout nowhere: Python writes it out when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def report(error: BaseException) -> int:
    """Print the lines for an exception; return its exit code."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # typer turns it into exit 1
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        message("error", "interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output is gone
        _silence_output()
        return 0
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        if error.filename is None:
            _silence_output()
        _print_lines(f"cannot write {error.filename or 'the output'}: {error.strerror}", None, None)
        return OutputError.exit_code
    if isinstance(error, BestDeployError):
        _print_lines(str(error), error.where, error.hint)
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's own: unknown option, missing argument, ...
        text = error.format_message()
        if text:
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "bestdeploy"
            _print_lines(text.rstrip("."), None, f"{path} --help")
        return int(getattr(error, "exit_code", 2))
    root = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and root in _EXTRAS:
        _print_lines(
            f"`{root}` is not installed", None, f"pip install 'bestdeploy[{_EXTRAS[root]}]'"
        )
        return MissingToolError.exit_code
    _print_lines(
        f"this is a bug in bestdeploy {__version__}: {type(error).__name__}: {error}",
        None,
        "run it again with --debug and report the traceback with `bestdeploy doctor --json`",
    )
    return 1


def _print_lines(text: str, where: str | None, hint: str | None) -> None:
    message("error", text)
    if where:
        message("where", where)
    if hint:
        message("hint", hint)
