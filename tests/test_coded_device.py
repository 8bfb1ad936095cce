"""Coded gradients of arrays on a device: by CuPy where there is a GPU, by a stand-in for it everywhere."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from roundelay import coding

pytestmark = pytest.mark.mpi(min_size=2)

ROWS = np.random.default_rng(0).standard_normal((24, 5))


@pytest.mark.parametrize("master", [0, None])
def test_parameters_and_gradients_on_a_device(comm, put, master):
    """Two arrays, of which the gradient's are new ones each time."""

    def slopes(arrays, rows):
        vector, matrix = arrays
        error = rows @ vector - 1
        return [2 * rows.T @ error, matrix * len(rows)]

    def gradient(parameters, rows):
        return [put(each) for each in slopes([each.get() for each in parameters], rows)]

    workers = comm.size - (master is not None)
    scheme = coding.scheme("gc", workers, stragglers=workers - 1)
    parameters = [put(np.full(5, 0.1)), put(np.full((2, 3), 1.0))]
    coded = coding.CodedGradients(
        comm, scheme, gradient, lambda partition: ROWS[partition.rows(24)], parameters, master=master
    )
    for totals, _ in coded.rounds(4):
        before = [each.get() for each in parameters]
        for total, right in zip(totals, slopes(before, ROWS), strict=True):
            assert_allclose(total.get(), right)
        for parameter, was, total in zip(parameters, before, totals, strict=True):
            parameter[...] = put(was - 1e-3 * total.get())
