"""Ctrl-C wherever the command line is, its imports included. This module imports nothing that takes time."""

from __future__ import annotations

import os
import sys

__all__ = ["end_in_one_line"]


def end_in_one_line() -> None:
    """Let Ctrl-C that nothing handles end the process with one line and exit code 130, no traceback."""
    if sys.excepthook is sys.__excepthook__:  # where there is another one, it is left alone
        sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, trace: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        os.write(2, b"\nrnncore: stopped\n")
        os._exit(130)
    sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]
