"""An emulated cluster: hosts that are network namespaces of one machine, joined by a switch that delays."""

from benchmarks.netlab.lab import Lab, LabError, Result
from benchmarks.netlab.machine import unavailable

__all__ = ["Lab", "LabError", "Result", "unavailable"]
