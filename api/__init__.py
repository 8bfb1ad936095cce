"""roundelay: a drop-in communication layer over mpi4py.

`from roundelay import MPI` in place of `from mpi4py import MPI`, or `mpiexec -n 4 roundelay run prog.py`
around an unmodified program, moves arrays and datatypes that are not contiguous at the speed of memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .datatypes.missing import MissingMPI

if TYPE_CHECKING:
    from . import MPI
    from . import coding as coding
    from . import pytorch as pytorch
    from .collectives.attention.catalogue import attention_algorithms
    from .collectives.attention.costs import Rates, measured_rates
    from .collectives.attention.decoding import decode_attention
    from .collectives.attention.functions import attention, attention_backward
    from .collectives.attention.group import count_traffic
    from .collectives.attention.linear.functions import linear_attention, linear_attention_backward
    from .collectives.attention.packed import SequencePlan
    from .collectives.attention.placement import inverse_permutation, permutation, positions, shard
    from .collectives.attention.planner import plan_sequences
    from .collectives.catalogue import algorithms
    from .collectives.coding.coded import CodedGradients
    from .collectives.functions import (
        allgather,
        allgatherv,
        allreduce,
        bcast,
        reduce,
        reduce_scatter,
        reduce_scatter_block,
    )
    from .collectives.fusion import allreduce_many
    from .collectives.progressive import ProgressiveAllreduce
    from .comm.monitor.notices import HangError
    from .comm.monitor.start import monitor
    from .comm.monitor.verdict import Verdict
    from .comm.recovery.failures import DamagedCheckpoint, DataLost, RecoveryUnavailable, RemoteFailure
    from .comm.recovery.protected import Protected
    from .comm.recovery.recovered import Recovered
    from .comm.recovery.resilient import Loss, Resilient, resilient
    from .datatypes.canonical import canonicalize, equivalent
    from .datatypes.decode import UnsupportedDatatype
    from .datatypes.layout import Layout
    from .datatypes.packing import pack, pack_size, unpack

__version__: str
__all__ = [
    "MPI",
    "CodedGradients",
    "DamagedCheckpoint",
    "DataLost",
    "HangError",
    "Layout",
    "Loss",
    "ProgressiveAllreduce",
    "Protected",
    "Rates",
    "Recovered",
    "RecoveryUnavailable",
    "RemoteFailure",
    "Resilient",
    "SequencePlan",
    "UnsupportedDatatype",
    "Verdict",
    "algorithms",
    "allgather",
    "allgatherv",
    "allreduce",
    "allreduce_many",
    "attention",
    "attention_algorithms",
    "attention_backward",
    "bcast",
    "canonicalize",
    "count_traffic",
    "decode_attention",
    "equivalent",
    "inverse_permutation",
    "linear_attention",
    "linear_attention_backward",
    "measured_rates",
    "monitor",
    "pack",
    "pack_size",
    "permutation",
    "plan_sequences",
    "positions",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_block",
    "resilient",
    "shard",
    "unpack",
]


# Names are looked up when first used: importing roundelay initializes nothing.
_HOMES = {
    "CodedGradients": "collectives.coding.coded",
    "HangError": "comm.monitor.notices",
    "Layout": "datatypes.layout",
    "ProgressiveAllreduce": "collectives.progressive",
    "UnsupportedDatatype": "datatypes.decode",
    "Verdict": "comm.monitor.verdict",
    "algorithms": "collectives.catalogue",
    **dict.fromkeys(
        (
            "allgather",
            "allgatherv",
            "allreduce",
            "bcast",
            "reduce",
            "reduce_scatter",
            "reduce_scatter_block",
        ),
        "collectives.functions",
    ),
    "allreduce_many": "collectives.fusion",
    "attention": "collectives.attention.functions",
    "attention_algorithms": "collectives.attention.catalogue",
    "attention_backward": "collectives.attention.functions",
    "count_traffic": "collectives.attention.group",
    "decode_attention": "collectives.attention.decoding",
    **dict.fromkeys(
        ("linear_attention", "linear_attention_backward"), "collectives.attention.linear.functions"
    ),
    **dict.fromkeys(
        ("inverse_permutation", "permutation", "positions", "shard"), "collectives.attention.placement"
    ),
    "Rates": "collectives.attention.costs",
    "measured_rates": "collectives.attention.costs",
    "monitor": "comm.monitor.start",
    "SequencePlan": "collectives.attention.packed",
    "plan_sequences": "collectives.attention.planner",
    "canonicalize": "datatypes.canonical",
    "equivalent": "datatypes.canonical",
    **dict.fromkeys(
        ("DamagedCheckpoint", "DataLost", "RecoveryUnavailable", "RemoteFailure"), "comm.recovery.failures"
    ),
    "Protected": "comm.recovery.protected",
    "Recovered": "comm.recovery.recovered",
    **dict.fromkeys(("Loss", "Resilient", "resilient"), "comm.recovery.resilient"),
    "pack": "datatypes.packing",
    "pack_size": "datatypes.packing",
    "unpack": "datatypes.packing",
}


_MODULES = ("MPI", "coding", "pytorch")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("roundelay")
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except MissingMPI as error:
        # The way to it through our own modules tells nobody anything.
        raise error.with_traceback(None) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    special = [name for name in globals() if name.startswith("__")]
    return sorted({*special, *__all__, *_MODULES})
