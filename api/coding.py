"""`roundelay.coding`: gradients that do not wait for stragglers."""

from .collectives.coding.approximate import ErasureHead, OptimalDecoding, ignore_stragglers
from .collectives.coding.catalogue import best_code, scheme
from .collectives.coding.code import EXACT, Code, Decoding
from .collectives.coding.coded import CodedGradients
from .collectives.coding.cyclic import cyclic_mds, cyclic_repetition
from .collectives.coding.info import RoundInfo, TooFewWorkers, WorkerError
from .collectives.coding.injection import Injection
from .collectives.coding.multiplexed import Multiplexed
from .collectives.coding.placed import communication_efficient, heterogeneity_aware
from .collectives.coding.recorder import Recorder
from .collectives.coding.repetition import fractional_repetition, uncoded
from .collectives.coding.scheme import GradientCoding, Partition, Scheme
from .collectives.coding.selective import SelectiveRepeat
from .collectives.coding.simulation import simulate
from .collectives.coding.stragglers import Arbitrary, Bursty, PerRound
from .collectives.coding.traces import Trace, gilbert_elliott_trace, markov_trace, pareto_trace

__all__ = [
    "EXACT",
    "Arbitrary",
    "Bursty",
    "Code",
    "CodedGradients",
    "Decoding",
    "ErasureHead",
    "GradientCoding",
    "Injection",
    "Multiplexed",
    "OptimalDecoding",
    "Partition",
    "PerRound",
    "Recorder",
    "RoundInfo",
    "Scheme",
    "SelectiveRepeat",
    "TooFewWorkers",
    "Trace",
    "WorkerError",
    "best_code",
    "communication_efficient",
    "cyclic_mds",
    "cyclic_repetition",
    "fractional_repetition",
    "gilbert_elliott_trace",
    "heterogeneity_aware",
    "ignore_stragglers",
    "markov_trace",
    "pareto_trace",
    "scheme",
    "simulate",
    "uncoded",
]
