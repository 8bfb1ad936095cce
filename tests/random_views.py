"""Random views of memory: arrays of every dtype, with gaps or without, as objects of many classes.

The oracle is NumPy: an array travels in the order of its memory, as ``ravel(order="K")`` reads it.
`View.dense` is that array, contiguous and aligned, and `View.expect` the memory after it was received.
"""

from __future__ import annotations

import array
import importlib.util
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Dtype = np.dtype[Any]

NUMBERS = [np.dtype(code) for code in "?bBhHiIlLqQfdgFDG"]
TEXTS = [np.dtype(text) for text in ("S1", "U1", "S2", "S5", "U3", "V1", "V8", "V13")]
TIMES = [np.dtype(text) for text in ("M8[s]", "M8", "m8[ns]", "m8")]
RECORDS = [
    np.dtype([("ok", "?"), ("x", "f8")]),
    np.dtype([("ok", "?"), ("x", "f8")], align=True),
    np.dtype([("x", "f8")]),
    np.dtype([("place", [("x", "f4"), ("y", "f4")]), ("name", "S3")]),
    np.dtype([("matrix", "i4", (2, 3)), ("count", "u2")]),
    np.dtype({"names": ["a", "b"], "formats": ["i2", "f4"], "offsets": [5, 0], "itemsize": 11}),
]
OBJECTS = [np.dtype(object), np.dtype([("n", "i4"), ("any", object)])]
SWAPPED = [
    np.dtype(code).newbyteorder() for code in ("i2", "i4", "i8", "f4", "f8", "c8", "c16", "U1", "M8[s]")
]

GUARD = 16
"""Elements on either side of a view, to see a write that goes astray."""

VALUE_BYTES = 10
"""Of the 16 bytes of a long double on x86, those that are not padding: no library is bound to carry that."""


def draw_dtype(rng: Random) -> Dtype:
    """Draw a dtype: mostly numbers, which MPI can send."""
    others = (TEXTS, TIMES, RECORDS, OBJECTS, SWAPPED, [np.dtype("f2")])
    return rng.choice(NUMBERS if rng.random() < 0.7 else rng.choice(others))


# --- The classes of object that a view may be of ------------------------------------------------------------


class Subclass(np.ndarray[Any, Any]):
    """An array like any other."""


class Copying(np.ndarray[Any, Any]):
    """An array whose items are copies, as in libraries that keep units or masks."""

    def __getitem__(self, key: Any) -> Any:
        return np.array(np.ndarray.__getitem__(self, key))


def as_tensor(view: NDArray[Any]) -> Any:
    """See an array as a PyTorch tensor."""
    import torch

    return torch.from_numpy(view)


CLASSES: dict[str, Callable[[NDArray[Any]], Any]] = {
    "ndarray": lambda view: view,
    "subclass": lambda view: view.view(Subclass),
    "copying": lambda view: view.view(Copying),
    "matrix": lambda view: view.view(np.matrix),
    "masked": lambda view: view.view(np.ma.MaskedArray),
    "recarray": lambda view: view.view(np.recarray),
    "memmap": lambda view: view.view(np.memmap),
    "memoryview": lambda view: memoryview(view.data),
    "array": lambda view: array.array(view.dtype.char, view.tobytes()),
}
if importlib.util.find_spec("torch"):
    CLASSES["tensor"] = as_tensor


class Layout(NamedTuple):
    """Where elements lie, in bytes: the first one `offset` from the start of `nbytes` of memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    nbytes: int


# --- A view -------------------------------------------------------------------------------------------------


@dataclass
class View:
    """An array, the memory that it is in, and the object that a program hands to MPI.

    Attributes
    ----------
    memory
        All bytes around the array; none where elements are addresses of objects, which no test may make up.
    array, buffer
        The array, and the same elements as an object of the class that was asked for.
    """

    dtype: Dtype
    layout: Layout
    kind: str = "ndarray"
    readonly: bool = False

    def __post_init__(self) -> None:
        shape, strides, offset, nbytes = self.layout
        if self.dtype.hasobject:
            self.memory = np.zeros(0, np.uint8)
            whole = np.empty(nbytes // self.dtype.itemsize, self.dtype)
            self.array = as_strided(whole[offset // self.dtype.itemsize :], shape, strides)
        else:
            owner = self._own(nbytes)
            self.memory = np.frombuffer(owner, np.uint8)
            self.array = np.ndarray(shape, self.dtype, owner, offset, strides)
        if self.readonly:
            self.array.flags.writeable = False
        self.buffer = owner if self.kind == "array" else CLASSES[self.kind](self.array)

    def _own(self, nbytes: int) -> Any:
        if self.kind == "array":
            return array.array(self.dtype.char, bytes(nbytes))
        return mmap.mmap(-1, nbytes) if self.kind == "memmap" else bytearray(nbytes)

    def __str__(self) -> str:
        shape, strides, offset, _ = self.layout
        state = "read-only " if self.readonly else ""
        return f"{state}{self.kind} of {self.dtype}, shape {shape}, strides {strides}, at byte {offset}"

    def _within(self, memory: Bytes, dtype: Any) -> NDArray[Any]:
        """See the elements in `memory` as what is copied byte by byte, or as numbers."""
        shape, strides, offset, _ = self.layout
        view: NDArray[Any] = np.ndarray(shape, dtype, memory.data, offset, strides)
        return view

    def fill(self, seed: int, small: bool) -> None:
        """Put in random bytes, or, where sums shall be exact, small numbers."""
        random = np.random.default_rng(seed)
        self.memory[:] = random.integers(0, 256, len(self.memory), np.uint8)
        if self.dtype.kind in "biufc" and (small or self.dtype.char in "gG"):
            self._within(self.memory, self.dtype)[...] = random.integers(0, 4, self.layout.shape)

    def dense(self) -> NDArray[Any]:
        """Copy the elements to contiguous memory, in the order of theirs."""
        if self.dtype.hasobject:
            return np.array(self.array.ravel(order="K"))
        elements = self._within(self.memory, f"V{self.dtype.itemsize}")
        copy = np.array(elements.ravel(order="K")).view(self.dtype)
        copy.flags.writeable = not self.readonly
        return copy

    def expect(self, dense: NDArray[Any]) -> Bytes:
        """Copy the memory as it shall be when `dense` was received, which lies in the order of memory."""
        memory: Bytes = self.memory.copy()
        target = self._within(memory, f"V{self.dtype.itemsize}")
        target = target.transpose(sorted(range(target.ndim), key=lambda axis: -abs(target.strides[axis])))
        target[...] = dense.view(target.dtype).reshape(target.shape)
        return memory

    def differing(self, expected: Bytes) -> int:
        """Count the bytes of memory, gaps included, that are not as expected."""
        unequal = (self.memory != expected).view(np.uint8)
        if self.dtype.char in "gG" and unequal.any():
            numbers = np.dtype((np.uint8, (self.dtype.itemsize // 16, 16)))
            self._within(unequal, numbers)[..., VALUE_BYTES:] = 0
        return int(unequal.sum())


# --- Random ones --------------------------------------------------------------------------------------------


def draw_view(rng: Random, dtype: Dtype, count: int, role: str = "receive") -> View:
    """Draw a view of `count` elements.

    Its elements may share memory where the `role` is "send", and do where it is "overlap". In the role "gaps"
    they do not lie together, and "read-only" is what it says.
    """
    layout = draw_layout(rng, dtype, count, role)
    kinds = [kind for kind in CLASSES if _suits(kind, dtype, layout, role)]
    kind = "ndarray" if rng.random() < 0.4 else rng.choice(kinds)
    if kind == "array":
        layout = Layout(layout.shape, layout.strides, 0, count * dtype.itemsize)
    return View(dtype, layout, kind, role == "read-only")


def _suits(kind: str, dtype: Dtype, layout: Layout, role: str) -> bool:
    """Tell whether an array can be seen as an object of a class."""
    itemsize, strides = dtype.itemsize, layout.strides
    writable = dtype.isnative and role != "read-only"
    aligned = not any(place % dtype.alignment for place in (layout.offset, *strides))
    whole = aligned and all(step >= 0 and step % itemsize == 0 for step in strides)
    conditions = {
        "matrix": len(strides) == 2,
        "recarray": dtype.names is not None,
        "memmap": not dtype.hasobject,
        # NumPy reads the format of unaligned longs as that of long longs, which are others to MPI.
        "memoryview": _is_readable(dtype) and (aligned or dtype.char not in "lLqQ"),
        "array": writable and strides == (itemsize,) and dtype.char in array.typecodes,
        "tensor": writable and whole and dtype.char in "?bBhilefdFD",
    }
    return conditions.get(kind, True)


@cache
def _is_readable(dtype: Dtype) -> bool:
    """Tell whether NumPy writes, and can read, the format that the buffer protocol has for a dtype."""
    try:
        return np.asarray(memoryview(np.zeros(1, dtype).data)).dtype == dtype
    except (ValueError, RuntimeError):
        return False


def draw_layout(rng: Random, dtype: Dtype, count: int, role: str) -> Layout:
    """Draw where `count` elements lie."""
    shape, itemsize = draw_shape(rng, count), dtype.itemsize
    strides, width, gaps = [0] * len(shape), itemsize, draw_gaps(rng, dtype, role)
    axes = list(range(len(shape)))
    rng.choice((list.reverse, list.copy, rng.shuffle))(axes)
    for axis in axes:
        strides[axis] = width + rng.choice(gaps)
        width += strides[axis] * max(shape[axis] - 1, 0)
    long = [axis for axis in axes if shape[axis] > 1]
    if long and (role == "overlap" or (role == "send" and rng.random() < 0.2)):
        axis, *others = rng.sample(long, len(long))
        half = itemsize // 2 if dtype.kind == "c" else 0
        same = [strides[other] for other in others if strides[other] * shape[axis] <= width]
        strides[axis] = rng.choice([0, half, *same])
    strides = [stride * rng.choice((1, 1, 1, -1)) for stride in strides]
    reach = [max(length - 1, 0) * stride for length, stride in zip(shape, strides, strict=True)]
    offset = GUARD * itemsize - sum(step for step in reach if step < 0)
    end = offset + sum(step for step in reach if step > 0) + (1 + GUARD) * itemsize
    odd = 0 if dtype.hasobject else rng.choice((0, 0, 0, 1, 4, 7))
    return Layout(shape, tuple(strides), offset + odd, end + odd)


def draw_shape(rng: Random, count: int) -> tuple[int, ...]:
    """Draw a shape of `count` elements."""
    if count == 0:
        return rng.choice(((0,), (0, 3), (2, 0), (3, 0, 2)))
    shape: list[int] = []
    while len(shape) < 3 and count > 1 and rng.random() < 0.5:
        shape.append(rng.choice([part for part in range(1, min(count, 64) + 1) if count % part == 0]))
        count //= shape[-1]
    if count > 1 or rng.random() < 0.3:
        shape.insert(rng.randint(0, len(shape)), count)
    return tuple(shape)


def draw_gaps(rng: Random, dtype: Dtype, role: str) -> list[int]:
    """Draw what may lie between the elements along an axis, in bytes."""
    itemsize = dtype.itemsize
    whole = [0, itemsize, 2 * itemsize, 5 * itemsize]
    if role == "gaps":
        return whole[1:]
    parts = [0, dtype.alignment, itemsize // 2, itemsize, 1, 3, 13]
    return rng.choice(([0], whole, whole if dtype.hasobject else parts))


def draw_count(rng: Random, most: int) -> int:
    """Draw a number of elements: mostly small, sometimes many, none, or one."""
    small, large = rng.randint(2, 64), int(2.0 ** rng.uniform(6, 17))
    return min(rng.choice((0, 1, small, small, small, small, large)), most)
