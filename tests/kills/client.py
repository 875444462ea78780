"""A user's commands, which will be killed too. ``python -m tests.kills.client SETTING`` reads what to do from standard input.

Each line is ``submit PLANNED`` or ``wish PLANNED``; each is answered by a line once it is done. What was not answered is asked
for again by the driver, as a user would.
"""

from __future__ import annotations

import json
import sys

import msgspec

from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound
from ml_toolbox.features.training.training import begin
from tests.kills.setting import INSTALL, Parts, Planned, Setting, order_of


def submit(parts: Parts, planned: Planned) -> str:
    try:
        parts.store.get(planned.row)
        return "known"
    except NotFound:
        pass
    try:
        order = order_of(planned, parts.backend)
        begin(parts.runner, parts.store.now(), INSTALL, planned.row, order, planned.scopes)
    except BudgetExceeded:
        return "refused"
    except Conflict:
        return "known"
    return "ok"


def wish(parts: Parts, planned: Planned) -> str:
    parts.store.wish(planned.row, planned.wish)
    parts.runner.drive(planned.row)
    return "ok"


def main() -> None:
    parts = Parts(msgspec.json.decode(sys.argv[1], type=Setting))
    print(json.dumps({"what": "up"}), flush=True)
    for line in sys.stdin:
        what, _, text = line.partition(" ")
        planned = msgspec.json.decode(text, type=Planned)
        answer = (submit if what == "submit" else wish)(parts, planned)
        print(json.dumps({"what": what, "number": planned.number, "answer": answer}), flush=True)


if __name__ == "__main__":
    main()
