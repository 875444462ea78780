"""One file per capability: the Protocol, its request and response values, and what an implementation may lack.

A port's docstrings are promises: when the method returns, what a second call does, what absence means, which errors.
The conformance suites in ``ml_toolbox.testing`` check every promise on every implementation.
"""
