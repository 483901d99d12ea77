"""Imported first: Ctrl-C while the command `fastupdate` imports the rest ends it as later, by its exit status alone."""

import os
import signal
import sys
from typing import Any

INTERRUPTED = 130  # as shells say it


def _is_command() -> bool:
    """Whether this process is the command, by its own name or as `python -m fastupdate`."""
    script = os.path.basename("".join(sys.argv[:1]))
    return script == "fastupdate" or (script == "-m" and "fastupdate" in sys.orig_argv)


def _end(*_: Any) -> None:
    os._exit(INTERRUPTED)


def finish() -> None:
    """Gives Ctrl-C back to Python, when everything that the command needs is imported."""
    if signal.getsignal(signal.SIGINT) is _end:
        import fastupdate.cli  # noqa: F401 (which nobody else needs)

        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
