"""Shipped with the package: one conformance suite per port, fake clock, hostile stand-ins, Hypothesis strategies.

Bind a suite in about ten lines: subclass it, return your implementation from its one abstract fixture. Nothing in the
product imports this package.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:
    # The suites' asserts then show their values, as those in a test file do. Named one by one: this package itself is
    # loaded already, and `clock` and friends hold no asserts.
    sys.modules["pytest"].register_assert_rewrite(
        *(f"{__name__}.{suite}" for suite in ("endpoints", "jobs", "metrics", "objects", "secrets", "state"))
    )
