#!/usr/bin/env bash
# Builds the wheel without compiled code, installs it into an environment of its own and takes steps through Numba.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
FASTUPDATE_PURE=1 "$work/env/bin/pip" wheel -q --no-deps -w "$work" "$root"
ls "$work"/fastupdate-*-py3-none-any.whl
"$work/env/bin/pip" install -q "$work"/fastupdate-*.whl numba
cd "$work"
"$work/env/bin/python" -W error::UserWarning - <<'PYTHON'
import warnings
import numpy as np
with warnings.catch_warnings(record=True) as announced:
    warnings.simplefilter("always")
    import fastupdate as fu
    for name in fu.rules.names():
        w = np.ones((100, 50))  # in float64, for some rules begin with very small steps
        opt = fu.rules.get(name)(w, lr=0.1, clip_norm=1.0, monitor=True)
        for _ in range(6):  # schedule-free RAdam may wait for its variance, and ADOPT for a second step
            opt.step(np.full((100, 50), 0.5))
        assert np.isfinite(w).all() and (w < 1).all(), name
assert fu.info()["backend native"] != "available"
assert sum("Numba" in str(w.message) for w in announced) == 1, [str(w.message) for w in announced]
print("every rule steps through Numba; the fallback was announced once")
PYTHON
