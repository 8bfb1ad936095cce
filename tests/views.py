"""Random views of ranks, for what carries or reads them."""

from collections.abc import Sequence

import numpy as np

from roundelay.comm.monitor import memory
from roundelay.comm.monitor.snapshot import RankView
from roundelay.comm.monitor.view_bytes import STATES

FUNCTIONS = 300


def calls(
    random: np.random.Generator, count: int, size: int, dtype: np.dtype = memory.TIMED_CALL
) -> np.ndarray:
    """Give `count` records of calls, requests or messages with all fields in their ranges."""
    found = np.zeros(count, dtype)
    for name in dtype.names or ():
        kind = dtype[name]
        if kind.kind == "f":
            found[name] = random.uniform(0, 1e5, count)
        elif name in ("sent", "mixed"):
            found[name] = random.integers(0, 2, count)
        elif name == "peer":
            found[name] = random.integers(0, size, count)
        elif name == "class":
            found[name] = random.integers(0, memory.TAG_CLASSES, count)
        elif name in ("dest", "source"):
            found[name] = random.integers(memory.UNKNOWN_RANK, size, count)
        elif name in ("sent_class", "received_class"):
            found[name] = random.choice([*range(memory.TAG_CLASSES), memory.ANY_CLASS], count)
        elif name == "function":
            found[name] = random.integers(0, FUNCTIONS, count)
        elif kind.subdtype is None:
            found[name] = random.integers(0, min(np.iinfo(kind).max, 1 << 60), count)
    return found


def view(rank: int, size: int, *, seed: int = 0, host: str = "h0", ended: int = 20) -> RankView:
    """Give a view of a rank with everything in it."""
    random = np.random.default_rng((seed, rank))
    peers = np.zeros(size, memory.TIMED_PEER)
    used = random.choice(size, min(size, 5), replace=False)
    peers["sent"][used] = random.integers(0, 99, (len(used), memory.TAG_CLASSES))
    peers["waited"][used] = random.uniform(0, 9, len(used))
    comms = np.zeros(3, memory.COMM)
    comms["id"], comms["size"] = [1, 7, 9], size
    return RankView(
        rank=rank,
        process=1000 + rank,
        host=host,
        state=STATES[int(random.integers(len(STATES)))],
        idle=float(random.uniform(0, 9)),
        time=float(random.uniform(0, 1e6)),
        finalizing=int(random.integers(3)),
        advanced=int(random.integers(1 << 60)),
        under_way=calls(random, 2, size),
        calls=calls(random, ended, size),
        comms=comms,
        members={
            1: np.arange(size, dtype="i4"),
            7: np.arange(0, size, 2, dtype="i4"),
            9: np.sort(random.choice(size, size // 2, replace=False)).astype("i4"),
        },
        requests=calls(random, 4, size, memory.TIMED_REQUEST),
        peers=peers,
        lost=int(random.integers(5)),
        threads=int(random.integers(1, 9)),
        unnamed=int(random.integers(100)),
        cpu=float(random.uniform(0, 9)),
        messages=calls(random, ended, size, memory.TIMED_MESSAGE),
        ended_by=str(random.choice(["", "SIGKILL", "exit status 1"])),
    )


def equal(one: RankView, other: RankView) -> bool:
    """Tell whether two views have the same content."""
    mine, theirs = vars(one) | {"members": None}, vars(other) | {"members": None}
    members: Sequence[np.ndarray] = [*one.members.values()]
    return (
        all(np.array_equal(mine[name], theirs[name]) for name in mine)
        and [*one.members] == [*other.members]
        and all(map(np.array_equal, members, other.members.values()))
    )
