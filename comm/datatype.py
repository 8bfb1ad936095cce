"""The datatype class: `Pack` and `Unpack` through our kernels."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..datatypes.known import known_datatype
from ..datatypes.movers import PACK, UNPACK, has_mover, mover
from ..datatypes.plain import MPI
from .choice import library_packs
from .substitute import Handle

_Pack, _Unpack = MPI.Datatype.Pack, MPI.Datatype.Unpack


class Datatype(Handle, MPI.Datatype):
    """Datatype; what is derived from it is of this class, too."""

    plain: ClassVar[type] = MPI.Datatype

    def Pack(self, inbuf: Any, outbuf: Any, position: int, comm: MPI.Comm) -> int:
        """Pack into contiguous memory according to datatype."""
        moved = _move(self, inbuf, outbuf, position, receiving=False)
        return _Pack(self, inbuf, outbuf, position, comm) if moved is None else moved

    def Unpack(self, inbuf: Any, position: int, outbuf: Any, comm: MPI.Comm) -> int:
        """Unpack from contiguous memory according to datatype."""
        moved = _move(self, outbuf, inbuf, position, receiving=True)
        return _Unpack(self, inbuf, position, outbuf, comm) if moved is None else moved


def _move(datatype: Datatype, memory: Any, packed: Any, position: int, receiving: bool) -> int | None:
    """Run the kernel between NumPy arrays; None where mpi4py shall do it, or say what is wrong."""
    known = known_datatype(datatype)
    if known is None or known.contiguous or known.extent <= 0:
        return None
    if memory.__class__ is not np.ndarray or packed.__class__ is not np.ndarray:
        return None
    count = memory.nbytes // known.extent
    nbytes = count * known.size
    if library_packs(nbytes, known.regular) or not has_mover():
        return None
    written = memory if receiving else packed
    if not written.flags.writeable or not memory.flags.forc or not packed.flags.forc:
        return None
    if position < 0 or position + nbytes > packed.nbytes or (receiving and known.overlaps(count)):
        return None
    program, instances = known.program(count)
    direction = UNPACK if receiving else PACK
    mover()(
        direction, MPI.Get_address(packed) + position, MPI.Get_address(memory), program.address, instances
    )
    return position + nbytes
