"""Attention over ranks for PyTorch, against PyTorch's own of the whole sequence."""

import doctest
from copy import deepcopy
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pytest

import roundelay
from roundelay import MPI

torch: Any = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roundelay[pytorch]'")
pytorch = import_module("roundelay.pytorch")
inner = import_module("roundelay.collectives.attention.pytorch")

pytestmark = pytest.mark.mpi

NAMES = ("query", "key", "value")
# Errors in steps of the precision, relative to the greatest value.
STEPS = {torch.float64: 200, torch.float32: 50, torch.bfloat16: 2}
ALONE = MPI.COMM_SELF


@pytest.fixture(autouse=True)
def _one_thread():
    """Ranks share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(tokens, dtype=torch.float64, heads=4, key_heads=4, seed=0):
    """Queries, keys, values, and a gradient of the output, of the whole sequence."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, 8), (key_heads, 8), (key_heads, 12), (heads, 12))
    drawn = [
        torch.randn(2, count, tokens, size, generator=generator, dtype=torch.float64).to(dtype)
        for count, size in shapes
    ]
    return dict(zip((*NAMES, "slopes"), drawn, strict=True))


def follow(attend, tensors, **how):
    """The output of an attention, and the gradients that autograd finds."""
    given = [tensors[name].detach().requires_grad_() for name in NAMES]
    out = attend(*given, enable_gqa=True, **how)
    gradients = torch.autograd.grad(out, given, tensors["slopes"])
    return {"out": out.detach()} | dict(zip(NAMES, gradients, strict=True))


def follow_torch(tensors, dtype=torch.float64, **how):
    exact = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    return follow(torch.nn.functional.scaled_dot_product_attention, exact, **how)


def follow_ours(tensors, comm, **how):
    return follow(pytorch.scaled_dot_product_attention, tensors, comm=comm, **how)


def places(comm, counts, placement="contiguous"):
    return torch.from_numpy(roundelay.positions(counts, placement)[comm.rank])


def part(tensors, mine):
    """The tokens of a rank."""
    return {name: tensor[:, :, mine] for name, tensor in tensors.items()}


def assert_same(found, right):
    assert found.keys() == right.keys()
    for name, tensor in found.items():
        greatest = max(abs(right[name]).flatten().tolist(), default=0.0)
        limit = STEPS[tensor.dtype] * torch.finfo(tensor.dtype).eps * greatest
        torch.testing.assert_close(tensor.double(), right[name].double(), rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("dtype", "causal", "key_heads", "placement"),
    [
        *product([torch.float64], [False, True], [4, 2], ["contiguous", "zigzag"]),
        *product([torch.float32, torch.bfloat16], [True], [2], ["contiguous", "zigzag", "striped"]),
    ],
)
def test_like_torch_s_own(comm, dtype, causal, key_heads, placement):
    counts = [11 + 3 * rank for rank in range(comm.size)]
    whole, mine = draw(sum(counts), dtype, key_heads=key_heads), places(comm, counts, placement)
    found = follow_ours(part(whole, mine), comm, is_causal=causal, scale=0.4, placement=placement)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert_same(found, part(follow_torch(whole, is_causal=causal, scale=0.4), mine))


def test_ranks_without_tokens(comm):
    counts = [9 if rank == comm.size // 2 else 0 for rank in range(comm.size)]
    whole, mine = draw(9), places(comm, counts)
    assert_same(follow_ours(part(whole, mine), comm), part(follow_torch(whole), mine))


@pytest.mark.parametrize("placement", ["contiguous", "zigzag"])
def test_keys_that_are_not_there(comm, placement):
    counts = [10] * comm.size
    whole, mine = draw(sum(counts)), places(comm, counts, placement)
    there = torch.rand(2, 1, 1, sum(counts), generator=torch.Generator().manual_seed(1)) < 0.6
    there[..., 3] = True
    found = follow_ours(part(whole, mine), comm, attn_mask=there[..., mine], placement=placement)
    assert_same(found, part(follow_torch(whole, attn_mask=there), mine))


def test_dropout_is_that_of_one_rank(comm):
    counts = [12] * comm.size
    whole, mine = draw(sum(counts)), places(comm, counts, "zigzag")
    how = {"is_causal": True, "dropout_p": 0.3}
    found = follow_ours(part(whole, mine), comm, placement="zigzag", seed=5, **how)
    right = part(follow_ours(whole, ALONE, seed=5, **how), mine)
    assert_same(found, right)
    other = follow_ours(part(whole, mine), comm, placement="zigzag", seed=6, **how)
    assert not torch.allclose(other["out"], right["out"])


def test_tensors_with_gaps(comm):
    """Heads beside tokens, every second element, and a gradient that is one number for all."""
    counts = [13] * comm.size
    whole, mine = draw(sum(counts)), places(comm, counts)
    whole["slopes"] = torch.ones(()).double().expand(whole["slopes"].shape)
    right = part(follow_torch(whole, is_causal=True), mine)
    scattered = {
        name: tensor.transpose(1, 2).repeat_interleave(2, dim=3).transpose(1, 2)[..., ::2]
        for name, tensor in part(whole, mine).items()
    }
    scattered["slopes"] = torch.ones(()).double().expand(right["out"].shape)
    assert not any(tensor.is_contiguous() for tensor in scattered.values())
    assert_same(follow_ours(scattered, comm, is_causal=True), right)


@pytest.mark.parametrize("wanted", [("query",), ("key", "value"), ("value",), ()])
def test_gradients_of_some(comm, wanted):
    counts = [7] * comm.size
    whole, mine = draw(sum(counts)), places(comm, counts)
    right, tensors = part(follow_torch(whole), mine), part(whole, mine)
    given = {name: tensors[name].clone().requires_grad_(name in wanted) for name in NAMES}
    out = pytorch.scaled_dot_product_attention(**given, comm=comm)
    assert out.requires_grad == bool(wanted)
    if wanted:
        out.backward(tensors["slopes"])
    assert {name for name in NAMES if given[name].grad is not None} == set(wanted)
    assert_same({name: given[name].grad for name in wanted}, {name: right[name] for name in wanted})


def test_log_sum_exp(comm):
    """Tokens before heads, and what scores add up to; it has no gradient."""
    counts = [6] * comm.size
    whole, mine = draw(sum(counts)), places(comm, counts)
    query, key, value = (part(whole, mine)[name].transpose(1, 2).requires_grad_() for name in NAMES)
    out, lse = pytorch.autograd_attention(query, key, value, comm, return_lse=True, scale=1.0)
    right = part(follow_torch(whole, scale=1.0), mine)
    assert_same({"out": out.detach().transpose(1, 2)}, {"out": right["out"]})
    scores = whole["query"] @ whole["key"].transpose(2, 3)
    torch.testing.assert_close(lse, scores.logsumexp(dim=3)[:, :, mine])
    assert out.requires_grad
    assert not lse.requires_grad


OPTIONS: dict[str, Any] = {
    "all": {},
    "causal window": {"causal": True, "window": 3},
    "documents": {"documents": [0, 2, 5]},
    "padding": {"key_padding": torch.tensor([[True, False, True, True, False]] * 2)},
    "dropout": {"dropout": 0.3, "seed": 4},
}


@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_slopes(options, wanted):
    """Of one rank: others would change what this one finds while it looks."""
    tensors = [torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=each) for each in wanted]

    def attend(q, k, v):
        return pytorch.autograd_attention(q, k, v, ALONE, **OPTIONS[options])

    assert torch.autograd.gradcheck(attend, tensors)


def attend_to(tensor, comm, others=None):
    """Attention whose keys and values are the queries, or others."""
    others = tensor if others is None else others
    return pytorch.scaled_dot_product_attention(tensor, others, others, comm=comm)


def penalty(comm, x, others=None, loss=torch.sum, block=attend_to):
    """A gradient that depends on a gradient."""
    out = block(x, comm) if others is None else block(x, comm, others)
    (slope,) = torch.autograd.grad(loss(out), others if others is not None else x, create_graph=True)
    (out.sum() + slope.square().sum()).backward()


def kept_block(tensor, comm):
    return keep(lambda x: attend_to(x, comm), tensor)


SECOND = {
    "sum": penalty,
    "squares": lambda comm, x: penalty(comm, x, loss=lambda out: out.square().sum()),
    "values only": lambda comm, x: penalty(comm, x.detach(), x),
    "in a checkpoint": lambda comm, x: penalty(comm, x, block=kept_block),
    "hessian": lambda comm, x: torch.autograd.functional.hessian(lambda y: attend_to(y, comm).sum(), x),
    "func.grad twice": lambda comm, x: torch.func.grad(
        lambda y: torch.func.grad(lambda z: attend_to(z, comm).sum())(y).sum()
    )(x),
}


@pytest.mark.parametrize("ways", SECOND)
def test_gradients_of_gradients_are_refused(comm, ways):
    """Also where that of the output is a constant, as that of a sum."""
    x = torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"no gradients of gradients: it is differentiable once"):
        SECOND[ways](comm, x)
    # Afterwards all works.
    attend_to(x, comm).sum().backward()


def test_what_does_not_differentiate_gradients_takes_a_graph(comm):
    """A graph of the gradient is made, and first-order gradients are the same."""
    x = torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    (right,) = torch.autograd.grad(attend_to(x, comm).sum(), x)
    (found,) = torch.autograd.grad(attend_to(x, comm).sum(), x, create_graph=True)
    assert found.requires_grad
    torch.testing.assert_close(found, right, rtol=0, atol=0)
    (2 * x).sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda y: attend_to(y, comm).sum())(x.detach()), right)


def forward_mode(comm, x):
    with torch.autograd.forward_ad.dual_level():
        attend_to(torch.autograd.forward_ad.make_dual(x, x), comm)


TRANSFORMS = {
    "vmap": lambda comm, x: torch.vmap(lambda y: attend_to(y, comm))(x[None]),
    "jvp": lambda comm, x: torch.func.jvp(lambda y: attend_to(y, comm), (x,), (x,)),
    "jacrev": lambda comm, x: torch.func.jacrev(lambda y: attend_to(y, comm).sum())(x),
    "forward mode": forward_mode,
    "batched": lambda comm, x: torch.autograd.grad(
        attend_to(x.requires_grad_(), comm), x, torch.ones(3, *x.shape), is_grads_batched=True
    ),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_other_transforms_are_refused(comm, transform):
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises((RuntimeError, NotImplementedError, ValueError), match=r"vmap|jvp|Batching"):
        TRANSFORMS[transform](comm, x)
    attend_to(x, comm)


def test_without_gradients(comm):
    x = torch.randn(1, 2, 4, 8, requires_grad=True)
    right = attend_to(x, comm).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            out = attend_to(x, comm)
            inside = attend_to(x.clone(), comm)
        assert not out.requires_grad
        assert torch.equal(out, right)
        assert torch.equal(inside, right)


def test_one_tensor_in_many_places(comm):
    """Queries, keys and values, in two calls, whose graph goes backward twice."""
    counts = [5] * comm.size
    mine = places(comm, counts)
    whole = torch.randn(2, 3, sum(counts), 4, generator=torch.Generator().manual_seed(2)).double()

    def twice(attend, x):
        once = attend(x, x, x)
        return attend(once, x, once.transpose(1, 2).contiguous().transpose(1, 2))

    gradients = []
    for x, attend in (
        (whole[:, :, mine], lambda *each: pytorch.scaled_dot_product_attention(*each, comm=comm)),
        (whole, torch.nn.functional.scaled_dot_product_attention),
    ):
        x = x.clone().requires_grad_()
        loss = twice(attend, x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1][:, :, mine])


def test_lists_that_change_before_the_backward_pass(comm):
    """The gradient is that of what was asked for."""
    counts = [6] * comm.size
    x = torch.randn(1, 6, 2, 4, dtype=torch.float64, requires_grad=True)
    documents = [0, 4, sum(counts)]
    for change in (False, True):
        out = pytorch.autograd_attention(x, x, x, comm, documents=documents)
        if change:
            documents[1] = 1
        out.sum().backward()
        if not change:
            right, x.grad = x.grad, None
    torch.testing.assert_close(x.grad, right, rtol=0, atol=0)


@pytest.mark.parametrize("call", ["attention", "linear_attention", "decode_attention", "plan"])
def test_no_gradient_is_dropped(comm, call):
    """A function that records nothing refuses a tensor whose gradient it would leave out."""
    plain, learned = torch.ones(1, 4, 2, 4), torch.ones(1, 4, 2, 4, requires_grad=True)

    def run(v):
        if call != "plan":
            return getattr(roundelay, call)(plain, plain, v, comm)
        plan = roundelay.plan_sequences([4] * comm.size, comm.size, heads=2, key_heads=2, size=4)
        shards = dict.fromkeys(plan.of_rank(comm.rank), plain)
        return plan.attention(comm, shards, shards, dict.fromkeys(shards, v))

    with pytest.raises(ValueError, match=r"v: a tensor that requires a gradient.*torch.no_grad\(\)"):
        run(learned)
    run(learned.detach())
    with torch.no_grad():
        run(learned)


def test_a_scale_that_requires_a_gradient(comm):
    x, scale = torch.ones(1, 4, 2, 4), torch.ones((), requires_grad=True)
    for call in (pytorch.autograd_attention, roundelay.attention, roundelay.decode_attention):
        with pytest.raises(ValueError, match="scale requires a gradient: expected a float"):
            call(x, x, x, comm, scale=scale)
        call(x, x, x, comm, scale=scale.detach())


@pytest.mark.parametrize("name", [*NAMES, "attn_mask", "out", "lse"])
def test_what_was_written_to_has_no_gradients(comm, name):
    tensors = {each: torch.zeros(1, 2, 4, 8) for each in NAMES}
    tensors["attn_mask"] = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    leaf = torch.ones(1, requires_grad=True)
    out = pytorch.scaled_dot_product_attention(
        leaf * tensors["query"], tensors["key"], tensors["value"], tensors["attn_mask"], comm=comm
    )
    if name == "query":
        query = tensors["query"].requires_grad_() * 1
        out = pytorch.scaled_dot_product_attention(query, query, query, comm=comm)
        tensors["query"] = query.detach()
    tensors["out"] = out.detach()
    if name == "lse":
        out, tensors["lse"] = pytorch.autograd_attention(
            leaf * torch.ones(1, 4, 2, 8), *torch.ones(2, 1, 4, 2, 8), comm, return_lse=True
        )
    tensors[name].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


class Model(torch.nn.Module):  # type: ignore[misc]
    """A layer of attention between two projections."""

    def __init__(self, comm, **options):
        super().__init__()
        torch.manual_seed(3)
        self.inward, self.outward = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
        self.attend = pytorch.SequenceParallelAttention(comm, **options)

    def forward(self, x):
        """Add what attention finds."""
        query, key, value = self.inward(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return x + self.outward(self.attend(query, key, value, is_causal=True).transpose(1, 2).flatten(2))


def train(model, x, comm):
    """Loss of each of three steps, of all ranks' tokens."""
    losses, steps = [], torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        steps.zero_grad()
        loss = (model(x) - 1).square().sum() / 100
        loss.backward()
        total = loss.detach()
        roundelay.allreduce_many(comm, [total, *(each.grad for each in model.parameters())])
        steps.step()
        losses.append(float(total))
    return losses


def test_training_is_that_of_one_rank(comm):
    """And copies of the model share its communicator."""
    counts = [5 + rank for rank in range(comm.size)]
    x = torch.randn(2, sum(counts), 8, generator=torch.Generator().manual_seed(4)).double()
    model = deepcopy(Model(comm, placement="zigzag").double())
    alone = Model(ALONE).double()
    assert model.attend.comm is comm
    losses = train(model, x[:, places(comm, counts, "zigzag")], comm)
    np.testing.assert_allclose(losses, train(alone, x, ALONE), rtol=1e-12)
    assert losses[2] < losses[1] < losses[0]
    for ours, right in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-13)


def checkpoint(block, x, **options):
    return torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False, **options)


def keep(block, x):
    return checkpoint(block, x, context_fn=pytorch.keep_attention)


def spend(comm, run, backward=1):
    """Traffic and gradients of two blocks."""
    first, second = Model(comm), Model(comm)
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(comm.rank)).requires_grad_()
    with roundelay.count_traffic() as sent:
        out = run(second, run(first, x))
        for _ in range(backward):
            out.square().sum().backward(retain_graph=backward > 1)
    assert len([each for each in first.parameters() if each.grad is not None]) == 4
    return sent, [x.grad, *(each.grad for each in (*first.parameters(), *second.parameters()))]


@pytest.mark.parametrize(
    "run",
    [keep, lambda block, x: keep(lambda y: keep(block, y), x), lambda block, x: keep(block, x * 1)],
    ids=["a block", "a block in a block", "and more"],
)
def test_checkpoints_send_nothing_again(comm, run):
    sent, gradients = spend(comm, lambda block, x: block(x))
    kept, same = spend(comm, run)
    assert (kept.messages, kept.bytes) == (sent.messages, sent.bytes)
    for ours, right in zip(same, gradients, strict=True):
        assert torch.equal(ours, right)
    if comm.size > 1:
        # All together: in a ring of causal attention the last rank sends no keys.
        again, _ = spend(comm, checkpoint)
        assert comm.allreduce(again.bytes) > comm.allreduce(sent.bytes) > 0


def test_checkpoints_of_a_retained_graph(comm):
    """Two backward passes send what two do without a checkpoint, and both add gradients."""
    sent, gradients = spend(comm, lambda block, x: block(x), backward=2)
    kept, same = spend(comm, keep, backward=2)
    assert kept.bytes == sent.bytes
    for ours, right in zip(same, gradients, strict=True):
        torch.testing.assert_close(ours, right)


def test_checkpoints_of_blocks_that_differ(comm):
    """A block that attends more often when it is computed again is refused, on all ranks."""
    calls, model = [], Model(comm)

    def block(x):
        calls.append(x)
        for _ in calls:
            x = model(x)
        # A block is computed again only until it has all that was kept of it at the first time.
        for _ in range(20):
            x = x.tanh()
        return x

    out = keep(block, torch.ones(1, 4, 8, requires_grad=True))
    with pytest.raises(RuntimeError, match=r"attention 2 of a block that is computed again: expected 1"):
        out.sum().backward()


def test_checkpoints_of_outputs_that_are_written_to(comm):
    x = torch.ones(1, 2, 4, 8, requires_grad=True)

    def block(x):
        y = pytorch.scaled_dot_product_attention(x, x, x, comm=comm)
        with torch.no_grad():
            y.mul_(2)
        return y.exp()

    out = keep(block, x)
    with pytest.raises(RuntimeError, match=r"attention 1 of a block .* was written to in place"):
        out.sum().backward()


BAD = {
    "float mask": (
        {"attn_mask": torch.zeros(1, 1, 1, 4)},
        r"attn_mask of shape \(1, 1, 1, 4\) and torch.float",
    ),
    "mask of scores": ({"attn_mask": torch.ones(4, 4) > 0}, r"attn_mask of shape \(4, 4\) and torch.bool"),
    "mask of others": ({"attn_mask": torch.ones(1, 1, 1, 5) > 0}, r"key_padding of shape \(1, 5\)"),
    "heads": (
        {"key": torch.zeros(1, 1, 4, 8), "value": torch.zeros(1, 1, 4, 8)},
        r"key of shape \(1, 1, 4, 8\): expected the heads of query, \(1, 2, 4, 8\), or enable_gqa=True",
    ),
    "dtype": ({"value": torch.zeros(1, 2, 4, 8).double()}, "dtypes float32, float64: expected one"),
    "device": ({"value": torch.zeros(1, 2, 4, 8, device="meta")}, "tensor of torch.float32 on meta"),
    "array": ({"query": np.zeros((1, 2, 4, 8), np.float32)}, "q: ndarray: expected a tensor"),
    "list": ({"key": [0.0]}, "k: list: expected a tensor"),
    "mask of NumPy": ({"attn_mask": np.ones((1, 1, 1, 4), bool)}, "key_padding: ndarray: expected a tensor"),
    "list of masks": ({"attn_mask": [True]}, "key_padding: list: expected a tensor"),
    "causal": ({"is_causal": torch.ones(2) > 0}, "Boolean value of Tensor"),
    "axes": ({"query": torch.zeros(2, 4, 8)}, r"key of shape|q of shape \(2, 4, 8\): expected 4 axes"),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_rank_is_wrong(comm, bad):
    """All ranks are told which one, and what it has; and afterwards everything works."""
    change, message = BAD[bad]
    right = dict.fromkeys(NAMES, torch.zeros(1, 2, 4, 8)) | {"attn_mask": torch.ones(1, 1, 1, 4) > 0}
    wrong = right | change if comm.rank == comm.size - 1 else right
    named = f"rank {comm.size - 1}: " if comm.size > 1 else ""
    with pytest.raises(ValueError, match=f"attention: {named}(.*)({message})"):
        pytorch.scaled_dot_product_attention(**wrong, comm=comm)
    pytorch.scaled_dot_product_attention(**right, comm=comm)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_models(comm):
    """The code before and after attention is compiled, and nothing else looked into."""
    model, x = Model(comm), torch.ones(1, 4, 8, requires_grad=True)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_mutations_are_found(comm, monkeypatch, name):
    """The comparison fails when a gradient is a thousandth too long."""
    counts = [8] * comm.size
    whole, mine = draw(sum(counts), torch.float32), places(comm, counts)
    backward = inner.attention_backward

    def longer(*arrays, **options):
        found = dict(zip(NAMES, backward(*arrays, **options), strict=True))
        return tuple(tensor * (1.001 if each == name else 1) for each, tensor in found.items())

    monkeypatch.setattr(inner, "attention_backward", longer)
    found, right = follow_ours(part(whole, mine), comm), part(follow_torch(whole), mine)
    with pytest.raises(AssertionError):
        assert_same(found, right)


def test_examples_of_the_module():
    assert doctest.testmod(inner).attempted
    assert not doctest.testmod(inner).failed
