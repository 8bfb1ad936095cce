"""All that the documentation calls an array: arrays, their subclasses, buffers and tensors."""

import array
import os
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import roundelay
from roundelay import MPI, coding

pytestmark = pytest.mark.mpi


def named(comm):
    """How an error names the last rank, which alone is wrong; where all are, it names none."""
    return f"rank {comm.size - 1}: " if comm.size > 1 else ""


class Copying(np.ndarray):
    """A subclass whose parts are copies."""

    def __getitem__(self, key):
        """Copy a part."""
        return np.array(self)[key]


def with_gaps(values):
    memory = np.zeros((*values.shape, 2), values.dtype)
    memory[..., 0] = values
    return memory[..., 0]


def memory_map(values):
    mapped = np.memmap(f"/proc/self/fd/{_memory_file(values.nbytes)}", values.dtype, "r+", shape=values.shape)
    mapped[...] = values
    return mapped


def _memory_file(nbytes):
    number = os.memfd_create("array")
    os.truncate(number, max(nbytes, 1))
    return number


def interface(values):
    values = values.copy()
    return SimpleNamespace(__array_interface__=values.__array_interface__, kept=values)


def tensor(values):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roundelay[pytorch]'")
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(values.copy())


def tensor_with_gaps(values):
    return tensor(values).repeat_interleave(2, dim=-1)[..., ::2]


def parameter(values):
    """One that requires no gradient."""
    values = tensor(values)
    from torch.nn import Parameter

    return Parameter(values, requires_grad=False)


KINDS: dict[str, Any] = {
    "array": np.array,
    "gaps": with_gaps,
    "fortran": lambda values: np.array(values, order="F"),
    "subclass": lambda values: np.array(values).view(Copying),
    "masked": lambda values: np.ma.array(values.copy()),
    "memmap": memory_map,
    "memoryview": lambda values: np.array(values).data,
    "memoryview with gaps": lambda values: with_gaps(values).data,
    "interface": interface,
    "tensor": tensor,
    "tensor with gaps": tensor_with_gaps,
    "parameter": parameter,
}
FLAT = ["array", "subclass", "masked", "memmap", "memoryview", "interface", "tensor"]


def seen(owner):
    """The values in the memory of any kind of array."""
    if isinstance(owner, SimpleNamespace):
        return owner.kept
    if hasattr(owner, "detach"):
        owner = owner.detach()
        return owner.double().numpy() if owner.dtype.is_floating_point else owner.numpy()
    return np.asarray(owner)


def ranks_sum(comm, values):
    return comm.size * values + sum(range(comm.size))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "c16"])
@pytest.mark.parametrize("kind", KINDS)
def test_many(comm, kind, dtype):
    """Of an iterator; one array alone, and several that are reduced as one."""
    values = np.arange(24).reshape(4, 6).astype(dtype)
    for shapes in ([(4, 6)], [(4, 6), (24,), (2, 3, 4)]):
        owners = [KINDS[kind](values.reshape(shape) + comm.rank) for shape in shapes]
        roundelay.allreduce_many(comm, iter(owners))
        for owner, shape in zip(owners, shapes, strict=True):
            assert_array_equal(seen(owner), ranks_sum(comm, values.reshape(shape)))


@pytest.mark.parametrize("kind", ["array", "gaps", "tensor", "tensor with gaps"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_many_of_half_precision(comm, kind, dtype):
    owners = [KINDS[kind](np.full(size, comm.rank + 1, dtype)) for size in (3, 5)]
    roundelay.allreduce_many(comm, owners)
    for owner in owners:
        assert (seen(owner) == sum(range(1, comm.size + 1))).all()


def test_many_of_other_kinds_on_each_rank(comm):
    """Also in another order of memory."""
    values = np.arange(24.0).reshape(4, 6)
    kinds = [kind for kind in KINDS if "tensor" not in kind and "parameter" not in kind]
    for number in range(len(kinds)):
        owners = [KINDS[kinds[(number + comm.rank) % len(kinds)]](values + comm.rank)]
        roundelay.allreduce_many(comm, owners)
        assert_array_equal(seen(owners[0]), ranks_sum(comm, values))


def test_many_numbers_of_a_program(comm):
    """An array of the module `array`, and a bytearray."""
    numbers, octets = array.array("d", [comm.rank] * 3), bytearray([comm.rank] * 3)
    roundelay.allreduce_many(comm, [numbers, octets], MPI.MAX)
    assert list(numbers) == [comm.size - 1] * 3
    assert list(octets) == [comm.size - 1] * 3


def locked(values):
    values.flags.writeable = False
    return values


def requires_gradient(values):
    return tensor(values).requires_grad_()


def sparse(values):
    return tensor(values).to_sparse()


def on_no_device(values):
    return tensor(values).to("meta")


def conjugated(values):
    return tensor(values.astype("c8")).conj()


def negated(values):
    return conjugated(values).imag


# Objects in the place of the second of two arrays of three numbers, and the error on all ranks.
WRONG: dict[str, Any] = {
    "nothing": (lambda values: None, "array 1 is None: expected an array; zeros, where there is no gradient"),
    "list": (lambda values: values.tolist(), "array 1: list: expected an array"),
    "text": (lambda values: "text", "array 1: str: expected an array"),
    "number": (lambda values: values[0], "array 1: float64, a number: expected an array"),
    "bytes": (lambda values: bytes(3), r"array 1 of shape \(3,\) cannot be written"),
    "locked": (locked, r"array 1 of shape \(3,\) cannot be written"),
    "overlapping": (
        lambda values: np.lib.stride_tricks.as_strided(values, (3,), (0,)),
        r"array 1 of shape \(3,\) and strides \(0,\) has elements that overlap",
    ),
    "objects": (
        lambda values: values.astype(object),
        "array 1 of dtype object: expected one that SUM can reduce",
    ),
    "swapped": (lambda values: values.astype(">f8"), "array 1 of dtype >f8: expected one that SUM"),
    "requires a gradient": (requires_gradient, "array 1: a tensor that requires a gradient.*torch.no_grad"),
    "sparse": (sparse, "array 1: tensor of torch.float64 on cpu: .*layout"),
    "meta": (on_no_device, "array 1: tensor of torch.float64 on meta"),
    "conjugated": (conjugated, "array 1: tensor of torch.complex64 on cpu: .*conjugate"),
    "negated": (negated, "array 1: .*resolve_neg"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_many_one_of_which_is_wrong_on_one_rank(comm, wrong):
    last, (change, message) = comm.size - 1, WRONG[wrong]
    refused = change(np.ones(3))
    arrays = [np.ones(3), refused if comm.rank == last else np.ones(3)]
    with pytest.raises(ValueError, match=f"^allreduce_many: {named(comm)}{message}"):
        roundelay.allreduce_many(comm, arrays)
    assert_array_equal(arrays[0], 1)
    roundelay.allreduce_many(comm, arrays[:1])
    assert_array_equal(arrays[0], comm.size)


@pytest.mark.parametrize("given", [np.ones((2, 3)), memoryview(b"abc"), array.array("d", [1, 2]), b"abc"])
def test_many_one_array_in_place_of_a_list(comm, given):
    message = f"a single {type(given).__name__}: expected a list of arrays"
    with pytest.raises(ValueError, match=f"^allreduce_many: {message}"):
        roundelay.allreduce_many(comm, given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays[:1], "arrays: rank 0 has 2, rank {last} has 1"),
        (
            lambda arrays: [arrays[0], np.ones(4)],
            r"array 1: rank 0 has \('float64', \(3,\)\), rank {last} has",
        ),
        (lambda arrays: [arrays[0], np.ones(3, "f4")], "array 1: rank 0 has .*float64.* has .*float32"),
    ],
)
def test_many_that_differ_between_ranks(comm, change, message):
    arrays, last = [np.ones(3), np.ones(3)], comm.size - 1
    given = change(arrays) if comm.rank == last else arrays
    if not last:
        roundelay.allreduce_many(comm, given)
        return
    with pytest.raises(ValueError, match="^allreduce_many: " + message.format(last=last)):
        roundelay.allreduce_many(comm, given)
    with pytest.raises(ValueError, match=r"^allreduce_many: algorithm: rank 0 has auto"):
        roundelay.allreduce_many(comm, arrays, algorithm="ring" if comm.rank == last else "auto")


@pytest.mark.parametrize("kind", FLAT)
def test_progressive(comm, kind):
    owner = KINDS[kind](np.zeros(6, "f4"))
    reduction = roundelay.ProgressiveAllreduce(comm, owner, 3)
    for segment in (2, 0, 1):
        np.asarray(owner.numpy() if kind == "tensor" else owner)[reduction.part(segment)] = segment
        reduction.ready(segment)
    reduction.wait()
    assert_array_equal(seen(owner), comm.size * np.repeat([0, 1, 2], 2))


@pytest.mark.parametrize("wrong", [name for name in WRONG if name != "nothing"] + ["gaps", "table"])
def test_progressive_that_is_wrong_on_one_rank(comm, wrong):
    more = {"gaps": (with_gaps, "expected a flat"), "table": (np.diag, "expected a flat")}
    change, message = {**WRONG, **more}[wrong]
    last, refused = comm.size - 1, change(np.ones(3))
    buffer = refused if comm.rank == last else np.ones(3)
    message = message.replace("array 1", "buffer")
    if wrong == "overlapping":
        message = "buffer .*overlap"
    with pytest.raises(ValueError, match=f"^ProgressiveAllreduce: {named(comm)}.*{message}"):
        roundelay.ProgressiveAllreduce(comm, buffer, 1)


@pytest.mark.parametrize("algorithm", ["auto", "ours"])
@pytest.mark.parametrize("dtype", ["f4", np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", ["tensor", "tensor with gaps"])
def test_collectives_of_tensors(comm, kind, dtype, algorithm):
    make, size, total = KINDS[kind], comm.size, sum(range(comm.size))

    def how(operation):
        # After the library's own.
        return {"algorithm": roundelay.algorithms(operation)[1] if algorithm == "ours" else algorithm}

    mine, all_of_us = np.full(2, comm.rank, dtype), np.repeat(range(size), 2)

    def result(count):
        return make(np.zeros(count, dtype))

    found = result(2)
    roundelay.allreduce(comm, make(mine), found, **how("allreduce"))
    assert_array_equal(seen(found), total)
    found = make(mine)
    roundelay.allreduce(comm, MPI.IN_PLACE, found, MPI.MAX, **how("allreduce"))
    assert_array_equal(seen(found), size - 1)
    found = result(2) if comm.rank == 0 else None
    roundelay.reduce(comm, make(mine), found, **how("reduce"))
    assert found is None or (seen(found) == total).all()
    found = result(2)
    roundelay.reduce_scatter_block(
        comm, make(np.full(2 * size, comm.rank, dtype)), found, **how("reduce_scatter")
    )
    assert_array_equal(seen(found), total)
    found = result(2)
    roundelay.reduce_scatter(
        comm, make(np.full(2 * size, comm.rank, dtype)), found, [2] * size, **how("reduce_scatter")
    )
    assert_array_equal(seen(found), total)
    if dtype == "f4":
        # MPI has no type for the elements of the others, and takes no operation to tell it by.
        found = result(2 * size)
        roundelay.allgather(comm, make(mine), found, **how("allgather"))
        assert_array_equal(seen(found), all_of_us)
        found = result(2 * size)
        roundelay.allgatherv(comm, make(mine), [found, [2] * size], **how("allgather"))
        assert_array_equal(seen(found), all_of_us)
        found = make(mine)
        roundelay.bcast(comm, found, size - 1, **how("bcast"))
        assert_array_equal(seen(found), size - 1)


def test_matrix_by_an_algorithm(comm):
    with pytest.warns(PendingDeprecationWarning, match="matrix"):
        total = np.matrix(np.full((2, 3), float(comm.rank)))
    roundelay.allreduce(comm, MPI.IN_PLACE, total, algorithm="ring")
    assert_array_equal(total, sum(range(comm.size)))


def test_autograd_notices_what_is_written(comm):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roundelay[pytorch]'")

    def progress(kept):
        reduction = roundelay.ProgressiveAllreduce(comm, kept, 1)
        reduction.ready(0)
        reduction.wait()

    for write in (
        lambda kept: roundelay.allreduce_many(comm, [kept]),
        lambda kept: roundelay.allreduce(comm, MPI.IN_PLACE, kept),
        lambda kept: roundelay.allgather(comm, torch.ones(1), [kept[: comm.size], 1, MPI.FLOAT]),
        progress,
    ):
        leaf = torch.ones(8, requires_grad=True)
        kept = leaf.exp()
        with torch.no_grad():
            write(kept)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            kept.sum().backward()


def test_parameters_without_recording(comm):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roundelay[pytorch]'")
    model = torch.nn.Linear(3, 2)
    torch.nn.init.ones_(model.weight)
    torch.nn.init.ones_(model.bias)
    with torch.no_grad():
        roundelay.allreduce_many(comm, model.parameters())
    assert all((each == comm.size).all() for each in model.parameters())


def attend(comm, q, k, v):
    out, lse = roundelay.attention(q, k, v, comm, causal=True)
    gradients = roundelay.attention_backward(out, q, k, v, out, lse, comm, causal=True)
    slopes = roundelay.linear_attention_backward(out, q, k, v, comm, causal=True, decay=np.array([0.1, 0.2]))
    linear = roundelay.linear_attention(q, k, v, comm)
    return [out, lse, *gradients, *slopes, linear, *roundelay.decode_attention(q, k, v, comm)]


@pytest.mark.parametrize("dtype", ["f8", np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_attention(comm, kind, dtype):
    if "memoryview" in kind and dtype == ml_dtypes.bfloat16:
        pytest.skip("no memoryview of a dtype that NumPy lacks")
    if kind == "interface" and dtype == ml_dtypes.bfloat16:
        pytest.skip("no array interface says what its elements are")
    rng = np.random.default_rng(comm.rank)
    arrays = [rng.standard_normal((1, 5, 2, 4)).astype(dtype) for _ in "qkv"]
    arrays[0][...] = np.random.default_rng(7).standard_normal((1, 5, 2, 4)).astype(dtype)
    found = attend(comm, *(KINDS[kind](each) for each in arrays))
    for ours, right in zip(found, attend(comm, *arrays), strict=True):
        assert hasattr(ours, "detach") == ("tensor" in kind or "parameter" in kind)
        assert_array_equal(seen(ours), right.astype(seen(ours).dtype))


@pytest.mark.parametrize("name", "qkv")
@pytest.mark.parametrize("wrong", ["nothing", "list", "text", "requires a gradient", "sparse", "meta"])
@pytest.mark.parametrize("call", ["attention", "linear_attention"])
def test_attention_of_what_is_no_array_on_one_rank(comm, call, wrong, name):
    arrays = dict.fromkeys("qkv", np.ones((1, 3, 2, 4)))
    last, refused = comm.size - 1, WRONG[wrong][0](np.ones((1, 3, 2, 4)))
    if comm.rank == last:
        arrays[name] = refused
    told = {"nothing": "NoneType: expected an array"}
    message = told.get(wrong, WRONG[wrong][1].removeprefix("array 1: "))
    with pytest.raises(ValueError, match=f"^{call}: {named(comm)}{name}(: | of ){message}"):
        getattr(roundelay, call)(**arrays, comm=comm)


@pytest.mark.parametrize("padding", [[[True] * 3], "all", np.ones((1, 3))])
def test_key_padding_that_is_no_array_of_bools(comm, padding):
    last, one = comm.size - 1, np.ones((1, 3, 2, 4))
    there = padding if comm.rank == last else np.ones((1, 3), bool)
    with pytest.raises(ValueError, match=f"^attention: {named(comm)}key_padding"):
        roundelay.attention(one, one, one, comm, key_padding=there)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", [*KINDS, "requires a gradient"])
def test_coded_parameters(comm, kind):
    """A list of two, of which `gradient` returns its own kind."""
    make = KINDS.get(kind, requires_gradient)
    parameters = [make(np.full((2, 3), 1.0)), make(np.full(4, 2.0))]
    scheme = coding.scheme("uncoded", comm.size - 1)

    def gradient(arrays, rows):
        return [make(len(rows) * seen(each)) for each in arrays]

    def load(partition):
        return np.zeros(12)[partition.rows(12)]

    rounds = coding.CodedGradients(comm, scheme, gradient, load, iter(parameters)).rounds(2)
    for totals, _ in rounds:
        for total, parameter in zip(totals, parameters, strict=True):
            assert hasattr(total, "detach") == hasattr(parameter, "detach")
            assert_array_equal(seen(total), 12 * seen(parameter))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nothing", "array 0: NoneType: expected an array"),
        ("number", "array 0: float64, a number: expected an array"),
        ("locked", r"parameters: array 0 of shape \(3,\) cannot be written"),
        ("meta", "array 0: tensor of torch.float64 on meta"),
    ],
)
def test_coded_parameters_that_are_wrong_on_one_rank(comm, wrong, message):
    last, refused = comm.size - 1, WRONG[wrong][0](np.ones(3))
    parameters = [refused if comm.rank == last else np.ones(3)]
    scheme = coding.scheme("uncoded", comm.size - 1)
    with pytest.raises(ValueError, match=f"^CodedGradients: {named(comm)}{message}"):
        coding.CodedGradients(comm, scheme, lambda *_: None, lambda _: None, parameters)


def test_an_empty_tensor_with_gaps(comm):
    """Its strides are those of gaps, but there is nothing between which they could be."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roundelay[pytorch]'")
    empty = torch.zeros(3, 0, 8)[:, :, ::2]
    status = MPI.Status()
    comm.Bcast(empty)
    comm.Allreduce(empty, empty.clone())
    comm.Sendrecv([empty, MPI.FLOAT], comm.rank, 0, empty, comm.rank, 0, status)
    assert status.Get_count(MPI.FLOAT) == 0
