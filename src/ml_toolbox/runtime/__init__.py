"""What runs inside the container or local job: the train entry point, the model server, the platform contracts.

Stands alone: imports neither features nor providers, and the standard library only until a model is touched. This package
is also what a training script imports when it wants more than prints:

    from ml_toolbox import runtime

    for epoch in range(epochs):
        ...
        runtime.report(epoch=epoch + 1, epochs=epochs, loss=loss)
        runtime.checkpoint("state.pt", epoch + 1)
        if runtime.should_stop():
            break

The helpers work outside a job too (``python train.py``): then ``report`` prints, and folders are made under the current
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_toolbox.runtime.helpers import (
        checkpoint,
        checkpoint_dir,
        hyperparameters,
        inputs,
        latest_checkpoint,
        model_dir,
        output_dir,
        report,
        should_stop,
    )

__all__ = [
    "checkpoint",
    "checkpoint_dir",
    "hyperparameters",
    "inputs",
    "latest_checkpoint",
    "model_dir",
    "output_dir",
    "report",
    "should_stop",
]


def __getattr__(name: str) -> Any:
    # The supervisor imports this package on the way to the user's first line: the helpers wait until they are asked for.
    if name in __all__:
        from ml_toolbox.runtime import helpers

        return getattr(helpers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
