"""Code that runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

HEADER = """
import json, os, resource, signal, sys, threading, time
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have been told to ignore it
"""


TIMEOUT = 240  # seconds: a child that hangs, not one on a busy machine


def child(code: str, arguments: list[str] | None = None, **environment: str) -> Any:
    """What the code prints last, as JSON, having run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEADER + textwrap.dedent(code), *(arguments or [])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])
