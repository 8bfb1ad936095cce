"""The layout and program of each MPI datatype: read once, forgotten when the datatype is freed."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

from .canonical import FLAT_LIMIT, canonicalize, fold
from .decode import UnsupportedDatatype, decode
from .layout import Dense, Layout, is_regular, overlaps, run_count
from .plain import MPI
from .program import Program

# Programs kept for one datatype with different counts.
_COUNTS_KEPT = 64


class KnownDatatype:
    """Facts about a datatype that decide how its data moves.

    Attributes
    ----------
    size, lb, extent : int
        As MPI gives them, in bytes.
    layout : Layout or None
        Layout of one instance, folded if that makes it regular, else canonical; None when only the MPI
        library can read the datatype.
    basis : mpi4py.MPI.Datatype or None
        The predefined datatype that all of it is made of.
    contiguous : bool
        Whether any number of instances is one run of bytes or none, as far as is known.
    regular : bool
        Whether an instance is made of streams over one dense run.
    attributes : dict
        What other subsystems remember about the datatype, forgotten together with it.
    """

    def __init__(self, datatype: MPI.Datatype) -> None:
        self.size = datatype.Get_size()
        self.lb, self.extent = datatype.Get_extent()
        self.layout: Layout | None = None
        self.basis: MPI.Datatype | None = None
        self.attributes: dict[str, Any] = {}
        self._programs: dict[int, tuple[Program, int]] = {}
        self._overlapping: dict[int, bool] = {}
        self.contiguous = True
        self.regular = False
        try:
            decoded = decode(datatype)
        except UnsupportedDatatype:
            return
        self.layout = fold(decoded.layout)
        self.regular = is_regular(self.layout.node)
        if not self.regular:
            self.layout = canonicalize(self.layout)
        dense = isinstance(self.layout.node, Dense) and self.size == self.extent
        self.contiguous = dense or not self.size
        basis = decoded.basis
        if basis is not None and basis.Get_size() == basis.Get_extent()[1]:
            self.basis = basis

    def is_run(self, count: int) -> bool:
        """Whether `count` instances are one run of bytes, or none."""
        return self.contiguous or (
            count == 1 and self.layout is not None and isinstance(self.layout.node, Dense)
        )

    def program(self, count: int) -> tuple[Program, int]:
        """Program for `count` instances, and how many instances to run it for."""
        found = self._programs.get(count)
        if found is None:
            found = self._find_program(count)
            if len(self._programs) >= _COUNTS_KEPT:
                # A program may be in use: forget it here, and let its users keep it.
                self._programs = {}
            self._programs[count] = found
        return found

    def _find_program(self, count: int) -> tuple[Program, int]:
        assert self.layout is not None
        if count > 1 and self.regular:
            return Program(fold(self.layout.repeat(count))), 1
        return (self._one if count == 1 else self._many), count

    def overlaps(self, count: int) -> bool:
        """Whether `count` instances touch a byte twice, so that MPI forbids to receive into them."""
        found = self._overlapping.get(count)
        if found is None:
            found = self._find_overlap(count)
            if len(self._overlapping) >= _COUNTS_KEPT:
                self._overlapping = {}
            self._overlapping[count] = found
        return found

    def _find_overlap(self, count: int) -> bool:
        assert self.layout is not None
        low, high = self.layout.bounds()
        if count > 1 and abs(self.extent) >= high - low:
            return self.overlaps(1)
        whole = self.layout.repeat(count)
        # Too many runs to compare them all: leave such a datatype to the MPI library.
        too_many = not self.regular and run_count(whole.node) > FLAT_LIMIT
        return too_many or overlaps(whole)

    @cached_property
    def _one(self) -> Program:
        assert self.layout is not None
        return Program(self.layout)

    @cached_property
    def _many(self) -> Program:
        assert self.layout is not None
        return Program(self.layout, many=True)


_known: dict[int, KnownDatatype] = {}


def known_datatype(datatype: MPI.Datatype) -> KnownDatatype | None:
    """Facts about a datatype; None for a null handle, of which the MPI library shall complain.

    MPI uses handles again, so a derived datatype carries an attribute whose deletion forgets it.
    """
    handle = datatype.handle
    found = _known.get(handle)
    if found is None:
        if not datatype:
            return None
        found = KnownDatatype(datatype)
        if not datatype.is_predefined:
            datatype.Set_attr(_keyval(), handle)
        _known[handle] = found
    return found


@cache
def _keyval() -> int:
    def forget(_datatype: MPI.Datatype, _keyval: int, handle: int) -> None:
        known = _known.pop(handle, None)
        if known is not None:
            # At once, whoever still holds it: MPI may use the handle again for the next datatype.
            known.attributes.clear()

    return MPI.Datatype.Create_keyval(delete_fn=forget)
