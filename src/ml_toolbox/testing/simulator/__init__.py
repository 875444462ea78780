"""A deterministic simulator of the durable loop: real workflows and runner, virtual time, a platform that does its worst.

Here belong the platform, the processes and users of one schedule, and the one checker of what must hold afterwards
(:mod:`invariants`). Which workflows are driven is handed in (:mod:`product`), so nothing here knows a feature. The idea is
FoundationDB's and TigerBeetle's: whatever goes wrong is found again from its seed.
"""
