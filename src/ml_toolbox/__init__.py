"""Train, register, deploy, roll out, watch and pay for models on any cloud with zero code changes.

Public names are loaded on first use (PEP 562), so that ``import ml_toolbox`` stays light: no numpy, no web framework, no
cloud SDK.
"""

from __future__ import annotations

__version__ = "0.1.0"
