"""A setting of OpenMP's that saves half of the suite's time. Import this first: it is read when the module is loaded.

It is taken back at once, so that other processes, which some tests start, are as a user's.
"""

from __future__ import annotations

import importlib.util
import os

NAME = "OMP_WAIT_POLICY"

if NAME not in os.environ and importlib.util.find_spec("fastupdate"):
    os.environ[NAME] = "passive"  # seven threads on two cores take turns, instead of waiting for each other in loops
    importlib.import_module("fastupdate")
    del os.environ[NAME]
