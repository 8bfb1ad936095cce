"""Selective repeat: of a job that lacks vectors after its round the fewest possible are computed again."""

from __future__ import annotations

from collections import deque

import numpy as np

from .code import Code, Mask
from .errors import require
from .scheme import Combination, OpenJobs, Pattern, Progress, SingleCode, Task, combine, message_tasks
from .stragglers import Bursty


class SelectiveRepeat(SingleCode):
    """SR-SGC: one gradient code, of which vectors are computed again `burst` rounds after too many straggled.

    Parameters
    ----------
    code : Code
        For s = `repeated_stragglers(burst, window, most)` stragglers.
    burst, window, most : int
        The stragglers it is made for, `Bursty(burst, window, most)`. It also stands s in every round.

    Raises
    ------
    ValueError
        If burst does not divide window - 1, if there are fewer workers than `most`, or if the code is for
        fewer stragglers.

    References
    ----------
    Krishnan, Ebrahimi, Khisti 2022, "Sequential Gradient Coding", arXiv 2211.13802, section 3.1.
    """

    def __init__(self, code: Code, burst: int, window: int, most: int) -> None:
        require(
            most <= code.workers, f"{most} stragglers: SR-SGC of {code.workers} workers stands 0 to as many"
        )
        wanted = repeated_stragglers(burst, window, most)
        require(
            code.stragglers >= wanted,
            f"{code} stands {code.stragglers} stragglers: SR-SGC with burst {burst}, window {window} and "
            f"{most} stragglers needs a code for {wanted}",
        )
        super().__init__("sr-sgc", code)
        self.model, self.delay = Bursty(burst, window, most), burst

    def pattern(self) -> Pattern:
        return _Repeats(self)

    def start(self, jobs: int) -> Progress:
        return _Repeated(self, jobs)


def repeated_stragglers(burst: int, window: int, most: int) -> int:
    """Stragglers that the code of SR-SGC has to stand.

    Raises `ValueError` if burst does not divide window - 1.

    Examples
    --------
    >>> repeated_stragglers(burst=2, window=3, most=23)
    12
    """
    require(burst >= 1 and most >= 0, f"burst {burst}, {most} stragglers: expected at least 1, and 0")
    require(
        window > burst and (window - 1) % burst == 0,
        f"burst {burst}, window {window}: SR-SGC needs a burst that divides window - 1",
    )
    return -(-burst * most // (window - 1 + burst))


def _repeating(code: Code, lacking: Mask) -> Mask:
    """Workers that repeat a job that some lack: as many as too many do."""
    repeating = np.zeros_like(lacking)
    if not code.allows(lacking):
        places = np.flatnonzero(lacking)
        repeating[places[: len(places) - code.stragglers]] = True
    return repeating


class _Repeats:
    """Stragglers so far, but for rounds that leave nothing to repeat."""

    def __init__(self, scheme: SelectiveRepeat) -> None:
        self.code, self.model = scheme.code, scheme.model
        self.rounds = np.zeros((0, scheme.workers), np.bool_)
        # Who lacks in the jobs of the last rounds, the oldest first; nobody in those before the first one.
        self.lacking = deque(np.zeros((scheme.delay, scheme.workers), np.bool_))
        self.repeating = np.zeros(scheme.workers, np.bool_)

    def _is_exempt(self, missing: Mask) -> bool:
        """Whether all workers compute the job of the round, and it can be decoded from those that return."""
        return not self.repeating.any() and self.code.allows(missing)

    def allows(self, missing: Mask) -> bool:
        return self._is_exempt(missing) or self.model.allows(np.vstack([self.rounds, missing]))

    def close(self, missing: Mask) -> None:
        row = np.zeros_like(missing) if self._is_exempt(missing) else missing
        self.rounds = np.vstack([self.rounds, row])[1 - self.model.window :]
        self.lacking.append(missing | self.repeating)
        self.lacking.popleft()
        self.repeating = _repeating(self.code, self.lacking[0])


class _Repeated(Progress):
    """Job t is computed in round t, and what is repeated of it `delay` rounds later."""

    def __init__(self, scheme: SelectiveRepeat, jobs: int) -> None:
        self.code, self.delay = scheme.code, scheme.delay
        self._lacking: OpenJobs[Mask] = OpenJobs(jobs, lambda: np.ones(scheme.workers, np.bool_))

    def tasks(self, turn: int, worker: int) -> tuple[Task, ...]:
        late = turn - self.delay
        repeats = late in self._lacking and _repeating(self.code, self._lacking[late])[worker]
        job = late if repeats else turn
        return message_tasks(self.code, worker, job) if job in self._lacking else ()

    def receive(self, worker: int, job: int, slot: int) -> bool:
        if job not in self._lacking or not self._lacking[job][worker]:
            return False
        self._lacking[job][worker] = False
        return True

    def combine(self, job: int, exactly: bool = True) -> Combination | None:
        return combine(self.code, np.flatnonzero(~self._lacking[job]).tolist(), 0, exactly)

    def forget(self, job: int) -> None:
        del self._lacking[job]
