"""What whoever runs the loop wants to know: the stream of events, and what is not as it should be.

:mod:`events` reads the histories of all rows as one stream, :mod:`condition` judges rows, leases, limits and clocks. Both look
and change nothing.
"""

from __future__ import annotations

from ml_toolbox.features.operations.condition import Finding, State, condition, living
from ml_toolbox.features.operations.events import Event, Events, parse_since

__all__ = ["Event", "Events", "Finding", "State", "condition", "living", "parse_since"]
