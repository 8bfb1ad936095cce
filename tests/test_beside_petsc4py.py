"""petsc4py, which calls MPI in compiled code on communicators of ours, while roundelay's operations go on."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from roundelay import MPI

petsc4py = pytest.importorskip("petsc4py", reason="petsc4py is not installed")

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]

N = 24


class Laplacian:
    """Poisson's equation on a grid of N by N: each product exchanges halos that are columns of an array."""

    def __init__(self, comm):
        self.comm = comm
        self.left = comm.rank - 1 if comm.rank else MPI.PROC_NULL
        self.right = comm.rank + 1 if comm.rank + 1 < comm.size else MPI.PROC_NULL

    def mult(self, _matrix, x, y):
        """Write the product with `x` to `y`; PETSc calls it."""
        columns = x.array_r.size // N
        grid = np.zeros((N + 2, columns + 2))
        grid[1:-1, 1:-1] = x.array_r.reshape(columns, N).T
        self.comm.Sendrecv(grid[1:-1, 1], self.left, 1, grid[1:-1, -1], self.right, 1)
        requests = [
            self.comm.Irecv(grid[1:-1, 0], self.left, 2),
            self.comm.Isend(grid[1:-1, -2], self.right, 2),
        ]
        MPI.Request.Waitall(requests)
        inner = grid[1:-1, 1:-1]
        around = grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:]
        y.array = (4 * inner - around).T.reshape(-1)


def assemble(petsc, comm, rows, meanwhile):
    """Return the same matrix with its entries stored; `meanwhile` is called when its assembly has begun."""
    local = len(rows)
    matrix = petsc.Mat().createAIJ(size=((local, None), (local, None)), nnz=(5, 2), comm=comm)
    for row in rows:
        column, place = divmod(row, N)
        matrix[row, row] = 4
        for step, inside in ((-1, place > 0), (1, place < N - 1), (-N, column > 0), (N, column < N - 1)):
            if inside:
                matrix[row, row + step] = -1
    matrix.assemblyBegin()
    meanwhile(0)
    matrix.assemblyEnd()
    return matrix


def test_poisson():
    petsc4py.init(comm=MPI.COMM_WORLD)
    petsc = pytest.importorskip("petsc4py.PETSc")
    comm = MPI.COMM_WORLD.Dup()
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    rounds = []

    def send_around(round_):
        table = np.arange(3000.0).reshape(500, 6) + round_
        received = np.full((500, 6), -1.0)
        comm.Sendrecv((table + comm.rank)[:, ::2], right, 3, received[:, ::2], left, 3)
        assert_array_equal(received[:, ::2], table[:, ::2] + left)
        assert (received[:, 1::2] == -1).all()
        rounds.append(round_)

    first, end = (N * rank // comm.size for rank in (comm.rank, comm.rank + 1))
    rows = range(N * first, N * end)
    stored = assemble(petsc, comm, rows, send_around)
    shell = petsc.Mat().createPython(((len(rows), None), (len(rows), None)), Laplacian(comm), comm=comm)
    shell.setUp()
    for matrix in (stored, shell):
        solution = stored.createVecRight()
        solution.array = np.sin(12.9898 * np.array(rows))
        rhs, found = solution.duplicate(), solution.duplicate()
        stored.mult(solution, rhs)
        ksp = petsc.KSP().create(comm=comm)
        ksp.setOperators(matrix)
        ksp.setType("cg")
        ksp.getPC().setType("none")
        ksp.setTolerances(rtol=1e-12, max_it=500)
        del rounds[:]
        ksp.setMonitor(lambda _ksp, step, _norm: send_around(step))
        ksp.solve(rhs, found)
        assert ksp.getConvergedReason() > 0
        assert rounds == list(range(ksp.getIterationNumber() + 1))
        assert len(rounds) > 20
        assert_allclose(found.array_r, solution.array_r, atol=1e-8)
        for thing in (ksp, solution, rhs, found):
            thing.destroy()
    stored.destroy()
    shell.destroy()
    comm.Free()
