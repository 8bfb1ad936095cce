"""A stand-in for CuPy where there is no GPU: arrays that NumPy cannot touch, in streams to be waited for.

Its memory is the host's, so that any MPI library can send it. Uses that CuPy forbids raise here too: a NumPy
array as a value, a conversion to NumPy by accident. An array that MPI looks at before what was begun in a
stream is waited for raises as well; on a GPU that would be a wrong result now and then.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from roundelay.collectives import memory
from roundelay.comm import device as staging


class Array:
    """An array on the device."""

    pending: ClassVar[bool] = False
    __array_priority__ = 1000

    def __init__(self, host: Any) -> None:
        self._host = host
        self.dtype, self.size, self.shape = host.dtype, host.size, host.shape
        self.itemsize, self.nbytes, self.ndim = host.itemsize, host.nbytes, host.ndim
        self.strides = host.strides
        self.flags = SimpleNamespace(c_contiguous=host.flags.c_contiguous, forc=host.flags.forc)
        self.device = SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if Array.pending:
            raise AssertionError("an array is sent before the stream is waited for")
        interface = dict(self._host.__array_interface__)
        return {key: interface[key] for key in ("shape", "typestr", "data", "strides")} | {"version": 3}

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array")

    @property
    def T(self) -> "Array":
        """The same memory with its axes in reverse."""
        return Array(self._host.T)

    def __getitem__(self, key: Any) -> "Array":
        return Array(self._host[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[key] = unwrap(value)
        Array.pending = True

    def transpose(self, axes: Any) -> "Array":
        """The same memory with its axes in another order."""
        return Array(self._host.transpose(axes))

    def view(self, dtype: Any) -> "Array":
        """The same memory as elements of another type."""
        return Array(self._host.view(dtype))

    def reshape(self, *shape: Any) -> "Array":
        """The same memory in another shape."""
        return Array(self._host.reshape(*shape))

    def copy(self) -> "Array":
        """A copy on the device."""
        Array.pending = True
        return Array(self._host.copy())

    def get(self) -> Any:
        """A copy on the host."""
        return self._host.copy()

    def set(self, host: Any) -> None:
        """Copy an array of the host to this one."""
        self._host[...] = host
        Array.pending = True


# Places that `put` tries: a stand-in whose memory the MPI library reads, one that is staged, and a GPU.
PLACES = ("stand-in", "staged", "cupy")


def place(
    name: str, monkeypatch: pytest.MonkeyPatch, module: Any, on_device: Callable[[Any], Any]
) -> Iterator[Callable[[Any], Any]]:
    """Yield what copies an array of the host to the device, with a stand-in for CuPy unless it is "cupy"."""
    if name == "cupy":
        cupy = cupy_or_skip()

        def put(host: Any) -> Any:
            array = cupy.asarray(host)
            # MPI knows nothing of streams: the program waits for what it sends.
            cupy.cuda.get_current_stream().synchronize()
            return array

        yield put
        return
    monkeypatch.setattr(staging, "library_reads_gpu", lambda: name == "stand-in")
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(Array, "pending", False)
    memory._device.cache_clear()
    yield on_device
    memory._device.cache_clear()


def cupy_or_skip() -> Any:
    """CuPy itself, where there is a GPU."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    return cupy


def unwrap(value: Any) -> Any:
    """The memory behind an array of the device, or a number."""
    if isinstance(value, np.ndarray):
        raise TypeError("unsupported type numpy.ndarray")
    return value._host if isinstance(value, Array) else value


def on_device(host: Any) -> Array:
    """A copy of an array of the host."""
    return Array(np.array(host))


def ufunc(function: Any) -> Any:
    """A function of NumPy for arrays of the device."""

    def apply(left: Array, right: Array, out: Array) -> Array:
        function(unwrap(left), unwrap(right), out=unwrap(out))
        Array.pending = True
        return out

    return apply


def _synchronize() -> None:
    Array.pending = False


def _as_array(value: Any) -> Array:
    return value if isinstance(value, Array) else on_device(value)


def _as_numpy(value: Array, out: Any) -> Any:
    assert out.flags.c_contiguous
    _synchronize()
    out[...] = value._host
    return out


def _split(array: Array, places: Any) -> list[Array]:
    return [Array(part) for part in np.split(array._host, places)]


def module() -> SimpleNamespace:
    """A stand-in for the module `cupy`."""
    functions: tuple[Any, ...] = (
        np.add,
        np.multiply,
        np.maximum,
        np.minimum,
        np.logical_and,
        np.logical_or,
        np.logical_xor,
    )
    functions = (*functions, np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    cuda = SimpleNamespace(
        Device=lambda number: nullcontext(),
        alloc_pinned_memory=bytearray,
        get_current_stream=lambda: SimpleNamespace(synchronize=_synchronize),
    )
    return SimpleNamespace(
        empty=lambda shape, dtype: Array(np.empty(shape, dtype)),
        ndarray=Array,
        asarray=_as_array,
        asnumpy=_as_numpy,
        split=_split,
        may_share_memory=lambda left, right: np.may_share_memory(left._host, right._host),
        cuda=cuda,
        **{each.__name__: ufunc(each) for each in functions},
    )
