"""The model server: one process, one event loop, every platform's prediction protocol on one port.

Here belongs what answers a request: HTTP, decoding into arrays, batching, traffic between variants, metrics. Not here: how
a model is stored or loaded (``ml_toolbox.packages``), who starts and watches the process (a backend or a platform).
Importing this package loads nothing heavy; numpy, uvloop and the parsers come with the modules that use them.
"""
