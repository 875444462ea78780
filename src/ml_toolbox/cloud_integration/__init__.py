"""The names and signatures of the cloud integration guides, with the toolbox behind them.

Here belongs only what turns a guide's call into a call of ``ml_toolbox.app.Toolbox`` or of a feature. Behaviour, formats
and platforms live below; a class here that decides something is in the wrong place. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_toolbox.cloud_integration.providers import AWSProvider, AzureProvider, CloudProvider, LocalProvider
    from ml_toolbox.cloud_integration.registry import CloudModelRegistry
    from ml_toolbox.cloud_integration.serving import CloudModelServing
    from ml_toolbox.cloud_integration.storage import CloudStorage
    from ml_toolbox.cloud_integration.training import CloudTraining

_WHERE = {
    "AWSProvider": "providers",
    "AzureProvider": "providers",
    "CloudModelRegistry": "registry",
    "CloudModelServing": "serving",
    "CloudProvider": "providers",
    "CloudStorage": "storage",
    "CloudTraining": "training",
    "LocalProvider": "providers",
}

__all__ = [
    "AWSProvider",
    "AzureProvider",
    "CloudModelRegistry",
    "CloudModelServing",
    "CloudProvider",
    "CloudStorage",
    "CloudTraining",
    "LocalProvider",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
