"""The datatypes of DDTBench, each with all its parameter rows.

DDTBench (Schneider, Gerstenberger and Hoefler, "Micro-applications for communication data access patterns and
MPI datatypes", EuroMPI 2012) collects the halo and transpose datatypes of WRF, MILC, NAS, LAMMPS,
SPECFEM3D_GLOBE and a 2-D Fourier transform.  Here every type is rebuilt from those applications' parameters.
Two things differ from the original: all arrays of a case lie in one arena, so that structs hold offsets in
place of absolute addresses, and index lists are drawn with a fixed seed, so that two runs measure the same.

Arrays are described with the fastest dimension first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from types import ModuleType

import numpy as np
from mpi4py.MPI import Datatype
from numpy.typing import NDArray

Builder = Callable[[ModuleType], Datatype]

FLOAT = 4
DOUBLE = 8
COMPLEX = 16


@dataclass(frozen=True)
class Case:
    """One row of DDTBench: a datatype to send from an arena and one to receive in it.

    Attributes
    ----------
    name, row
        The test's name and the label of its parameters.
    arena_bytes
        Size of the memory that holds all arrays of the case.
    packed_bytes
        Size of one packed instance, the same for both datatypes.
    send_runs, recv_runs
        Number of maximal contiguous pieces of each datatype, in typemap order.
    send, recv
        Given an ``MPI`` module, make the committed datatype; the caller frees it.
    send_origin, recv_origin
        Where in the arena, in bytes from its start, the datatype's origin lies.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> case = next(case for case in cases() if case.name == "NAS_LU_y")
    >>> datatype = case.send(mpi)
    >>> datatype.Get_size() == case.packed_bytes == 40 * case.send_runs
    True
    >>> datatype.Free()
    """

    name: str
    row: str
    arena_bytes: int
    packed_bytes: int
    send_runs: int
    recv_runs: int
    send: Builder
    recv: Builder
    send_origin: int = 0
    recv_origin: int = 0


def cases() -> list[Case]:
    """List every row of the 16 tests, in DDTBench's order of names."""
    return [
        *(case for axis in "xy" for form in ("vec", "sa") for case in _wrf_cases(axis, form)),
        *map(_milc_case, ((16, 16, 16, 16), (8, 16, 16, 16), (8, 8, 8, 16), (8, 8, 8, 8))),
        *(_nas_lu_case(axis, n) for axis in "xy" for n in (12, 33, 64, 102, 162, 408, 1020)),
        *(
            _nas_mg_case(axis, shape)
            for axis in "xyz"
            for shape in ((34, 18, 18), (130, 66, 66), (258, 130, 130), (514, 258, 258))
        ),
        *(_lammps_case("full", 5, n, m) for n, m in ((3534, 3062), (2597, 2243), (1907, 1662))),
        *(_lammps_case("atomic", 3, n, m) for n, m in ((4084, 243), (2157, 145), (1217, 114))),
        *(_specfem_oc_case(n, m) for n, m in ((88881, 3225), (38585, 1897), (12857, 877), (3697, 493))),
        *(
            _specfem_cm_case(points, shared)
            for points, shared in (
                ((834917, 51153), (11797, 3009)),
                ((396849, 22477), (7125, 1729)),
                ((152001, 7209), (3801, 801)),
                ((39929, 1225), (1957, 245)),
            )
        ),
        *map(_specfem_mt_case, (7600, 6400, 5600, 6200)),
        *(_fft2d_case(n, processes=2) for n in (256, 512, 768, 1024, 1536)),
    ]


def _over(child: Datatype, constructor: str, *arguments: object) -> Datatype:
    """Make ``child.Create_<constructor>(*arguments)``, then free the child if it is a derived datatype."""
    datatype: Datatype = getattr(child, f"Create_{constructor}")(*arguments)
    if not child.is_predefined:
        child.Free()
    return datatype


def _struct(mpi: ModuleType, displacements: Sequence[int], members: Sequence[Datatype]) -> Datatype:
    datatype: Datatype = mpi.Datatype.Create_struct([1] * len(members), list(displacements), list(members))
    for member in members:
        member.Free()
    return datatype.Commit()


def _draw(points: int, chosen: int) -> NDArray[np.int64]:
    """Draw the first ``chosen`` entries of a permutation of ``points``, the same at every call."""
    return np.random.default_rng((points, chosen)).permutation(points)[:chosen]


def _count_runs(indices: NDArray[np.int64]) -> int:
    """Count the pieces of memory: an index that directly follows its predecessor continues its piece."""
    return len(indices) - int(np.count_nonzero(np.diff(indices) == 1))


# --- WRF: nine arrays of two, three and four dimensions in one struct ---------------------------------------

_WRF_LEVELS = 65
_WRF_SCALARS = 2
_WRF_FIRST_SCALAR = 1
_WRF_ROWS = {  # memory bounds of x and y, then the bounds of the part that is sent, all inclusive
    "y": {
        "2x2": ((-4, 27, 34, 85), (1, 23, 41, 43)),
        "3x3": ((8, 34, 21, 61), (12, 30, 28, 30)),
        "4x4": ((4, 27, 14, 47), (8, 23, 21, 23)),
        "5x5": ((10, 31, 10, 39), (14, 27, 17, 19)),
        "8x8": ((4, 22, 4, 27), (8, 18, 11, 13)),
    },
    "x": {
        "2x2": ((-4, 27, 34, 85), (18, 20, 38, 81)),
        "4x4": ((4, 27, 14, 47), (18, 20, 18, 43)),
        "8x8": ((4, 22, 4, 27), (13, 15, 8, 23)),
    },
}


@dataclass(frozen=True)
class _WrfPatch:
    """A patch of (x, level, y, scalar) in memory, the part of it that is sent, and where that part starts."""

    memory: tuple[int, int, int, int]
    part: tuple[int, int, int, int]
    start: tuple[int, int, int, int]

    def arrays(self) -> list[tuple[int, ...]]:
        """Name the dimensions of the nine arrays: four maps, three fields, two sets of scalars."""
        return [(0, 2)] * 4 + [(0, 1, 2)] * 3 + [(0, 1, 2, 3)] * 2

    def bases(self) -> list[int]:
        """List the offset in bytes of each array, and after the last the size of the arena."""
        sizes = [FLOAT * prod(self.memory[axis] for axis in axes) for axes in self.arrays()]
        return [sum(sizes[:position]) for position in range(len(sizes) + 1)]


def _wrf_cases(axis: str, form: str) -> list[Case]:
    return [_wrf_case(f"WRF_{axis}_{form}", row, *bounds) for row, bounds in _WRF_ROWS[axis].items()]


def _wrf_case(name: str, row: str, memory: tuple[int, ...], part: tuple[int, ...]) -> Case:
    patch = _WrfPatch(
        memory=(memory[1] - memory[0] + 1, _WRF_LEVELS, memory[3] - memory[2] + 1, _WRF_SCALARS),
        part=(part[1] - part[0] + 1, _WRF_LEVELS, part[3] - part[2] + 1, _WRF_SCALARS - _WRF_FIRST_SCALAR),
        start=(part[0] - memory[0], 0, part[2] - memory[2], _WRF_FIRST_SCALAR),
    )
    runs = sum(prod(patch.part[axis] for axis in axes[1:]) for axes in patch.arrays())
    build = partial(_build_wrf_vectors if name.endswith("vec") else _build_wrf_subarrays, patch)
    return Case(name, row, patch.bases()[-1], FLOAT * patch.part[0] * runs, runs, runs, build, build)


def _build_wrf_vectors(patch: _WrfPatch, mpi: ModuleType) -> Datatype:
    displacements, members = [], []
    for base, axes in zip(patch.bases(), patch.arrays(), strict=False):
        strides = [
            FLOAT * prod(patch.memory[axis] for axis in axes[:position]) for position in range(len(axes))
        ]
        member = mpi.FLOAT.Create_vector(patch.part[axes[1]], patch.part[0], strides[1] // FLOAT)
        for axis, stride in zip(axes[2:], strides[2:], strict=True):
            member = _over(member, "hvector", patch.part[axis], 1, stride)
        members.append(member)
        displacements.append(
            base + sum(patch.start[axis] * stride for axis, stride in zip(axes, strides, strict=True))
        )
    return _struct(mpi, displacements, members)


def _build_wrf_subarrays(patch: _WrfPatch, mpi: ModuleType) -> Datatype:
    members = []
    for axes in patch.arrays():
        boxes = ([box[axis] for axis in reversed(axes)] for box in (patch.memory, patch.part, patch.start))
        members.append(mpi.FLOAT.Create_subarray(*boxes, order=mpi.ORDER_C))
    return _struct(mpi, patch.bases()[:-1], members)


# --- MILC: the z-t face of a lattice of su(3) vectors -------------------------------------------------------


def _milc_case(lattice: tuple[int, int, int, int]) -> Case:
    x, y, z, t = lattice
    plane = x * y // 2  # sites of one parity
    site = 6 * FLOAT

    def build(mpi: ModuleType) -> Datatype:
        vectors = _over(mpi.FLOAT.Create_contiguous(6), "vector", t, plane, plane * z)
        return _over(vectors, "hvector", 2, 1, site * plane * z * t).Commit()

    row = "x".join(map(str, lattice))
    return Case("MILC_su3_zd", row, site * prod(lattice), site * plane * 2 * t, 2 * t, 2 * t, build, build)


# --- NAS LU and MG: faces of a grid -------------------------------------------------------------------------


def _nas_lu_case(axis: str, n: int) -> Case:
    point = 5 * DOUBLE
    line = point * (n + 2)

    def build_x(mpi: ModuleType) -> Datatype:
        datatype: Datatype = mpi.DOUBLE.Create_contiguous(5 * n)
        return datatype.Commit()

    def build_y(mpi: ModuleType) -> Datatype:
        return _over(mpi.DOUBLE.Create_contiguous(5), "vector", n, 1, n + 2).Commit()

    build, runs, origins = {
        "x": (build_x, 1, (point + line * n, point)),
        "y": (build_y, n, (point * n + line, line)),
    }[axis]
    return Case(f"NAS_LU_{axis}", str(n), line * (n + 2), point * n, runs, runs, build, build, *origins)


def _nas_mg_case(axis: str, shape: tuple[int, int, int]) -> Case:
    x, y, z = shape
    line, plane = x, x * y

    def build_x(mpi: ModuleType) -> Datatype:
        return _over(mpi.DOUBLE.Create_vector(y - 2, 1, line), "hvector", z - 2, 1, DOUBLE * plane).Commit()

    def build_y(mpi: ModuleType) -> Datatype:
        datatype: Datatype = mpi.DOUBLE.Create_vector(z - 2, x - 2, plane)
        return datatype.Commit()

    def build_z(mpi: ModuleType) -> Datatype:
        datatype: Datatype = mpi.DOUBLE.Create_vector(y - 2, x - 2, line)
        return datatype.Commit()

    build, runs, width, send, recv = {
        "x": (build_x, (y - 2) * (z - 2), 1, (x - 2, 1, 1), (x - 1, 1, 1)),
        "y": (build_y, z - 2, x - 2, (1, y - 2, 1), (1, y - 1, 1)),
        "z": (build_z, y - 2, x - 2, (1, 1, 1), (1, 1, 0)),
    }[axis]
    origins = (DOUBLE * (i + line * j + plane * k) for i, j, k in (send, recv))
    row = "x".join(map(str, shape))
    return Case(
        f"NAS_MG_{axis}", row, DOUBLE * prod(shape), DOUBLE * width * runs, runs, runs, build, build, *origins
    )


# --- LAMMPS: chosen atoms of a position array and of several scalar arrays ----------------------------------


def _lammps_case(form: str, scalars: int, n: int, m: int) -> Case:
    atoms = n + m
    indices = _draw(n, m)
    bases = [DOUBLE * atoms * (3 + scalar) for scalar in range(scalars)]

    def build_send(mpi: ModuleType) -> Datatype:
        positions = mpi.DOUBLE.Create_indexed_block(3, (3 * indices).tolist())
        columns = [mpi.DOUBLE.Create_indexed_block(1, indices.tolist()) for _ in bases]
        return _struct(mpi, [0, *bases], [positions, *columns])

    def build_recv(mpi: ModuleType) -> Datatype:
        members = [mpi.DOUBLE.Create_contiguous(3 * m), *(mpi.DOUBLE.Create_contiguous(m) for _ in bases)]
        return _struct(mpi, [3 * DOUBLE * n, *(base + DOUBLE * n for base in bases)], members)

    return Case(
        f"LAMMPS_{form}",
        f"{n}/{m}",
        DOUBLE * atoms * (3 + scalars),
        DOUBLE * m * (3 + scalars),
        _count_runs(indices) * (1 + scalars),
        1 + scalars,
        build_send,
        build_recv,
    )


# --- SPECFEM3D_GLOBE: shared points of the outer core, of crust and mantle, and a strided copy of them ------


def _specfem_oc_case(n: int, m: int) -> Case:
    indices = _draw(n, m)
    runs = _count_runs(indices)

    def build(mpi: ModuleType) -> Datatype:
        datatype: Datatype = mpi.FLOAT.Create_indexed_block(1, indices.tolist())
        return datatype.Commit()

    return Case("SPECFEM3D_oc", f"{n}/{m}", FLOAT * n, FLOAT * m, runs, runs, build, build)


def _specfem_cm_case(points: tuple[int, int], shared: tuple[int, int]) -> Case:
    point = 3 * FLOAT
    lists = [_draw(n, m) for n, m in zip(points, shared, strict=True)]
    runs = sum(map(_count_runs, lists))

    def build(mpi: ModuleType) -> Datatype:
        members = [mpi.FLOAT.Create_indexed_block(3, (3 * indices).tolist()) for indices in lists]
        return _struct(mpi, [0, point * points[0]], members)

    row = "/".join(map(str, points + shared))
    return Case("SPECFEM3D_cm", row, point * sum(points), point * sum(shared), runs, runs, build, build)


def _specfem_mt_case(n: int) -> Case:
    point = 3 * FLOAT

    def build_send(mpi: ModuleType) -> Datatype:
        return _over(mpi.FLOAT.Create_contiguous(3), "vector", n, 1, 2).Commit()

    def build_recv(mpi: ModuleType) -> Datatype:
        datatype: Datatype = mpi.FLOAT.Create_contiguous(3 * n)
        return datatype.Commit()

    sent = 2 * point * n
    return Case("SPECFEM3D_mt", str(n), sent + point * n, point * n, n, 1, build_send, build_recv, 0, sent)


# --- FFT2D: one peer's block of a distributed transpose -----------------------------------------------------


def _fft2d_case(n: int, processes: int) -> Case:
    rows = n // processes

    def build_gather(mpi: ModuleType) -> Datatype:
        block = _over(mpi.DOUBLE.Create_contiguous(2), "vector", rows, rows, n)
        return _over(block, "resized", 0, COMPLEX * rows).Commit()

    def build_scatter(mpi: ModuleType) -> Datatype:
        column = _over(mpi.DOUBLE.Create_contiguous(2), "vector", rows, 1, n)
        return _over(_over(column, "resized", 0, COMPLEX), "contiguous", rows).Commit()

    return Case(
        "FFT2D",
        f"{n}/{processes}",
        COMPLEX * rows * n,
        COMPLEX * rows * rows,
        rows,
        rows * rows,
        build_gather,
        build_scatter,
    )
