"""A user's commands, which will be killed too. ``python -m tests.kills.client SETTING JOURNAL FATE`` reads its standard input.

Each line is ``submit PLANNED`` or ``wish PLANNED``; each is answered by a line once it is done. What was not answered is asked
for again by the driver, as a user would.
"""

from __future__ import annotations

import json
import sys

import msgspec

from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound
from ml_toolbox.engine import crash
from ml_toolbox.features.training.training import begin
from ml_toolbox.runtime.guardian import die_with_parent
from tests.kills.setting import INSTALL, Parts, Planned, Setting, order_of
from tests.kills.worker import Doom, Journal


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
    die_with_parent()  # stopped or not: a driver that is killed leaves nothing behind
    text, path, fate = sys.argv[1:]
    parts = Parts(msgspec.json.decode(text, type=Setting))
    crash.arm(Doom(Journal(path), fate))
    print(json.dumps({"what": "up"}), flush=True)
    for line in sys.stdin:
        what, _, text = line.partition(" ")
        planned = msgspec.json.decode(text, type=Planned)
        answer = (submit if what == "submit" else wish)(parts, planned)
        print(json.dumps({"what": what, "number": planned.number, "answer": answer}), flush=True)


if __name__ == "__main__":
    main()
