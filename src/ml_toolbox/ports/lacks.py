"""What an implementation cannot do, as data beside its class.

The same record drives placement filters, error texts, the generated documentation table and the conformance suite: a
declared lack must refuse with its reason, and one that quietly works fails the suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from ml_toolbox.base.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Lacks:
    """One missing capability.

    ``never``: the platform cannot do it. ``not-yet``: the platform or a library below must change first.
    ``not-done``: it could be done here and has not been.
    """

    kind: Literal["never", "not-yet", "not-done"]
    reason: str


Lacking = Mapping[str, Lacks]


def declared_reason(lacks: Lacking, needs: Iterable[str]) -> str | None:
    """Why something with these needs cannot be here: the reason of the first one declared lacking. ``None``: nothing is."""
    return next((lacks[need].reason for need in needs if need in lacks), None)


def refuse(lacks: Lacking, capability: str, *, who: str) -> NoReturn:
    """Raise :class:`Unsupported` with the declared reason. Only for capabilities that are declared lacking."""
    raise Unsupported(f"{who} cannot do {capability}: {lacks[capability].reason}", provider=who)
