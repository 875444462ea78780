"""When "not found" means gone. A read that follows a write too soon may show the past: Describe returned nothing for a living
instance, and a second one was made (kubernetes-sigs/cluster-api-provider-aws#2915)."""

from __future__ import annotations

from dataclasses import dataclass, replace

PAUSE_S = 5.0
"""Between the two sightings, where a platform's reads may lag: another replica of its store should answer."""
STALE_LIST_S = 60.0
"""How much longer than its visibility window a platform's list may show what is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """How often in a row the platform has not shown a resource that ought to be there."""

    sightings: int = 0
    last_at: float = 0.0

    def noticed(self, now: float, *, since: float, window_s: float) -> Absence:
        """Not shown at ``now``. Counts only once the platform's visibility window since the last write to the resource, at
        ``since``, is over, and only after a pause since the sighting before."""
        if now < since + window_s or (self.sightings and now < self.last_at + _pause_s(window_s)):
            return self
        return replace(self, sightings=self.sightings + 1, last_at=now)

    @property
    def certain(self) -> bool:
        """Seen twice: it is gone, or never was."""
        return self.sightings >= 2

    def next_look_at(self, now: float, *, since: float, window_s: float) -> float:
        """When another look can add to what is known."""
        if not self.sightings:
            return max(now, since + window_s)
        return max(now, self.last_at + _pause_s(window_s))


def _pause_s(window_s: float) -> float:
    return min(window_s, PAUSE_S)
