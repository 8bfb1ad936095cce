"""A job of which all ranks are slower than it was before."""

from __future__ import annotations

from collections import deque

import numpy as np

from .pace import Pace, Paces
from .verdict import Verdict
from .wording import Functions

OPS, SECONDS = 20, 3.0
# Windows by which it is compared, and how many it takes at least.
PAST, FIRST = 16, 3
FACTOR = 2.0
# Windows in a row that are slower.
IN_A_ROW = 3
SHORTEST_STEP = 1e-3


class _Windows:
    """Steps of one communicator, in windows that follow each other."""

    def __init__(self) -> None:
        self.ops, self.span = 0, 0.0
        self.steps: list[tuple[int, float]] = []
        self.normal: deque[float] = deque(maxlen=PAST)
        self.slower: list[float] = []
        self.is_slow = False

    def add(self, ops: int, span: float) -> float | None:
        """Add steps; give their median where a window is full."""
        self.ops += ops
        self.span += span
        self.steps.append((ops, span / ops))
        if self.ops < OPS or self.span < SECONDS:
            return None
        counts, means = zip(*self.steps, strict=True)
        self.ops, self.span, self.steps = 0, 0.0, []
        return float(np.median(np.repeat(means, counts)))


class SlowJobs:
    """Compares a job with its own past."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._windows: dict[tuple[int, int], _Windows] = {}

    def look(self, paces: Paces, explained: bool) -> list[Verdict]:
        """Take what has been added since the last look; a slow rank or link may have `explained` it."""
        found = []
        for comm, pace in paces.of.items():
            chunk = pace.fresh
            if chunk is None:
                continue
            # Another collective may be for another phase of the program.
            windows = self._windows.setdefault((comm, pace.function), _Windows())
            step = windows.add(chunk.ops, chunk.span)
            if step is not None and step >= SHORTEST_STEP:
                found += self._judge(windows, step, pace, explained)
        if len(self._windows) > 256:
            del self._windows[next(iter(self._windows))]
        return found

    def _judge(self, windows: _Windows, step: float, pace: Pace, explained: bool) -> list[Verdict]:
        before = float(np.median(windows.normal)) if len(windows.normal) >= FIRST else None
        if before is None or step <= FACTOR * before or explained:
            windows.normal.append(step)
            windows.slower.clear()
            windows.is_slow = False
            return []
        windows.slower.append(step)
        if len(windows.slower) < IN_A_ROW or windows.is_slow:
            return []
        windows.is_slow = True
        now = float(np.median(windows.slower))
        function = self._functions.names[pace.function]
        sentence = (
            f"all ranks are slow: a step up to {function} takes {now * 1e3:.3g} ms, {now / before:.1f} "
            f"times as long as before, and no rank is later than the others"
        )
        evidence = {"seconds_per_step": now, "before": before, "windows": len(windows.normal)}
        return [Verdict("slow-all", tuple(pace.ranks.tolist()), sentence, IN_A_ROW * SECONDS, evidence)]
