"""The order in which a message carries the elements of an array: that of their memory, NumPy's order "K"."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def as_sent(view: Array) -> Array:
    """The message of a view, which is that of a contiguous array with the same axes first."""
    message: Array = view.ravel(order="K").copy()
    return message


def as_received(view: Array, message: Array) -> Array:
    """The elements that a view of the same shape and strides shows after it received a message."""
    places = np.empty_like(view, dtype=np.intp, subok=False)
    # A dense array in the order of the view's memory, so that this is a look at its memory.
    places.ravel(order="K")[...] = np.arange(view.size)
    found: Array = message.reshape(-1)[places]
    return found
