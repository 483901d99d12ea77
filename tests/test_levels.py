"""What runs on which processor: instruction sets, their object files and the flags of the build (rows 23 and 25)."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cases import isas
from processes import child

x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="MXCSR and these instruction sets are x86's")
needs_native = pytest.mark.skipif(not isas(), reason="no native module")


# -- row 23: the flags of the build -----------------------------------------------------------------------------------


@needs_native
def test_23_no_fast_math_object():
    """GCC's -ffast-math links crtfastmath.o, whose constructor switches denormals off in the whole process."""
    from fastupdate import _core

    assert b"set_fast_math" not in Path(_core.__file__).read_bytes()
    assert any("-ffp-contract=off" in line for line in build_commands()), "these are not the files that set flags"
    assert not [line for line in build_commands() if "fast-math" in line or "fast_math" in line or "-Ofast" in line]


ROOT = Path(__file__).resolve().parents[1]


def build_commands() -> list[str]:
    """The lines of the build files, without comments."""
    files = [ROOT / "CMakeLists.txt", *sorted((ROOT / "cmake").glob("*.cmake"))]
    return [line.partition("#")[0] for path in files for line in path.read_text().splitlines()]


# -- row 25: older processors -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> dict[str, list[Path]]:
    """The object files of the latest build, by target."""
    builds = sorted(ROOT.glob("build/*/CMakeFiles/_core.dir"), key=lambda path: path.stat().st_mtime)
    if not builds or not shutil.which("objdump"):
        pytest.skip("needs a build tree in build/ and objdump: an installed module has no symbols to tell levels apart")
    found: dict[str, list[Path]] = {}
    for path in builds[-1].parent.rglob("*.o"):
        target = path.relative_to(builds[-1].parent).parts[0].removesuffix(".dir")
        found.setdefault(target, []).append(path)
    return found


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


AVX = re.compile(r"%[yz]mm|\tv[a-z0-9]+ .*%xmm")


@x86_only
def test_25_baseline_has_no_avx(objects):
    """Module initialisation, the borders and level v2 run on any x86-64-v2 processor."""
    plain = [path for target, paths in objects.items() if not target.endswith(("v3", "v4")) for path in paths]
    assert any("v2" in str(path) for path in plain)
    assert any("core_module" in str(path) for path in plain)
    for path in plain:
        code = tool("objdump", "-d", "--no-show-raw-insn", str(path))
        assert not AVX.search(code), f"{path.name}: {AVX.search(code)}"
    wide = [path for target, paths in objects.items() if target.endswith("v4") for path in paths]
    assert any("%zmm" in tool("objdump", "-d", str(path)) for path in wide), "the pattern finds nothing anywhere"


@x86_only
def test_25_levels_share_no_inline_code(objects):
    """A weak symbol that two levels define could be kept in its AVX-512 form for every processor."""
    for level in ("v3", "v4"):
        paths = objects[f"cpu_{level}"]
        assert {"target.cpp.o", "adam.cpp.o"} <= {path.name for path in paths}
        for path in paths:
            symbols = [line.split() for line in tool("nm", "--defined-only", "--extern-only", str(path)).splitlines()]
            foreign = [fields[-1] for fields in symbols if level not in fields[-1]]
            assert not foreign, f"{path.name} defines {foreign}"


@x86_only
@pytest.mark.parametrize(
    ("file", "function", "least"),
    [
        ("target.cpp.o", "::update_rows<", 8),
        ("target.cpp.o", "::update_rows_plainly<", 24),
        ("target.cpp.o", "::sum_row<", 1),
        ("core_module.cpp.o", "::Adoption::adopt(", 8),
        ("core_module.cpp.o", "::Lookout::intact(", 2),
    ],
)
def test_25_what_comes_later_is_fetched(objects, file, function, least):
    """Compilers drop calls of functions that do nothing but prefetch, unless these are inlined."""
    found = [path for paths in objects.values() for path in paths if path.name == file]
    assert found, f"no object file of this name, so nothing was looked at: {file}"
    for path in found:
        bodies = tool("objdump", "-d", "-C", "--no-show-raw-insn", str(path)).split("\n\n")
        name = re.compile(rf"<(\w+ )?fastupdate(::v\d)?{re.escape(function)}")  # not one that is made for it
        own = [body for body in bodies if name.search(body.partition(">:")[0])]
        assert own, f"{path}: no function {function}"
        assert all(body.count("prefetch") >= least for body in own), f"{path}: {function} fetches too little"


@x86_only
@needs_native
@pytest.mark.parametrize("isa", isas())
def test_25_isa_from_the_environment(isa):
    code = """
    import fastupdate as fu
    from fastupdate import _core
    p = np.ones(9, np.float32)
    fu.SGD([p], lr=1.0, backend="native").step([p * 3])
    print(json.dumps([_core.selected_isa(), p.tolist()]))
    """
    assert child(code, FASTUPDATE_ISA=isa) == [isa, [-2.0] * 9]


@needs_native
def test_25_unknown_isa():
    code = """
    try:
        import fastupdate as fu
        fu.SGD([np.ones(9)], backend="native")
    except ValueError as error:
        print(json.dumps(str(error)))
    """
    expected = f"FASTUPDATE_ISA: expected one of {', '.join(isas())}, received 'v9'"
    assert child(code, FASTUPDATE_ISA="v9") == expected
