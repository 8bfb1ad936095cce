"""STUB until the real one is pulled."""

from __future__ import annotations

from .snapshot import Snapshot
from .verdict import Verdict


class Judge:
    def __init__(self, size: int, functions: tuple[str, ...]) -> None:
        self.said: set[object] = set()

    def look(self, snapshot: Snapshot) -> list[Verdict]:
        found = []
        for rank, view in snapshot.ranks.items():
            if view.state == "dead" and rank not in self.said:
                self.said.add(rank)
                found.append(Verdict("dead", (rank,), f"rank {rank} is dead", hosts=(view.host,)))
            elif (
                view.state in ("stopped", "idle")
                and view.idle > 1.0
                and rank not in self.said
                and not len(view.under_way)
            ):
                self.said.add(rank)
                witness = next((each.rank for each in snapshot.ranks.values() if len(each.under_way)), None)
                found.append(
                    Verdict(
                        "stuck",
                        (rank,),
                        f"rank {rank} is at {{{rank}}}, outside MPI, since {view.idle:.1f} s",
                        view.idle,
                        witness=witness,
                        hosts=(view.host,),
                    )
                )
        return found
