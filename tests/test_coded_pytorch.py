"""A model of PyTorch trained by coded gradients, beside the same model trained on all of the data."""

from copy import deepcopy
from typing import Any

import pytest

from roundelay import coding
from tests.device import cupy_or_skip

torch: Any = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roundelay[pytorch]'")

pytestmark = pytest.mark.mpi(min_size=2)


def loss_of(model, inputs, targets):
    """Sum of squares over the samples."""
    return ((model(inputs) - targets) ** 2).sum()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_model_and_its_optimizer(comm, device):
    if device == "cuda" and not (torch.cuda.is_available() and cupy_or_skip()):
        pytest.skip("PyTorch without CUDA")
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (
        torch.randn(48, size, generator=generator, dtype=torch.float64).to(device) for size in (6, 3)
    )
    torch.manual_seed(1)
    model = (
        torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double().to(device)
    )
    alone = deepcopy(model)
    if comm.rank:
        # The master's count.
        torch.nn.init.zeros_(model[0].weight)

    def load(partition):
        rows = partition.rows(len(inputs))
        return inputs[rows], targets[rows]

    def gradient(parameters, data):
        return torch.autograd.grad(loss_of(model, *data), parameters)

    optimizer, optimizer_alone = (
        torch.optim.SGD(each.parameters(), lr=1e-3, momentum=0.9) for each in (model, alone)
    )
    scheme = coding.scheme("gc", comm.size - 1, stragglers=comm.size - 2)
    coded = coding.CodedGradients(comm, scheme, gradient, load, list(model.parameters()))
    for total, _ in coded.rounds(10):
        for parameter, each in zip(model.parameters(), total, strict=True):
            assert each.device == parameter.device
            parameter.grad = each
        optimizer.step()
        optimizer_alone.zero_grad()
        loss_of(alone, inputs, targets).backward()
        optimizer_alone.step()
        for parameter, other in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(parameter, other)
