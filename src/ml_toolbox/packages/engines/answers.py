"""Shaping a library's answer into the signature's outputs: the same names, shapes and dtypes whatever the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages.manifest import ColumnSpec, Signature

Array = NDArray[np.generic]


def describe(outputs: dict[str, Array], rows: int) -> tuple[ColumnSpec, ...]:
    """The specs of what a model answered to ``rows`` rows."""
    specs = []
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise Invalid(
                f"the model answered {rows} rows with an output {name!r} of shape {array.shape}",
                field="model",
                hint="a served model answers one value per row",
            )
        dtype = "string" if array.dtype.kind in "US" else str(array.dtype)
        specs.append(ColumnSpec(name=name, dtype=dtype, shape=array.shape[1:], nullable=False))
    return tuple(specs)


def shaped(array: Any, spec: ColumnSpec, rows: int) -> Array:
    """``array`` with the dtype and shape that the signature promises; no copy when it has them already."""
    result: Array = np.asarray(array)
    if spec.dtype == "string":
        if result.dtype.kind != "U":
            result = result.astype(np.str_)
    elif result.dtype.name != spec.dtype:
        result = result.astype(np.dtype(spec.dtype))
    wanted = (rows, *(-1 if n is None else n for n in spec.shape))
    return result if result.shape[1:] == wanted[1:] else result.reshape(wanted)


def chosen(signature: Signature, outputs: Sequence[str] | None) -> tuple[ColumnSpec, ...]:
    """The specs of the outputs asked for (default: all). Raises :class:`Invalid` for a name that is none of them."""
    if outputs is None:
        return signature.outputs
    known = {spec.name: spec for spec in signature.outputs}
    for name in outputs:
        if name not in known:
            raise Invalid.choice("outputs", name, known)
    return tuple(known[name] for name in outputs)


def rows_of(batch: Any) -> int:
    """How many rows a batch has, in either form."""
    return len(batch) if isinstance(batch, np.ndarray) else len(next(iter(batch.values())))
