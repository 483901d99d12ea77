"""Arrays of a device, on the stand-in: which are taken, what their states are, saved and resumed. No GPU is needed."""

from __future__ import annotations

import copy
import sys
from typing import Any

import device_arrays
import numpy as np
import pytest
from cases import FIRST_CASES, by_rule
from cuda_pairs import assert_alike, grads, on_device, pair, params
from device_arrays import STREAM, FakeArray

import fastupdate as fu
from fastupdate.arrays import device, frameworks
from fastupdate.engines import records

pytestmark = pytest.mark.usefixtures("shim")


@pytest.mark.parametrize(
    ("make_params", "make_grads", "backend", "message"),
    [
        (lambda: on_device(params()), grads, None, "CUDA device 0, received one in host memory"),
        (params, lambda: on_device(grads()), "native", "host memory, received one in CUDA device 0"),
        (params, lambda: on_device(grads()), "numba", "host memory, received one in CUDA device 0"),
    ],
    ids=["host gradient", "device gradient, native", "device gradient, numba"],
)
def test_memory_must_match(make_params, make_grads, backend, message, shim):
    opt = fu.SGD(make_params(), backend=backend)
    launched = shim.launches()
    for call in (opt.step, opt.bind, opt.accumulate):
        with pytest.raises(TypeError, match=r"grads\[0\]: expected an array in " + message):
            call(make_grads())
    assert shim.launches() == launched
    assert opt.step_count == 0


def test_lists_must_be_in_one_memory():
    with pytest.raises(ValueError, match=r"params\[1\]: expected an array in CUDA device 0, like the others"):
        fu.SGD([FakeArray(np.ones(3, np.float32)), np.ones(3, np.float32)])


@pytest.mark.parametrize("backend", ["native", "numba"])
def test_backends_of_host_arrays_refuse(backend):
    with pytest.raises(ValueError, match=f"backend: expected arrays in host memory for '{backend}'"):
        fu.SGD(on_device(params()), backend=backend)
    with pytest.raises(ValueError, match="backend: expected arrays on a CUDA device"):
        fu.SGD(params(), backend="cuda")


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (lambda: FakeArray(np.ones(3, np.int32)), TypeError, "expected float32 or float64, received int32"),
        (lambda: FakeArray(np.broadcast_to(np.ones(1, np.float32), (4,))), ValueError, "addresses of their own"),
    ],
    ids=["integers", "broadcast"],
)
def test_wrong_parameters(array, error, message):
    with pytest.raises(error, match=message):
        fu.SGD([array()])


@pytest.mark.parametrize("rule", [fu.Muon, fu.SOAP, fu.NorMuon], ids=["muon", "soap", "normuon"])
def test_arrays_that_nobody_multiplies(rule):
    """States are made of the parameters' kind, and of these there is no product."""
    with pytest.raises(TypeError, match=r"params\[0\]: expected a matrix of CuPy or torch, .* received FakeArray"):
        rule([FakeArray(np.ones((3, 2), np.float32))], others=None)


def test_overlapping_device_arrays():
    one = FakeArray(np.ones(8, np.float32))
    with pytest.raises(ValueError, match="expected memory apart from"):
        fu.SGD([one, one])
    with pytest.raises(ValueError, match=r"grads\[0\]: expected memory apart from"):
        fu.SGD([one]).step([one])


class OnlyDLPack:
    """A device array that offers nothing but DLPack; the capsule is NumPy's, with the address put in."""

    def __init__(self, array: FakeArray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, *, stream: int) -> Any:
        assert stream == STREAM
        return np.zeros((4, 3), np.float32).T.__dlpack__()


def test_dlpack_describes_arrays():
    cuda = sys.modules["fastupdate._cuda"]
    array = np.zeros((4, 3), np.float32)[:, ::2].T
    described = cuda.describe_dlpack(array.__dlpack__())
    assert described == {
        "shape": array.shape, "strides": array.strides, "typestr": array.dtype.str,
        "data": (array.__array_interface__["data"][0], False),
    }  # fmt: skip
    header = device.view(OnlyDLPack(FakeArray([1.0])))
    assert (header.shape, header.strides, header.number) == ((3, 4), (4, 12), 0)


def test_state_is_the_users_kind_of_array():
    _, there = pair(ema_decay=0.5, shadow="bfloat16")
    there.step(on_device(grads()))
    for array in (*there.state["m"], *there.ema, *there.shadow):
        assert isinstance(array, frameworks.Buffer)
    assert "DeviceArray" not in repr(there.state)
    assert "CUDA device 0" in repr(there.stepper.items[0].array)


def test_given_states():
    host = fu.AdamW(params(), state={"m": grads(1), "v": [g * g for g in grads(2)]})
    there = fu.AdamW(on_device(params()), state={"m": on_device(grads(1)), "v": on_device([g * g for g in grads(2)])})
    host.step(grads()), there.step(on_device(grads()))
    assert_alike(host, there)
    with pytest.raises(TypeError, match=r"state\['m'\]\[0\]: expected an array in CUDA device 0"):
        fu.AdamW(on_device(params()), state={"m": grads(1), "v": grads(2)})


@by_rule
def test_saved_and_resumed(case, tmp_path):
    """Checkpoints pass between host and device."""
    options = {"ema_decay": 0.5, "shadow": "float16", "lookahead": (2, 0.5)}
    host, there = case.make(params(), **options), case.make(on_device(params()), **options)
    host.step(grads()), there.step(on_device(grads()))
    there.save(tmp_path / "there")
    resumed = case.make(params(), **options)
    resumed.load_state_dict(fu.load(tmp_path / "there"))
    assert_alike(host, resumed)
    back = case.make(on_device(params()), **options)
    back.load_state_dict(fu.load(tmp_path / "there"))
    host.step(grads(1)), back.step(on_device(grads(1)))
    assert_alike(host, back)
    plain = copy.deepcopy(there.state_dict())
    assert all(type(array) is np.ndarray for array in plain["arrays"].values())


def test_ema_weights_freezing_and_resync():
    host, there = pair(ema_decay=0.5, lookahead=(3, 0.5), shadow="bfloat16")
    for k in range(2):
        host.step(grads(k)), there.step(on_device(grads(k)))
    with host.ema_weights(), there.ema_weights():
        assert_alike(host, there)
    host.freeze("1"), there.freeze("1")
    host.step(grads(3)), there.step(on_device(grads(3)))
    host.unfreeze("1", state=0.5), there.unfreeze("1", state=0.5)
    host.step(grads(4)), there.step(on_device(grads(4)))
    assert_alike(host, there)
    host.resync(), there.resync()
    assert_alike(host, there)


def test_after_a_fork(shim):
    _, there = pair()
    gradients = on_device(grads())
    shim.set_forked(True)
    with pytest.raises(RuntimeError, match="forked after its parent used CUDA"):
        there.step(gradients)


def test_an_array_that_cannot_be_read_after_a_fork(shim):
    """The framework fails first, and says less."""

    class Unreadable:
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("cudaErrorInitializationError")

    shim.set_forked(True)
    with pytest.raises(RuntimeError, match=r"params\[0\]: CUDA cannot be used in a process that was forked"):
        fu.SGD([Unreadable()])
    shim.set_forked(False)
    with pytest.raises(TypeError, match=r"params\[0\]: cannot share the memory of Unreadable"):
        fu.SGD([Unreadable()])


def test_no_framework_is_imported():
    """An optimizer of device arrays imports neither CuPy nor torch."""
    code = """if True:
        import sys, device_arrays, numpy as np, fastupdate as fu
        with device_arrays.installed():
            p, g = (device_arrays.FakeArray(np.ones(3, np.float32)) for _ in range(2))
            fu.SGD([p]).step([g])
        assert not {"cupy", "torch"} & set(sys.modules)
    """
    done = device_arrays.run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_records_and_rules_of_the_build():
    cuda = sys.modules["fastupdate._cuda"]
    core = pytest.importorskip("fastupdate._core", reason="compares with the CPU module, which this build lacks")
    assert cuda.record_sizes() == core.record_sizes()
    assert records.MOST_UNDECIDED == cuda.MAX_ROWS - 1
    assert cuda.rules() == core.rules()
    assert {case.rule for case in FIRST_CASES} <= set(cuda.rules())
