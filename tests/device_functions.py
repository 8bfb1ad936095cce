"""NumPy's functions for the stand-in of CuPy: they take arrays of the device only, and return such.

CuPy's arrays answer to NumPy's functions in the same way, and refuse NumPy's arrays beside them in all but
`asarray`.
"""

from typing import Any

import numpy as np

from tests import device


class Array(device.Array, np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device, for programs that compute with NumPy's functions on whatever they are given."""

    __hash__ = None  # type: ignore[assignment]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.get("out")
        found = getattr(ufunc, method)(*map(unwrap, inputs), **unwrapped(options))
        device.Array.pending = True
        return wrap(found) if out is None else out[0]

    def __array_function__(self, function: Any, _types: Any, inputs: Any, options: Any) -> Any:
        if function is np.asarray:
            return wrap(np.array(inputs[0]))
        found = function(*map(unwrap, inputs), **unwrapped(options))
        device.Array.pending = True
        return options["out"] if "out" in options else wrap(found)

    def __getitem__(self, key: Any) -> "Array":
        return Array(self._host[key])

    def __bool__(self) -> bool:
        return bool(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __len__(self) -> int:
        return len(self._host)

    def view(self, dtype: Any) -> "Array":
        """The same memory as elements of another type."""
        return Array(self._host.view(dtype))

    def reshape(self, *shape: Any) -> "Array":
        """The same memory in another shape."""
        return Array(self._host.reshape(*shape))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        method = getattr(self._host, name)
        return lambda *inputs, **options: wrap(method(*map(unwrap, inputs), **unwrapped(options)))


def unwrap(value: Any) -> Any:
    """The memory behind arrays of the device, also in a list."""
    if isinstance(value, list | tuple):
        return type(value)(map(unwrap, value))
    return device.unwrap(value)


def unwrapped(options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of NumPy for those of a program."""
    return {name: unwrap(each) for name, each in options.items()}


def wrap(value: Any) -> Any:
    """Arrays of the device for what NumPy found."""
    if isinstance(value, list | tuple):
        return type(value)(map(wrap, value))
    return Array(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def on_device(host: Any) -> Array:
    """A copy of an array of the host."""
    return Array(np.array(host))


def module() -> Any:
    """A stand-in for the module `cupy`."""
    cupy = device.module()
    cupy.empty = lambda shape, dtype: Array(np.empty(shape, dtype))
    cupy.asarray = lambda value: value if isinstance(value, Array) else on_device(value)
    return cupy
