"""A user's commands, which will be killed too. ``python -m tests.kills.client SETTING JOURNAL FATE`` reads its standard input.

Each line is ``submit PLANNED``, ``wish PLANNED`` or ``serve SERVED``; each is answered by a line once it is done. What was not
answered is asked for again by the driver, as a user would.
"""

from __future__ import annotations

import json
import sys

import msgspec

from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound, NotYet, Unavailable
from ml_toolbox.engine import crash
from ml_toolbox.features.training.training import begin
from ml_toolbox.runtime.guardian import die_with_parent
from tests.kills.adapter import PLACE
from tests.kills.setting import INSTALL, Parts, Planned, Served, Setting, order_of
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


def serve(parts: Parts, served: Served) -> str:
    """Deploy, or delete. ``again``: it was not taken, and a user would ask again."""
    try:
        if served.version:
            parts.serving.deploy(f"model:{served.version}", endpoint=served.name, on=PLACE)
        else:
            parts.serving.delete(served.name, timeout_s=0.5)
    except (BudgetExceeded, Conflict, Unavailable):
        return "again"
    except NotYet:  # on record, and never given up
        return "ok"
    except NotFound:
        return "ok" if not served.version else "again"
    return "ok"


def main() -> None:
    die_with_parent()  # stopped or not: a driver that is killed leaves nothing behind
    text, path, fate = sys.argv[1:]
    parts = Parts(msgspec.json.decode(text, type=Setting))
    crash.arm(Doom(Journal(path), fate))
    print(json.dumps({"what": "up"}), flush=True)
    for line in sys.stdin:
        what, _, text = line.partition(" ")
        if what == "serve":
            answer = serve(parts, msgspec.json.decode(text, type=Served))
        else:
            answer = (submit if what == "submit" else wish)(parts, msgspec.json.decode(text, type=Planned))
        print(json.dumps({"what": what, "answer": answer}), flush=True)


if __name__ == "__main__":
    main()
