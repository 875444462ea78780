"""The durable reconcile loop: claim, lease, decide, act, fenced apply, retry. Knows no machine learning and no platform.

Here belong the row and its lease (:mod:`rows`), what a kind of work must provide (:mod:`workflow`), what a memory must
promise (:mod:`store`), the one runner (:mod:`runner`) and the labelled crash points (:mod:`crash`). What a certain kind of
work *means* belongs to a feature; how rows are kept belongs to ``state``.
"""
