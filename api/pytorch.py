"""Attention over ranks for PyTorch: `from roundelay.pytorch import scaled_dot_product_attention`.

It needs torch, which `import roundelay` does not: `pip install ".[pytorch]"`.
"""

from .collectives.attention.checkpoint import keep_attention
from .collectives.attention.pytorch import (
    SequenceParallelAttention,
    autograd_attention,
    scaled_dot_product_attention,
)

__all__ = [
    "SequenceParallelAttention",
    "autograd_attention",
    "keep_attention",
    "scaled_dot_product_attention",
]
