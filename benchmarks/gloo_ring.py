"""The peers of `benchmarks.attention`: ring attention over gloo, by hand and by a package, with PyTorch.

By hand: keys and values go around by `batch_isend_irecv` while PyTorch's flash attention for processors works
on those that are there, and what it gives is put together in float32. Causal attention leaves out what nobody
sees, with a contiguous placement whole blocks, and in a zigzag the half of each block. Gradients are computed
from the output and the log-sum-exp over all keys; those of keys and values go around with them.

The package is `ring-attention-pytorch`, the only one whose ring attention runs without a GPU.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, distributed

Array = NDArray[Any]
Way = Callable[[], list[Array]]

BY_HAND, PACKAGE = "gloo ring", "ring-attention-pytorch"
HERE = "127.0.0.1"
_KEYS, _SLOPES = 0, 1
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Peers:
    """The peers' ways to compute, once the ranks of a communicator are connected.

    Parameters
    ----------
    world : Intracomm
        Ranks of one machine.
    """

    def __init__(self, world: MPI.Intracomm) -> None:
        torch.set_num_threads(1)
        # Otherwise gloo asks for the address of the host's name, which need not have one.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with socket.socket() as free:
            free.bind((HERE, 0))
            port = world.bcast(free.getsockname()[1])
        where = f"tcp://{HERE}:{port}"
        distributed.init_process_group("gloo", init_method=where, rank=world.rank, world_size=world.size)
        self._rank, self._size = world.rank, world.size
        self._package = _package(quiet=world.rank != 0)

    def ways(
        self, own: dict[str, Array], causal: bool, placement: str, backward: bool, package_too: bool = True
    ) -> dict[str, Way]:
        """Each peer that can serve a problem, given this rank's (B, H, S, D) arrays q, k, v and dout."""
        tensors = {name: torch.from_numpy(array) for name, array in own.items()}
        q, k, v, dout = (tensors[name] for name in ("q", "k", "v", "dout"))
        ring = GlooRing(self._rank, self._size, causal, placement == "zigzag")

        def by_hand() -> list[Array]:
            out, lse = ring.forward(q, k, v)
            gradients = ring.backward(dout, q, k, v, out, lse) if backward else ()
            return [each.numpy() for each in (out, *gradients)]

        found: dict[str, Way] = {BY_HAND: by_hand}
        # Its query heads do not share key heads in order, it knows no zigzag in a ring, and on several ranks
        # version 0.5.20 gives gradients of keys and values that are wrong.
        package = self._package if package_too else None
        if package and not backward and placement == "contiguous" and q.shape == k.shape:
            # Its arrays are (B, S, H, D): it gets them so, and what it returns is not copied.
            as_it_likes = [each.swapaxes(1, 2).contiguous() for each in (q, k, v)]

            def by_package() -> list[Array]:
                out: Tensor = package(*as_it_likes, causal=causal, ring_reduce_col=True)
                return [out.swapaxes(1, 2).numpy()]

            found[PACKAGE] = by_package
        return found

    def close(self) -> None:
        """Disconnect."""
        distributed.destroy_process_group()


def _package(quiet: bool) -> Callable[..., Tensor] | None:
    """The function of the package, if it is there."""
    try:
        function: Callable[..., Tensor] = import_module("ring_attention_pytorch").ring_flash_attn
    except ImportError as error:
        if not quiet:
            print(f"{PACKAGE} is left out: {error}")
        return None
    return function


class Part(NamedTuple):
    """Work of a step: which queries, with which of the keys that are there.

    Attributes
    ----------
    rows, keys : slice
    causal : bool
        Whether each query sees the keys up to its own only.
    """

    rows: slice
    keys: slice
    causal: bool


class GlooRing:
    """Ring attention of (B, H, S, D) tensors, with the same number of tokens on each rank.

    Parameters
    ----------
    rank, size : int
    causal, zigzag : bool
        Whether tokens see none after them, and how they lie over the ranks.
    """

    def __init__(self, rank: int, size: int, causal: bool, zigzag: bool) -> None:
        self._rank, self._size = rank, size
        self._causal, self._zigzag = causal, zigzag

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp."""
        held = torch.stack((k, v))
        out = lse = q
        for step in range(self._size):
            coming, works = self._pass_on(held, _KEYS) if step + 1 < self._size else (held, [])
            part = self._part(step, q.shape[2])
            if part is not None:
                keys, values = held[:, :, :, part.keys]
                found = _flash(q[:, :, part.rows], keys, values, 0.0, part.causal)
                if step:
                    _merge(out[:, :, part.rows], lse[:, :, part.rows], *found)
                else:
                    out, lse = found
            _wait(works)
            held = coming
        return out, lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values."""
        held = torch.stack((k, v))
        dq, slopes = torch.zeros_like(q), torch.zeros_like(held)
        works: list[distributed.Work] = []
        slope_works: list[distributed.Work] = []
        for step in range(self._size):
            coming, works = self._pass_on(held, _KEYS) if step + 1 < self._size else (held, [])
            part = self._part(step, q.shape[2])
            if part is not None:
                rows = (each[:, :, part.rows] for each in (dout, q, out, lse))
                found = _backward(part, *rows, *held[:, :, :, part.keys])
                dq[:, :, part.rows] += found[0]
            # The gradients from other ranks are under way meanwhile.
            _wait(slope_works)
            if part is not None:
                slopes[0, :, :, part.keys] += found[1]
                slopes[1, :, :, part.keys] += found[2]
            slopes, slope_works = self._pass_on(slopes, _SLOPES)
            _wait(works)
            held = coming
        _wait(slope_works)
        return dq, slopes[0], slopes[1]

    def _part(self, step: int, tokens: int) -> Part | None:
        """Work of this rank in a step, with the keys of the rank `step` places before it."""
        whole, half = slice(None), tokens // 2
        if not self._causal or step == 0:
            return Part(whole, whole, self._causal)
        is_before = step <= self._rank
        if self._zigzag:
            return Part(whole, slice(half), False) if is_before else Part(slice(half, None), whole, False)
        return Part(whole, whole, False) if is_before else None

    def _pass_on(self, tensor: Tensor, tag: int) -> tuple[Tensor, list[distributed.Work]]:
        """Begin to send to the next rank, and to receive from the one before."""
        if self._size == 1:
            return tensor, []
        coming = torch.empty_like(tensor)
        after, before = (self._rank + 1) % self._size, (self._rank - 1) % self._size
        messages = [
            distributed.P2POp(distributed.isend, tensor, after, tag=tag),
            distributed.P2POp(distributed.irecv, coming, before, tag=tag),
        ]
        works: list[distributed.Work] = distributed.batch_isend_irecv(messages)
        return coming, works


def _backward(
    part: Part, dout: Tensor, q: Tensor, out: Tensor, lse: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _flash_backward(dout, q, keys, values, out, lse, 0.0, part.causal)
    return found


def _merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Put together, in place, what queries were given by two sets of keys."""
    both = torch.logaddexp(lse, more_lse)
    out.mul_(torch.exp(lse - both)[..., None]).addcmul_(more, torch.exp(more_lse - both)[..., None])
    lse.copy_(both)


def _wait(works: list[distributed.Work]) -> None:
    for work in works:
        work.wait()
