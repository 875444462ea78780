"""Money and numbers for users: what limits there are, what was spent, and what a limit has to say to a plan.

:mod:`limits` checks what users type, :mod:`budgets` keeps and enforces it, :mod:`ledger_report` adds up the ledger, and
:mod:`outlook` holds a reservation against the limits before it is made. The rule that refuses is ``engine.ledger``'s alone.
"""

from __future__ import annotations

from ml_toolbox.features.costs.budgets import Budgets, Lowered, Taker
from ml_toolbox.features.costs.ledger_report import GROUPS, CostLine, CostReport, Costs, Group
from ml_toolbox.features.costs.limits import Wanted, wanted_limits
from ml_toolbox.features.costs.outlook import Outlook, Reservation, outlook

__all__ = [
    "GROUPS",
    "Budgets",
    "CostLine",
    "CostReport",
    "Costs",
    "Group",
    "Lowered",
    "Outlook",
    "Reservation",
    "Taker",
    "Wanted",
    "outlook",
    "wanted_limits",
]
