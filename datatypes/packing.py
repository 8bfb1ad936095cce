"""Pack and unpack without MPI: between memory with gaps and contiguous bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import address, as_numpy
from .canonical import as_layout, canonicalize
from .layout import Order, overlaps
from .movers import PACK, UNPACK, mover
from .program import Program


def pack_size(layout: Any) -> int:
    """Bytes that a layout, a datatype or an array packs into.

    Examples
    --------
    >>> import numpy as np
    >>> pack_size(np.zeros((4, 4))[::2, 1])
    16
    """
    return as_layout(layout).size


def pack(
    source: Any, layout: Any = None, out: NDArray[Any] | None = None, order: Order = "C"
) -> NDArray[np.uint8]:
    """Gather the bytes of a layout into contiguous memory, in the order of the MPI typemap.

    Parameters
    ----------
    source : array or buffer
        Host memory; the base address of the layout is that of its first element.
    layout : Layout, mpi4py.MPI.Datatype or array, optional
        The bytes to take; by default all elements of `source`.
    out : contiguous array, optional
        Where to put them, at least `pack_size(layout)` bytes.
    order : {"C", "F", "K"}
        Order of the elements of an array, as in NumPy's `ravel`; a message carries them in order "K".

    Returns
    -------
    uint8 array of shape (pack_size(layout),)

    Raises
    ------
    ValueError
        When the layout leaves a contiguous `source`, `out` is too small or not contiguous, or the order is
        unknown.
    TypeError
        When `source` has no host memory.

    Examples
    --------
    >>> import numpy as np
    >>> grid = np.arange(12.0).reshape(3, 4)
    >>> pack(grid[:, 1]).view(np.float64)
    array([1., 5., 9.])
    >>> pack(grid.T, order="K").view(np.float64)[:4]
    array([0., 1., 2., 3.])
    """
    array = as_numpy(source)
    program = _program(array, layout, order)
    packed = (
        np.empty(program.nbytes, np.uint8) if out is None else _flat(as_numpy(out), program.nbytes, "out")
    )
    mover()(PACK, address(packed), address(array), program.address, 1)
    return packed[: program.nbytes]


def unpack(packed: Any, target: Any, layout: Any = None, order: Order = "C") -> None:
    """Scatter contiguous bytes over the bytes of a layout; the inverse of `pack`.

    Parameters
    ----------
    packed : contiguous array or buffer
        At least `pack_size(layout)` bytes.
    target : array or buffer
        Host memory; what the layout does not touch stays as it is.
    layout : Layout, mpi4py.MPI.Datatype or array, optional
        The bytes to write; by default all elements of `target`.
    order : {"C", "F", "K"}
        Order of the elements of an array, as in NumPy's `ravel`; a message carries them in order "K".

    Raises
    ------
    ValueError
        When the layout leaves a contiguous `target` or touches a byte twice, `target` is read-only, `packed`
        is too small, or the order is unknown.
    TypeError
        When `target` has no host memory.

    Examples
    --------
    >>> import numpy as np
    >>> grid = np.zeros((3, 4))
    >>> unpack(np.array([1.0, 5.0, 9.0]), grid[:, 1])
    >>> grid[:, 1]
    array([1., 5., 9.])
    """
    array = as_numpy(target)
    if not array.flags.writeable:
        raise ValueError("target: expected memory that can be written, got a read-only array")
    whole = as_layout(array if layout is None else layout, order)
    if overlaps(whole):
        raise ValueError(
            f"layout: expected each byte once, got one that touches bytes twice: {whole.describe()}"
        )
    program = _program(array, whole, order)
    source = _flat(as_numpy(packed), program.nbytes, "packed")
    mover()(UNPACK, address(source), address(array), program.address, 1)


def _program(array: NDArray[Any], layout: Any, order: Order) -> Program:
    whole = canonicalize(as_layout(array if layout is None else layout, order))
    low, high = whole.bounds()
    if layout is not None and array.flags.forc and (low < 0 or high > array.nbytes):
        raise ValueError(
            f"layout: touches bytes {low} to {high}, outside the {array.nbytes} bytes of the buffer"
        )
    return Program(whole)


def _flat(array: NDArray[Any], nbytes: int, name: str) -> NDArray[np.uint8]:
    if not array.flags.c_contiguous or array.nbytes < nbytes:
        raise ValueError(
            f"{name}: expected {nbytes} contiguous bytes, got {array.nbytes} with strides {array.strides}"
        )
    return array.reshape(-1).view(np.uint8)
