"""The rebuilt DDTBench datatypes have the sizes, the runs and the bounds of the published parameter rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray

from benchmarks.ddtbench import Builder, Case, cases

# (name, row): packed bytes, runs of the send type, bytes of one run (None: runs of more than one length)
EXPECTED: dict[tuple[str, str], tuple[int, int, int | None]] = {
    **{
        (f"WRF_{row}", label): entry
        for row in ("y_vec", "y_sa")
        for label, entry in {
            "2x2": (90804, 987, 92),
            "3x3": (75012, 987, 76),
            "4x4": (63168, 987, 64),
            "5x5": (55272, 987, 56),
            "8x8": (43428, 987, 44),
        }.items()
    },
    **{
        (f"WRF_{row}", label): entry
        for row in ("x_vec", "x_sa")
        for label, entry in {
            "2x2": (173712, 14476, 12),
            "4x4": (102648, 8554, 12),
            "8x8": (63168, 5264, 12),
        }.items()
    },
    ("MILC_su3_zd", "16x16x16x16"): (98304, 32, 3072),
    ("MILC_su3_zd", "8x16x16x16"): (49152, 32, 1536),
    ("MILC_su3_zd", "8x8x8x16"): (24576, 32, 768),
    ("MILC_su3_zd", "8x8x8x8"): (12288, 16, 768),
    **{("NAS_LU_x", str(n)): (40 * n, 1, 40 * n) for n in (12, 33, 64, 102, 162, 408, 1020)},
    **{("NAS_LU_y", str(n)): (40 * n, n, 40) for n in (12, 33, 64, 102, 162, 408, 1020)},
    ("NAS_MG_x", "34x18x18"): (2048, 256, 8),
    ("NAS_MG_x", "130x66x66"): (32768, 4096, 8),
    ("NAS_MG_x", "258x130x130"): (131072, 16384, 8),
    ("NAS_MG_x", "514x258x258"): (524288, 65536, 8),
    **{
        (f"NAS_MG_{axis}", label): entry
        for axis in "yz"
        for label, entry in {
            "34x18x18": (4096, 16, 256),
            "130x66x66": (65536, 64, 1024),
            "258x130x130": (262144, 128, 2048),
            "514x258x258": (1048576, 256, 4096),
        }.items()
    },
    ("LAMMPS_full", "3534/3062"): (195968, 6 * 3062, None),
    ("LAMMPS_full", "2597/2243"): (143552, 6 * 2243, None),
    ("LAMMPS_full", "1907/1662"): (106368, 6 * 1662, None),
    ("LAMMPS_atomic", "4084/243"): (11664, 4 * 243, None),
    ("LAMMPS_atomic", "2157/145"): (6960, 4 * 145, None),
    ("LAMMPS_atomic", "1217/114"): (5472, 4 * 114, None),
    ("SPECFEM3D_oc", "88881/3225"): (12900, 3225, None),
    ("SPECFEM3D_oc", "38585/1897"): (7588, 1897, None),
    ("SPECFEM3D_oc", "12857/877"): (3508, 877, None),
    ("SPECFEM3D_oc", "3697/493"): (1972, 493, None),
    ("SPECFEM3D_cm", "834917/51153/11797/3009"): (177672, 14806, None),
    ("SPECFEM3D_cm", "396849/22477/7125/1729"): (106248, 8854, None),
    ("SPECFEM3D_cm", "152001/7209/3801/801"): (55224, 4602, None),
    ("SPECFEM3D_cm", "39929/1225/1957/245"): (26424, 2202, None),
    **{("SPECFEM3D_mt", str(n)): (12 * n, n, 12) for n in (7600, 6400, 5600, 6200)},
    **{("FFT2D", f"{n}/2"): (16 * (n // 2) ** 2, n // 2, 8 * n) for n in (256, 512, 768, 1024, 1536)},
}
CASES = cases()
Face = tuple[slice | int, ...]


def name_case(case: Case) -> str:
    return f"{case.name}-{case.row}"


def pack_positions(datatype: MPI.Datatype, arena_bytes: int, origin: int) -> NDArray[np.int64]:
    """Pack an arena whose words hold their own position: all datatypes here are made of 4-byte words."""
    arena = np.arange(arena_bytes // 4, dtype=np.uint32)
    lower, size = datatype.Get_true_extent()
    assert origin + lower >= 0
    assert origin + lower + size <= arena_bytes
    packed = np.empty(datatype.Get_size() // 4, np.uint32)
    source = MPI.buffer.fromaddress(arena.ctypes.data + origin, datatype.Get_extent()[1])
    assert datatype.Pack(source, packed, 0, MPI.COMM_SELF) == packed.nbytes
    return packed.astype(np.int64)


def pack_case(build: Builder, case: Case, origin: int) -> NDArray[np.int64]:
    datatype = build(MPI)
    try:
        return pack_positions(datatype, case.arena_bytes, origin)
    finally:
        datatype.Free()


def measure_runs(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the lengths in bytes of the contiguous pieces, in order."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    return 4 * np.diff(np.concatenate(([0], breaks, [len(positions)])))


def test_rows_are_complete() -> None:
    assert Counter((case.name, case.row) for case in CASES) == Counter(EXPECTED.keys())
    assert len({case.name for case in CASES}) == 16


@pytest.mark.parametrize("case", CASES, ids=name_case)
def test_send_datatype(case: Case) -> None:
    packed_bytes, nominal_runs, run_bytes = EXPECTED[case.name, case.row]
    positions = pack_case(case.send, case, case.send_origin)
    assert 4 * len(positions) == case.packed_bytes == packed_bytes
    runs = measure_runs(positions)
    assert len(runs) == case.send_runs
    assert len(np.unique(positions)) == len(positions), "a word is sent twice"
    if run_bytes is None:  # drawn indices: a few of them fall side by side
        assert 0.99 * nominal_runs < len(runs) <= nominal_runs
    else:
        assert len(runs) == nominal_runs
        assert set(runs) == {run_bytes}


@pytest.mark.parametrize("case", CASES, ids=name_case)
def test_recv_datatype(case: Case) -> None:
    positions = pack_case(case.recv, case, case.recv_origin)
    assert 4 * len(positions) == case.packed_bytes
    assert len(measure_runs(positions)) == case.recv_runs
    assert len(np.unique(positions)) == len(positions), "a word is received twice"


def test_fourier_transpose_is_column_order() -> None:
    case = next(case for case in CASES if case.name == "FFT2D")
    positions = pack_case(case.recv, case, case.recv_origin)
    rows = case.send_runs
    columns = positions.reshape(rows, rows, 4)
    row_words = case.arena_bytes // (4 * rows)
    np.testing.assert_array_equal(np.diff(columns[:, :, 0], axis=1), row_words)
    np.testing.assert_array_equal(np.diff(columns[:, 0, 0]), 4)


@pytest.mark.parametrize("case", [case for case in CASES if case.name[:-1] == "NAS_MG_"], ids=name_case)
def test_multigrid_faces_are_slices(case: Case) -> None:
    inner = slice(1, -1)
    faces: dict[str, tuple[Face, Face]] = {
        "x": ((inner, inner, -2), (inner, inner, -1)),
        "y": ((inner, -2, inner), (inner, -1, inner)),
        "z": ((1, inner, inner), (0, inner, inner)),
    }
    face, halo = faces[case.name[-1]]
    shape = tuple(map(int, reversed(case.row.split("x"))))
    grid = 2 * np.arange(case.arena_bytes // 8).reshape(shape)
    sent = pack_case(case.send, case, case.send_origin)
    received = pack_case(case.recv, case, case.recv_origin)
    np.testing.assert_array_equal(sent[::2], grid[face].ravel())
    np.testing.assert_array_equal(received[::2], grid[halo].ravel())


@pytest.mark.parametrize("case", [case for case in CASES if case.name.endswith("_vec")], ids=name_case)
def test_vectors_and_subarrays_agree(case: Case) -> None:
    other = next(one for one in CASES if (one.name, one.row) == (case.name.replace("vec", "sa"), case.row))
    np.testing.assert_array_equal(pack_case(case.send, case, 0), pack_case(other.send, case, 0))


def test_index_lists_repeat() -> None:
    for first, second in zip(CASES, cases(), strict=True):
        if first.name.startswith("LAMMPS_atomic"):
            np.testing.assert_array_equal(pack_case(first.send, first, 0), pack_case(second.send, second, 0))
