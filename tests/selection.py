"""Which of the collected tests run on this number of ranks."""

from collections.abc import Iterable

import pytest
from mpi4py import MPI

from tests.record import Lines


class Selection:
    """A pytest plugin: leaves out tests that are `done` and those not made for this number of ranks.

    Parameters
    ----------
    size
        The number of ranks. On several only what is marked ``mpi`` runs, where ``min_size`` and ``max_size``
        permit.
    done
        Tests that an earlier session has run.
    lines
        Where to put down what does not fit.
    """

    def __init__(self, size: int, done: Iterable[str] = (), lines: Lines | None = None) -> None:
        self.size = size
        self.done = frozenset(done)
        self.lines = lines

    def pytest_report_header(self) -> str:
        """Name the MPI library."""
        name, version = MPI.get_vendor()
        return f"MPI: {name} {'.'.join(map(str, version))}, {self.size} ranks"

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Keep pytest-mpi from printing all it knows of the library, NUL bytes included, at each end."""
        import pytest_mpi  # pytest must have imported it first, to rewrite its assertions

        for plugin in session.config.pluginmanager.get_plugins():
            if isinstance(plugin, pytest_mpi.MPIPlugin):
                plugin._is_testing_mpi = False

    def fits(self, item: pytest.Item) -> bool:
        """Tell whether `item` is for this number of ranks."""
        markers = list(item.iter_markers("mpi"))
        least = max((marker.kwargs.get("min_size", 1) for marker in markers), default=1)
        most = min((marker.kwargs.get("max_size", self.size) for marker in markers), default=1)
        return least <= self.size <= most

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect, so that a skipped test is always one that a person may want to look into."""
        kept = {item.nodeid: item for item in items if self.fits(item) and item.nodeid not in self.done}
        if self.lines:
            self.lines.write(unfit=[item.nodeid for item in items if not self.fits(item)])
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
        items[:] = kept.values()
