"""Settings of libraries that save half of the suite's time. Import this first: they are read when a library is loaded.

They are taken back at once, so that other processes, which some tests start, are as a user's.
"""

from __future__ import annotations

import importlib.util
import os

FASTER = {
    "OMP_WAIT_POLICY": "passive",  # seven threads on two cores take turns, instead of waiting for each other in loops
    "NUMBA_OPT": "1",  # compiles twice as fast; test_fingerprints.py also has what users get
}
READERS = ["fastupdate", "numba"]

added = {name: value for name, value in FASTER.items() if name not in os.environ}
os.environ.update(added)
for name in READERS:
    if importlib.util.find_spec(name):
        importlib.import_module(name)
for name in added:
    del os.environ[name]
