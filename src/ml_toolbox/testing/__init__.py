"""Shipped with the package: one conformance suite per port, fake clock, hostile stand-ins, Hypothesis strategies.

Bind a suite in about ten lines: subclass it, return your implementation from its one abstract fixture. Nothing in the
product imports this package.
"""
