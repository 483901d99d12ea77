"""Random histories against plain NumPy (see histories.py).

pytest tests/test_histories.py --histories 10000      that many, instead of 300
pytest tests/test_histories.py --history 4711         the one of this seed
"""

from __future__ import annotations

import pytest
from cases import BACKENDS
from histories import run

CHUNK = 25
SHARE = 10  # one history in so many runs on Numba


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    only = metafunc.config.getoption("history")
    if only is None:
        count = metafunc.config.getoption("histories")
        chunks = [range(k, min(k + CHUNK, count)) for k in range(0, count, CHUNK)]
    else:
        chunks = [range(only, only + 1)]
    metafunc.parametrize("seeds", chunks, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")


def live(seeds: range, framework: str) -> None:
    names = [backend.values[0] for backend in BACKENDS if not backend.marks]
    for seed in seeds:
        numba = "numba" in names and (seed % SHARE == 0 or names == ["numba"])
        run(seed, "numba" if numba else "native", framework)


def test_every_array_has_the_bytes_of_the_reference(seeds: range) -> None:
    live(seeds, "numpy")


@pytest.mark.peer
def test_every_parameter_of_torch_has_the_bytes_of_the_reference(seeds: range) -> None:
    live(seeds, "torch")
