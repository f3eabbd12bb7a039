"""Ctrl-C while the command line is still being imported."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any, NoReturn

__all__ = ["end_in_one_line", "restore"]


def end_in_one_line() -> None:
    """Let Ctrl-C end the process with one line and exit code 130, not with a traceback."""
    # where Ctrl-C means something else, it is left alone
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _end)


def restore() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: Any) -> NoReturn:
    os.write(2, b"\nrnncore: stopped\n")
    os._exit(130)
