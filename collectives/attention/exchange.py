"""Attention by a route: each step's messages are under way while the step before is computed.

Where all ranks share a node, keys and values may be read in place instead, from a window of shared memory.

Results of pairs that a member computes for another one go straight to their owner, who adds them in an order
that depends on the route only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from ...datatypes.plain import MPI
from ..memory import memory_of
from .backward import Backward, Gradients, Queries, Sums
from .group import progress, wait
from .parcel import Parcel
from .problem import Problem
from .routes import Steps, Task
from .sums import Sum
from .tiles import Array
from .window import Window

_FETCH, _FETCH_QUERIES, _RESULT = 0, 1, 2


class _Coming(NamedTuple):
    """A result that this member is sent: what it is in, of which task."""

    task: Task
    parcel: Parcel
    memory: Array


class _Run(ABC):
    """Messages of one call along a route."""

    k: Array
    v: Array

    def __init__(self, problem: Problem, steps: Steps, like: Array, window: Window | None) -> None:
        self.problem, self.steps, self._like = problem, steps, like
        self._window = window
        self.me = problem.group.index
        self._last_sent = {
            _key(task): number
            for number, step in enumerate(steps)
            for task in step
            if task.via == task.owner == self.me
        }
        self._packed: dict[tuple[bool, int, int], Array] = {}
        self._held: dict[tuple[bool, int, int], Array] = {}
        self._coming: dict[tuple[bool, int, int], Array] = {}
        self._fetching: list[MPI.Request] = []
        self._answers: list[MPI.Request] = []
        self._older: list[MPI.Request] = []
        self._expected: list[_Coming] = []
        self._awaited: list[_Coming] = []

    # Forward and backward override:

    @abstractmethod
    def parcel(self, task: Task) -> Parcel:
        """The arrays that the worker of a task fetches."""

    @abstractmethod
    def own(self, task: Task) -> Sequence[Array]:
        """The arrays of this member that the worker of a task fetches."""

    @abstractmethod
    def answer(self, task: Task) -> Parcel | None:
        """The result that the worker of a task sends to the owner of the arrays that it fetched."""

    @abstractmethod
    def begin(self) -> None:
        """Compute what this member has itself."""

    @abstractmethod
    def compute(self, task: Task, fetched: list[Array]) -> Sequence[Array] | None:
        """Compute a task; return what is sent to the owner of what was fetched."""

    @abstractmethod
    def take_in(self, task: Task, answer: list[Array]) -> None:
        """Add what another member computed."""

    # Forward and backward share:

    def run(self) -> None:
        """Run all steps."""
        if self._window is not None:
            self._publish(self._window)
        self._post(0)
        self.begin()
        self._end_step(0)
        for number, step in enumerate(self.steps):
            self._post(number + 1)
            for task in step:
                if task.worker == self.me and self.problem.sees(task.queries, task.keys):
                    self._compute(task)
                elif task.owner == self.me and self.problem.sees(task.queries, task.keys):
                    self._expect(task)
            self._end_step(number + 1)
        self._end_answers()
        self._end_answers()

    def poll(self) -> None:
        """Let messages go on."""
        for requests in (self._fetching, self._answers, self._older):
            if requests:
                progress(requests)

    def _post(self, number: int) -> None:
        """Begin the messages that a step needs."""
        group = self.problem.group
        if number >= len(self.steps) or self._window is not None:
            return
        for task in self.steps[number]:
            key = _key(task)
            lane = _FETCH if task.fetches_keys else _FETCH_QUERIES
            if task.worker == self.me:
                self._coming[key] = memory = self.parcel(task).room(self._like)
                self._fetching.append(group.receive(memory, task.via, lane))
            if task.via == self.me:
                self._fetching.append(group.send(self._in_hand(task), task.worker, lane))

    def _publish(self, window: Window) -> None:
        """Let others read the keys and values of this member."""
        shape = self.problem.shape
        parcel = shape.keys_and_values(self.problem.count(self.me), shape.key_heads, shape.dtype)
        memory = window.mine(parcel.nbytes)
        for place, array in zip(parcel.views(memory), (self.k, self.v), strict=True):
            memory_of(array).publish(array, place)
        self._fetching.append(window.meet())

    def _fetched(self, task: Task) -> list[Array]:
        parcel = self.parcel(task)
        if self._window is not None:
            published = parcel.views(self._window.of(task.owner, parcel.nbytes))
            return list(map(memory_of(self._like).adopt, published))
        return parcel.views(self._held[_key(task)])

    def _in_hand(self, task: Task) -> Array:
        key = _key(task)
        if task.owner != self.me:
            return self._held[key]
        if key not in self._packed:
            self._packed[key] = self.parcel(task).packed(*self.own(task))
        return self._packed[key]

    def _end_step(self, posted: int) -> None:
        wait(self._fetching)
        self._fetching.clear()
        for key in [key for key in self._packed if self._last_sent[key] <= posted]:
            del self._packed[key]
        self._held, self._coming = self._coming, {}
        self._end_answers()

    def _end_answers(self) -> None:
        """Take in the answers of the step before this one, which had a step's time to come."""
        wait(self._older)
        for coming in self._awaited:
            self.take_in(coming.task, coming.parcel.views(coming.memory))
        self._older, self._answers = self._answers, []
        self._awaited, self._expected = self._expected, []

    def _compute(self, task: Task) -> None:
        answer = self.compute(task, self._fetched(task))
        parcel = self.answer(task)
        if answer is not None and parcel is not None:
            memory = parcel.packed(*answer)
            self._answers.append(self.problem.group.send(memory, task.owner, _RESULT))

    def _expect(self, task: Task) -> None:
        parcel = self.answer(task)
        if parcel is not None:
            memory = parcel.room(self._like)
            self._answers.append(self.problem.group.receive(memory, task.worker, _RESULT))
            self._expected.append(_Coming(task, parcel, memory))


def _key(task: Task) -> tuple[bool, int, int]:
    return task.fetches_keys, task.owner, task.heads.start


class _Forward(_Run):
    def __init__(
        self, problem: Problem, steps: Steps, arrays: tuple[Array, Array, Array], window: Window | None
    ) -> None:
        super().__init__(problem, steps, arrays[0], window)
        self.q, self.k, self.v = arrays
        self.state = problem.begin(self.q, self.me)

    def parcel(self, task: Task) -> Parcel:
        shape, heads = self.problem.shape, task.heads.stop - task.heads.start
        count = self.problem.count(task.owner)
        if task.fetches_keys:
            return shape.keys_and_values(count, heads, shape.dtype)
        return shape.queries(count, heads * shape.each, shape.dtype)

    def own(self, task: Task) -> Sequence[Array]:
        if task.fetches_keys:
            return self.k[:, task.heads], self.v[:, task.heads]
        return (self.q[:, _query_heads(self.problem, task)],)

    def answer(self, task: Task) -> Parcel | None:
        if task.fetches_keys:
            return None
        heads = (task.heads.stop - task.heads.start) * self.problem.shape.each
        return self.problem.shape.results(self.problem.count(task.queries), heads)

    def begin(self) -> None:
        self._attend(slice(0, self.problem.shape.key_heads), self.k, self.v, self.me)

    def _attend(self, heads: slice, k: Array, v: Array, owner: int) -> None:
        stripes = self.problem.geometry.stripes(self.me, owner)
        self.state.add(self.problem.block(k, v, owner), stripes, self.poll, heads.start)

    def compute(self, task: Task, fetched: list[Array]) -> Sequence[Array] | None:
        if task.fetches_keys:
            self._attend(task.heads, fetched[0], fetched[1], task.keys)
            return None
        state = self.problem.begin(fetched[0], task.queries)
        stripes = self.problem.geometry.stripes(task.queries, self.me)
        block = self.problem.block(self.k[:, task.heads], self.v[:, task.heads], self.me)
        state.add(block, stripes, self.poll)
        return state.result()

    def take_in(self, task: Task, answer: list[Array]) -> None:
        self.state.merge(*answer)


class _Backward(_Run):
    def __init__(
        self, problem: Problem, steps: Steps, queries: Queries, k: Array, v: Array, window: Window | None
    ) -> None:
        super().__init__(problem, steps, queries.q, window)
        self.queries, self.k, self.v = queries, k, v
        self.kernel = Backward(problem.scale, problem.dropout)
        self.sums = Sums(*(self._sum(each) for each in (queries.q, k, v)))

    def _sum(self, like: Array) -> Sum:
        return Sum(like, like.shape, self.problem.shape.computing)

    def parcel(self, task: Task) -> Parcel:
        shape, heads = self.problem.shape, task.heads.stop - task.heads.start
        count = self.problem.count(task.owner)
        if task.fetches_keys:
            return shape.keys_and_values(count, heads, shape.dtype)
        return shape.queries_and_slopes(count, heads * shape.each)

    def own(self, task: Task) -> Sequence[Array]:
        if task.fetches_keys:
            return self.k[:, task.heads], self.v[:, task.heads]
        heads = _query_heads(self.problem, task)
        here = self.queries
        return here.lse[:, heads], here.delta[:, heads], here.q[:, heads], here.dout[:, heads]

    def answer(self, task: Task) -> Parcel | None:
        shape, heads = self.problem.shape, task.heads.stop - task.heads.start
        count = self.problem.count(task.owner)
        if task.fetches_keys:
            return shape.keys_and_values(count, heads, shape.computing)
        return shape.queries(count, heads * shape.each, shape.computing)

    def begin(self) -> None:
        block = self.problem.block(self.k, self.v, self.me)
        stripes = self.problem.geometry.stripes(self.me, self.me)
        self.kernel.add(self.queries, block, self.sums, stripes, self.poll)

    def compute(self, task: Task, fetched: list[Array]) -> Sequence[Array] | None:
        problem, heads, some = self.problem, task.heads, _query_heads(self.problem, task)
        mine = self.sums
        stripes = problem.geometry.stripes(task.queries, task.keys)
        if task.fetches_keys:
            queries = self.queries.of_key_heads(heads, problem.shape.each)
            partial = [self._sum(each) for each in fetched]
            sums = Sums(mine.q.heads(some), *partial)
            block = problem.block(fetched[0], fetched[1], task.keys)
        else:
            lse, delta, q, dout = fetched
            tokens = problem.geometry.tokens[task.queries]
            queries = Queries(q, dout, lse, tokens, problem.first_head, delta=delta)
            partial = [self._sum(q)]
            sums = Sums(partial[0], mine.k.heads(heads), mine.v.heads(heads))
            block = problem.block(self.k[:, heads], self.v[:, heads], self.me)
        self.kernel.add(queries, block, sums, stripes, self.poll)
        return [each.result for each in partial]

    def take_in(self, task: Task, answer: list[Array]) -> None:
        if task.fetches_keys:
            self.sums.k.heads(task.heads).add(answer[0])
            self.sums.v.heads(task.heads).add(answer[1])
        else:
            self.sums.q.heads(_query_heads(self.problem, task)).add(answer[0])


def _query_heads(problem: Problem, task: Task) -> slice:
    each = problem.shape.each
    return slice(task.heads.start * each, task.heads.stop * each)


def forward(
    problem: Problem, steps: Steps, q: Array, k: Array, v: Array, window: Window | None = None
) -> tuple[Array, Array]:
    """Output (B, Hq, S, Dv) and log-sum-exp (B, Hq, S) of this member's queries, along a route."""
    run = _Forward(problem, steps, (q, k, v), window)
    run.run()
    return run.state.result()


def backward(
    problem: Problem, steps: Steps, queries: Queries, k: Array, v: Array, window: Window | None = None
) -> Gradients:
    """Gradients of this member's queries, keys and values, along a route."""
    run = _Backward(problem, steps, queries, k, v, window)
    run.run()
    return run.sums.results()
