"""How far a session of tests is, by the record that rank 0 keeps."""

import json
from pathlib import Path
from typing import IO

from roundelay.terminal import meter

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Shows how many tests are done; without a terminal, a line now and then.

    Parameters
    ----------
    name
        Of the stage.
    record
        The file to which rank 0 writes.
    """

    def __init__(self, name: str, record: Path) -> None:
        self.record = record
        self.file: IO[str] | None = None
        self.unread = ""
        self.total: int | None = None
        self.done = self.failed = 0
        self.meter = meter(f"tests, {name}", SECONDS_BETWEEN_LINES)

    def line(self, text: str) -> None:
        """Print a line of the session, above the bar if there is one."""
        self.meter.print(text)

    def look(self) -> None:
        """Read what the record has more than before, and show it."""
        if self.file is None and self.record.exists():
            self.file = self.record.open()
        # The last line may not be written to its end yet.
        *lines, self.unread = (self.unread + (self.file.read() if self.file else "")).split("\n")
        for entry in map(json.loads, lines):
            self.total = entry.get("collected", self.total)
            outcome = entry.get("outcome", "started")
            self.done += outcome != "started"
            if outcome == "failed":
                self.failed += 1
                self.meter.print(f"failed: {entry['test']}")
        self.meter.update(self.done, self.total, f", {self.failed} failed" if self.failed else "")

    def close(self) -> None:
        """Remove the bar."""
        self.meter.close()
        if self.file:
            self.file.close()
