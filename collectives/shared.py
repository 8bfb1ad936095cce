"""Execution of a plan by ranks of one node, through memory that they share.

A rank publishes what it sends in memory that all of them see, and reads in place what others send to it: each
value is copied once where a message copies it twice. Steps are separated by a barrier. Every second step
publishes in the same half of the memory; since they read what was there, all ranks have passed a barrier.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from tempfile import mkstemp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI
from .execute import even_bounds
from .memory import memory_of
from .plan import Area, Place, Plan, PlanStep

Array = NDArray[Any]

# Bytes reduced at once: few enough that what a rank publishes is still in the caches when others read it.
PIECE_BYTES = 512 << 10
# Files in memory; elsewhere the folder for temporary files.
_FOLDER = "/dev/shm"
# Operands of a fold: an area of the own memory, or ~rank for what another one published.
_Part = tuple[int, slice]


class _SharedStep(NamedTuple):
    """A step for some number of elements; slices are in elements."""

    copies: list[slice]
    published: list[_Part]
    folds: list[tuple[_Part, _Part, _Part]]
    taken: list[_Part]


class SharedBound(NamedTuple):
    """A plan for some number of elements, to be run through shared memory.

    Attributes
    ----------
    steps : list of steps
    rest : list of slices
        Copied from the own area to the result in the end.
    scratch : int
        Elements of scratch memory.
    """

    steps: list[_SharedStep]
    rest: list[slice]
    scratch: int


def bind_shared(plan: Plan, bounds: Sequence[int]) -> SharedBound:
    """Bind a plan of one lane to chunks that begin at the elements `bounds`."""
    binder = _Binder(bounds)
    steps = [binder.step(step) for step in plan.steps]
    rest = [binder.part(place)[1] for place in plan.rest]
    return SharedBound(steps, rest, binder.scratch)


class _Binder:
    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.scratch = 0

    def part(self, place: Place) -> _Part:
        """A place in the own memory; in scratch each slot is as long as the whole vector."""
        part = slice(self.bounds[place.chunk], self.bounds[place.chunk + place.length])
        if place.area != Area.SCRATCH:
            return int(place.area), part
        first = place.slot * self.bounds[-1]
        self.scratch = max(self.scratch, first + part.stop)
        return int(place.area), slice(first + part.start, first + part.stop)

    def step(self, step: PlanStep) -> _SharedStep:
        """Values that others publish are operands until something else is written to their place."""
        arrived = {
            place: (~peer, self.part(place._replace(area=Area.RESULT))[1]) for peer, place in step.receives
        }
        published = [self.part(place) for place in dict.fromkeys(place for _, place in step.sends)]
        folds = []
        unused = dict(arrived)
        for left, right, out in step.folds:
            operands = [arrived[place] if place in arrived else self.part(place) for place in (left, right)]
            for place in (left, right):
                unused.pop(place, None)
            folds.append((operands[0], operands[1], self.part(out)))
            arrived.pop(out, None)
        copies = [self.part(place)[1] for place in step.copies]
        return _SharedStep(copies, published, folds, list(unused.values()))


class SharedMemory:
    """Memory that all ranks of a communicator see; made by all of them together.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Plain communicator whose ranks are on one node, and on which nobody else calls collectives meanwhile.

    mapped : mmap
        What they all map, `SharedMemory.nbytes(comm.size)` long; nobody reads it any more.
    """

    def __init__(self, comm: MPI.Intracomm, mapped: mmap) -> None:
        self._comm = comm
        self._halves = np.frombuffer(mapped, np.uint8).reshape(comm.size, 2, PIECE_BYTES)
        self._turn = 0

    @staticmethod
    def nbytes(ranks: int) -> int:
        """Bytes that a number of ranks need."""
        return 2 * PIECE_BYTES * ranks

    def begin_step(self) -> tuple[Array, Array]:
        """The halves of all ranks for the next step, and this rank's own, to publish in."""
        self._turn ^= 1
        halves = self._halves[:, self._turn]
        return halves, halves[self._comm.rank]

    def meet(self) -> None:
        """Let all ranks see what each of them published."""
        self._comm.Barrier()


def share(comm: MPI.Intracomm, nbytes: int) -> mmap | None:
    """Map a file that has no name any more when this returns, so that nothing is ever left of it; collective.

    Where some ranks have no room for it, or cannot open it, all ranks get None, and rank 0 warns.
    """
    name, failure = "", ""
    if comm.rank == 0:
        try:
            name = _make_file(nbytes)
        except OSError as error:
            failure = str(error)
    name, failure = comm.bcast((name, failure))
    mapped = None
    if not failure:
        try:
            mapped = _map_file(name, nbytes)
        except (OSError, ValueError) as error:
            failure = str(error)
    failures = [each for each in comm.allgather(failure) if each]
    if comm.rank == 0:
        if name:
            Path(name).unlink(missing_ok=True)
        if failures:
            what = f"no {nbytes} bytes of memory shared by {comm.size} ranks, which send messages instead"
            warnings.warn(f"{what}: {failures[0]}", stacklevel=2)
    return None if failures else mapped


def _make_file(nbytes: int) -> str:
    file, name = mkstemp(prefix="roundelay-", dir=_FOLDER if Path(_FOLDER).is_dir() else None)
    try:
        # A file with holes would end a rank that writes where no memory is left.
        os.posix_fallocate(file, 0, nbytes)
    except OSError:
        Path(name).unlink()
        raise
    finally:
        os.close(file)
    return name


def _map_file(name: str, nbytes: int) -> mmap:
    with Path(name).open("r+b") as file:
        return mmap(file.fileno(), nbytes)


def run_shared(
    bind: Callable[[int], SharedBound],
    memory: SharedMemory,
    own: Array,
    result: Array,
    fold: Callable[..., Any],
) -> None:
    """Run a plan in pieces; `bind` gives it for a number of elements.

    Parameters are those of `roundelay.collectives.execute.Execution`.
    """
    itemsize = result.itemsize
    piece = PIECE_BYTES // itemsize
    bounds = even_bounds(result.size, -(-result.size // piece)) if result.size else ()
    for begin, end in pairwise(bounds):
        _run_piece(bind(end - begin), memory, own[begin:end], result[begin:end], fold)


def _run_piece(
    bound: SharedBound, memory: SharedMemory, own: Array, result: Array, fold: Callable[..., Any]
) -> None:
    here = memory_of(result)
    scratch = here.library.empty(bound.scratch, result.dtype) if bound.scratch else result
    areas = (own, result, scratch)
    for step in bound.steps:
        for part in step.copies:
            result[part] = own[part]
        halves, mine = memory.begin_step()
        mine = _typed(mine, result)
        for area, part in step.published:
            here.publish(areas[area][part], mine[part])
        memory.meet()

        def find(where: int, part: slice, halves: Array = halves) -> Array:
            return areas[where][part] if where >= 0 else here.adopt(_typed(halves[~where], result)[part])

        for left, right, out in step.folds:
            fold(find(*left), find(*right), out=find(*out))
        for where, part in step.taken:
            result[part] = find(where, part)
    for part in bound.rest:
        result[part] = own[part]


def _typed(half: Array, result: Array) -> Array:
    usable = half[: half.size // result.itemsize * result.itemsize]
    view: Array = usable.view(result.dtype)
    return view
