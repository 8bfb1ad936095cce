"""The 3-D wave equation on a periodic box, whose halo is sent as plain NumPy slices.

Each rank holds a block of the box with one layer of ghost points around it. Before each step the six
faces go to the neighbours as they are: ``cart.Isend(u[1:-1, 1:-1, 1], ...)``. Run it on any number of ranks:

    mpiexec -n 4 roundelay run examples/halo_exchange.py
    mpiexec -n 4 python examples/halo_exchange.py

It compares the result with that of one rank, times the exchange beside two ways to do it with mpi4py
alone, and draws a slice through the box (for which it needs matplotlib).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
from numpy.typing import NDArray

from roundelay import MPI
from roundelay.comm.interposer import library_alone
from roundelay.datatypes.plain import MPI as mpi4py_MPI
from roundelay.terminal import track

Array = NDArray[np.float64]

AXES = range(3)
# Courant number squared; three dimensions allow up to 1/3.
COURANT_SQUARED = 0.25
INNER = np.s_[1:-1, 1:-1, 1:-1]
# The way that is timed without roundelay.
ALONE = "mpi4py alone"


# The mathematics ----------------------------------------------------------------------------------


def start_values(points: int, block: tuple[slice, ...]) -> Array:
    """Height of the wave at rest, on a block of a box with `points` along each edge: two bells."""
    place = np.arange(points) / points

    def bell(centre: float) -> Array:
        distance = np.abs(place - centre)
        values: Array = np.exp(-150.0 * np.minimum(distance, 1.0 - distance) ** 2)
        return values

    total = np.zeros([part.stop - part.start for part in block])
    for centre in ((0.3, 0.35, 0.5), (0.7, 0.6, 0.5)):
        x, y, z = (bell(c)[part] for c, part in zip(centre, block, strict=True))
        total += x[:, None, None] * y[:, None] * z
    return total


def add_laplacian(u: Array, factor: float, out: Array) -> None:
    """Add `factor` times the sum of differences to the six neighbours; `u` has ghosts, `out` has none."""
    sums = u[:-2, 1:-1, 1:-1] + u[2:, 1:-1, 1:-1]
    sums += u[1:-1, :-2, 1:-1]
    sums += u[1:-1, 2:, 1:-1]
    sums += u[1:-1, 1:-1, :-2]
    sums += u[1:-1, 1:-1, 2:]
    sums -= 6.0 * u[INNER]
    sums *= factor
    out += sums


def solve(start: Array, steps: Iterable[int], fill_ghosts: Callable[[Array], None]) -> Array:
    """Run the leapfrog scheme from rest; before each step `fill_ghosts(u)` is given the present state."""
    shape = tuple(length + 2 for length in start.shape)
    previous, u = np.zeros(shape), np.zeros(shape)
    u[INNER] = previous[INNER] = start
    # At rest the first step is half of one: what the Laplacian adds to the step before is the same.
    fill_ghosts(u)
    add_laplacian(u, COURANT_SQUARED / 2, previous[INNER])
    for _ in steps:
        fill_ghosts(u)
        # u(t + 1) = 2 u(t) - u(t - 1) + laplacian, in the place of u(t - 1).
        past = previous[INNER]
        np.subtract(2.0 * u[INNER], past, out=past)
        add_laplacian(u, COURANT_SQUARED, past)
        previous, u = u, previous
    result: Array = u[INNER]
    return result


def wrap(u: Array) -> None:
    """Fill the ghost points of a box that one rank holds alone."""
    for axis in AXES:
        faces = np.moveaxis(u, axis, 0)
        faces[0], faces[-1] = faces[-2], faces[1]


# The exchange -------------------------------------------------------------------------------------


def face(u: Array, axis: int, index: int) -> Array:
    """One of the layers across an axis, without the edges: those of ghosts are 0 and -1."""
    place: list[Any] = [slice(1, -1)] * 3
    place[axis] = index
    layer: Array = u[tuple(place)]
    return layer


def exchange_slices(cart: MPI.Cartcomm, u: Array) -> None:
    """Fill the ghost points: each face is an array like any other."""
    requests = []
    for axis in AXES:
        below, above = cart.Shift(axis, 1)
        requests += [
            cart.Irecv(face(u, axis, 0), below, tag=2 * axis),
            cart.Irecv(face(u, axis, -1), above, tag=2 * axis + 1),
            cart.Isend(face(u, axis, -2), above, tag=2 * axis),
            cart.Isend(face(u, axis, 1), below, tag=2 * axis + 1),
        ]
    MPI.Request.Waitall(requests)


def exchange_copies(cart: mpi4py_MPI.Cartcomm, u: Array, buffers: list[Array]) -> None:
    """Fill the ghost points with mpi4py alone: copy each face to a buffer that it accepts, and back."""
    requests = []
    for axis in AXES:
        below, above = cart.Shift(axis, 1)
        from_below, from_above, to_above, to_below = buffers[4 * axis : 4 * axis + 4]
        requests.append(cart.Irecv(from_below, below, tag=2 * axis))
        requests.append(cart.Irecv(from_above, above, tag=2 * axis + 1))
        np.copyto(to_above, face(u, axis, -2))
        requests.append(cart.Isend(to_above, above, tag=2 * axis))
        np.copyto(to_below, face(u, axis, 1))
        requests.append(cart.Isend(to_below, below, tag=2 * axis + 1))
    mpi4py_MPI.Request.Waitall(requests)
    for axis in AXES:
        np.copyto(face(u, axis, 0), buffers[4 * axis])
        np.copyto(face(u, axis, -1), buffers[4 * axis + 1])


def exchange_types(cart: mpi4py_MPI.Cartcomm, u: Array, types: list[mpi4py_MPI.Datatype]) -> None:
    """Fill the ghost points with mpi4py alone: each face is a subarray type."""
    requests = []
    for axis in AXES:
        below, above = cart.Shift(axis, 1)
        from_below, from_above, to_above, to_below = types[4 * axis : 4 * axis + 4]
        requests += [
            cart.Irecv([u, 1, from_below], below, tag=2 * axis),
            cart.Irecv([u, 1, from_above], above, tag=2 * axis + 1),
            cart.Isend([u, 1, to_above], above, tag=2 * axis),
            cart.Isend([u, 1, to_below], below, tag=2 * axis + 1),
        ]
    mpi4py_MPI.Request.Waitall(requests)


def make_buffers(shape: tuple[int, ...]) -> list[Array]:
    """Buffers for the four faces of each axis, in the order in which `exchange_copies` takes them."""
    return [np.empty(face(np.empty(shape), axis, 0).shape) for axis in AXES for _ in range(4)]


def make_types(shape: tuple[int, ...]) -> list[mpi4py_MPI.Datatype]:
    """Subarray types of the four faces of each axis, in the order in which `exchange_types` takes them."""
    types = []
    for axis in AXES:
        for start in (0, shape[axis] - 1, shape[axis] - 2, 1):
            starts, sizes = [1, 1, 1], [length - 2 for length in shape]
            starts[axis], sizes[axis] = start, 1
            types.append(mpi4py_MPI.DOUBLE.Create_subarray(shape, sizes, starts).Commit())
    return types


class Comparison:
    """Three ways to fill the ghost points of one rank's block, timed in turn.

    Parameters
    ----------
    cart : MPI.Cartcomm
        Periodic in three dimensions.
    shape : tuple of int
        Of this rank's block, with its ghost points.
    """

    def __init__(self, cart: MPI.Cartcomm, shape: tuple[int, ...]) -> None:
        self.cart = cart
        plain = mpi4py_MPI.Cartcomm(cart)
        buffers, self.types = make_buffers(shape), make_types(shape)
        self.ways: dict[str, Callable[[Array], None]] = {
            "slices, through roundelay": lambda u: exchange_slices(cart, u),
            f"hand-made copies, {ALONE}": lambda u: exchange_copies(plain, u, buffers),
            f"subarray types, {ALONE}": lambda u: exchange_types(plain, u, self.types),
        }
        self.seconds: dict[str, list[float]] = {name: [] for name in self.ways}

    def check(self, u: Array) -> bool:
        """Whether all of them, on all ranks, leave the same ghost points."""
        expected = u.copy()
        self.ways[f"hand-made copies, {ALONE}"](expected)
        for exchange in self.ways.values():
            found = u.copy()
            exchange(found)
            if not self.cart.allreduce(np.array_equal(found, expected, equal_nan=True), MPI.LAND):
                return False
        return True

    def fill_ghosts(self, u: Array) -> None:
        """Time each way, a different one first at each step; what counts is then done by slices alone."""
        names = list(self.ways)
        first = len(self.seconds[names[0]]) % len(names)
        for name in names[first:] + names[:first]:
            self.cart.Barrier()
            with library_alone() if name.endswith(ALONE) else nullcontext():
                begin = time.perf_counter()
                self.ways[name](u)
                self.seconds[name].append(time.perf_counter() - begin)
        for axis in AXES:
            face(u, axis, 0)[...] = face(u, axis, -1)[...] = np.nan
        exchange_slices(self.cart, u)

    def slowest_medians(self) -> dict[str, float]:
        """For each way, the median over the steps, on the rank where it is longest, in seconds."""
        medians = {name: float(np.median(times)) for name, times in self.seconds.items()}
        return {name: self.cart.allreduce(median, MPI.MAX) for name, median in medians.items()}

    def free(self) -> None:
        """Free the subarray types."""
        for datatype in self.types:
            datatype.Free()


# The program --------------------------------------------------------------------------------------


def find_block(cart: MPI.Cartcomm, rank: int, points: int) -> tuple[slice, ...]:
    """Give the part of the box that a rank holds; along an edge parts differ by one point at most."""
    return tuple(
        slice(points * place // parts, points * (place + 1) // parts)
        for place, parts in zip(cart.Get_coords(rank), cart.dims, strict=True)
    )


def gather(cart: MPI.Cartcomm, mine: Array, points: int) -> Array | None:
    """Collect the whole box on rank 0: each block is received into its part of it."""
    sending = cart.Isend(mine, 0)
    box = None
    if cart.rank == 0:
        box = np.empty((points, points, points))
        parts = [box[find_block(cart, rank, points)] for rank in range(cart.size)]
        MPI.Request.Waitall([cart.Irecv(part, rank) for rank, part in enumerate(parts)])
    sending.Wait()
    return box


def wait_idly(cart: MPI.Cartcomm) -> None:
    """Wait for all ranks, and leave the processor to those that still work."""
    request = cart.Ibarrier()
    while not request.Test():
        time.sleep(0.01)


def stop_all(cart: MPI.Cartcomm, message: str) -> NoReturn:
    """End all ranks, which have met the same obstacle, with one message."""
    if cart.rank == 0:
        print(message, file=sys.stderr, flush=True)
    cart.Barrier()
    sys.exit(1)


def draw(box: Array, steps: int, output: Path) -> str:
    """Draw the slice across the third axis, in the middle, and tell what was written."""
    if find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install matplotlib)"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    title = f"Height of the wave at z = 1/2 after {steps} steps"
    axes = figure.add_subplot(xlabel="x", ylabel="y", title=title)
    slice_ = box[:, :, box.shape[2] // 2].T
    limit = float(np.abs(slice_).max()) or 1.0
    image = axes.imshow(slice_, origin="lower", extent=(0, 1, 0, 1), cmap="RdBu", vmin=-limit, vmax=limit)
    figure.colorbar(image, label="height of the wave")
    figure.savefig(output, dpi=150)
    return f"wrote {output}"


def report_times(medians: dict[str, float], ranks: int) -> None:
    """Print the time of an exchange in each way."""
    cores = len(os.sched_getaffinity(0))
    if ranks > cores:
        print(f"{ranks} ranks share {cores} cores and wait for one another: the times say little")
    print("time per exchange of six faces (median over the steps, slowest rank):")
    for name, seconds in medians.items():
        print(f"  {name:32}{seconds * 1e6:10.1f} us")


def report_result(box: Array, points: int, steps: int) -> bool:
    """Run the same problem on this rank alone, and tell whether each point has the same bits."""
    whole = (slice(0, points),) * 3
    alone = solve(start_values(points, whole), track(range(steps), "steps of one rank alone"), wrap)
    differing = int(np.count_nonzero(box.view(np.int64) != np.ascontiguousarray(alone).view(np.int64)))
    if differing:
        print(f"the result differs from the one-rank run in {differing} of {box.size} points")
    else:
        print("the result is that of the one-rank run, bit for bit")
    return not differing


def report_run(points: int, steps: int, dims: list[int]) -> None:
    """Print what was run, and where."""
    name, version = MPI.get_vendor()
    ranks = f"{np.prod(dims)} ranks as {'x'.join(map(str, dims))}"
    library = f"{name} {'.'.join(map(str, version))}"
    print(f"wave equation on {points}^3 points, {steps} steps, {ranks}, {library}", flush=True)


@click.command()
@click.option("--points", default=64, type=click.IntRange(min=1), help="Along each edge of the box.")
@click.option("--steps", default=200, type=click.IntRange(min=1), help="Time steps.")
@click.option("--output", default="halo_exchange.png", type=click.Path(path_type=Path), help="Picture.")
def main(points: int, steps: int, output: Path) -> None:
    """Solve the 3-D wave equation on a periodic box, on all ranks."""
    dims = MPI.Compute_dims(MPI.COMM_WORLD.size, [0, 0, 0])
    cart = MPI.COMM_WORLD.Create_cart(dims, periods=[True, True, True])
    if points < max(dims):
        stop_all(cart, f"--points: {points} are too few for ranks in a grid of {dims}")
    start = start_values(points, find_block(cart, cart.rank, points))
    comparison = Comparison(cart, tuple(length + 2 for length in start.shape))
    try:
        same_ghosts = comparison.check(np.pad(start, 1, constant_values=np.nan))
    except BufferError as refusal:
        stop_all(cart, f"mpi4py refuses the slices, and roundelay is off (ROUNDELAY_DISABLE): {refusal}")
    if not same_ghosts:
        stop_all(cart, "the three ways to exchange fill the ghost points differently")
    result = solve(start, track(range(steps), "steps", visible=cart.rank == 0), comparison.fill_ghosts)
    medians = comparison.slowest_medians()
    comparison.free()
    node = cart.Split_type(MPI.COMM_TYPE_SHARED)
    ranks_here = node.size
    node.Free()
    box = gather(cart, result, points)
    good = True
    if box is not None:
        report_run(points, steps, dims)
        good = report_result(box, points, steps)
        report_times(medians, ranks_here)
        print(draw(box, steps, output), flush=True)
    wait_idly(cart)
    cart.Free()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
