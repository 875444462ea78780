"""Python objects as bytes, exactly and without pickle: for object columns, labels and attributes.

Msgpack with a tag for everything JSON-like types cannot tell apart, so that ``None``, ``NaN``, ``NaT``, ``True`` and ``1``,
tuples and lists, Python and NumPy scalars come back as what they were. The set of types is closed: what is not in it is
refused, and reading can only ever build these types.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import importlib
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import msgspec

from ml_toolbox.base.errors import Invalid

_MAX_DEPTH = 64


class NotExact(Exception):
    """This value has no exact form here; the message says what it is. Callers add the column's name."""


def pack(value: Any) -> bytes:
    """The value as bytes; raises :class:`NotExact`."""
    try:
        return msgspec.msgpack.encode(_tag(value, 0))
    except UnicodeEncodeError as error:
        raise NotExact(f"text that is not valid Unicode ({error.reason})") from error


def unpack(data: bytes) -> Any:
    """The inverse of :func:`pack`; raises ``Invalid`` for bytes that ``pack`` did not write."""
    try:
        return _untag(msgspec.msgpack.decode(data))
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise Invalid(f"a stored value cannot be read: {error}", hint="run `mltoolbox data verify` on it") from error


def label_to_json(value: Any) -> Any:
    """A label as JSON: text as itself, everything else as packed bytes in base64."""
    if type(value) is str:
        value.encode()  # a lone surrogate is legal in Python and in no file format
        return value
    return {"packed": base64.b64encode(pack(value)).decode()}


def label_from_json(value: Any) -> Any:
    return value if isinstance(value, str) else unpack(base64.b64decode(value["packed"]))


def zone_to_plain(zone: dt.tzinfo | None) -> list[Any] | None:
    """A time zone as ``["z", key]`` (zoneinfo), ``["o", seconds, name]`` (fixed offset) or ``["p", zone]`` (pytz)."""
    if zone is None:
        return None
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return ["z", zone.key]
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        plain = ["o", offset.days * 86400 + offset.seconds, zone.tzname(None)]
        if offset.microseconds or zone_from_plain(plain) != zone:
            raise NotExact(f"a datetime with the time zone {zone!r}")
        return plain
    if type(zone).__module__.startswith("pytz") and getattr(zone, "zone", None):
        return ["p", zone.zone]  # type: ignore[attr-defined]
    raise NotExact(f"a datetime with a time zone of type {type(zone).__name__}")


def zone_from_plain(plain: list[Any] | None) -> dt.tzinfo | None:
    if plain is None:
        return None
    if plain[0] == "z":
        return zoneinfo.ZoneInfo(plain[1])
    if plain[0] == "o":
        offset = dt.timedelta(seconds=plain[1])
        unnamed = dt.timezone(offset)
        if plain[1] == 0 and plain[2] == "UTC":
            return dt.UTC
        return unnamed if unnamed.tzname(None) == plain[2] else dt.timezone(offset, plain[2])
    zone: dt.tzinfo = importlib.import_module("pytz").timezone(plain[1])
    return zone


def _tag_datetime(value: dt.datetime) -> list[Any]:
    zone = value.tzinfo
    if zone is not None and type(zone).__module__.startswith("pytz"):
        # pytz keeps the offset inside the zone object: the same wall time can carry another offset than zoneinfo's.
        raise NotExact("a datetime with a pytz time zone")
    return ["T", value.replace(tzinfo=None).isoformat(), value.fold, zone_to_plain(zone)]


_ENCODERS: dict[type, Callable[[Any, int], Any]] = {
    list: lambda v, depth: ["l", [_tag(item, depth) for item in v]],
    tuple: lambda v, depth: ["t", [_tag(item, depth) for item in v]],
    dict: lambda v, depth: ["d", [[_tag(key, depth), _tag(item, depth)] for key, item in v.items()]],
    complex: lambda v, _: ["c", v.real, v.imag],
    decimal.Decimal: lambda v, _: ["D", str(v)],
    dt.date: lambda v, _: ["y", v.isoformat()],
    dt.datetime: lambda v, _: _tag_datetime(v),
    dt.time: lambda v, _: ["h", v.replace(tzinfo=None).isoformat(), v.fold, zone_to_plain(v.tzinfo)],
    dt.timedelta: lambda v, _: ["e", v.days, v.seconds, v.microseconds],
    uuid.UUID: lambda v, _: ["u", v.bytes],
}


def _tag(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is float or kind is bool or kind is bytes:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else ["i", hex(value)]
    if depth > _MAX_DEPTH:
        raise NotExact(f"values nested deeper than {_MAX_DEPTH}")
    if encoder := _ENCODERS.get(kind):
        return encoder(value, depth + 1)
    return _tag_foreign(value, kind)


def _tag_foreign(value: Any, kind: type) -> Any:
    """NumPy and pandas values, recognised by module so that neither is imported for plain Python data."""
    module = kind.__module__.partition(".")[0]
    if module == "numpy":
        import numpy as np

        if isinstance(value, np.generic) and not value.dtype.hasobject and value.dtype.names is None:
            return ["n", value.dtype.str, value.tobytes()]
        if kind is np.ndarray and not value.dtype.hasobject and value.dtype.names is None:
            return ["a", value.dtype.str, list(value.shape), value.tobytes()]
    elif module == "pandas":
        import pandas as pd

        if value is pd.NaT:
            return ["NaT"]
        if value is pd.NA:
            return ["NA"]
        if kind is pd.Timestamp:
            zone = zone_to_plain(value.tzinfo) if not _is_pytz(value.tzinfo) else ["p", value.tzinfo.zone]
            return ["pt", value.asm8.view("i8").item(), value.unit, zone]
        if kind is pd.Timedelta:
            return ["pd", value.asm8.view("i8").item(), value.unit]
    raise NotExact(f"a value of type {kind.__module__}.{kind.__qualname__}")


def _is_pytz(zone: Any) -> bool:
    return type(zone).__module__.startswith("pytz")


def _untag(plain: Any) -> Any:
    if not isinstance(plain, list):
        return plain
    return _DECODERS[plain[0]](plain)


def _numpy_scalar(plain: list[Any]) -> Any:
    import numpy as np

    dtype = _plain_dtype(plain[1])
    # NumPy reads no buffer of items without bytes: numpy.str_("") and numpy.bytes_(b"").
    return np.frombuffer(plain[2], dtype=dtype, count=1)[0] if dtype.itemsize else dtype.type()


def _numpy_array(plain: list[Any]) -> Any:
    import numpy as np

    return np.frombuffer(plain[3], dtype=_plain_dtype(plain[1])).reshape(plain[2]).copy()


def _plain_dtype(text: str) -> Any:
    import numpy as np

    dtype = np.dtype(text)
    if dtype.hasobject:
        raise ValueError(f"object dtype {text!r} in a stored value")
    return dtype


def _timestamp(plain: list[Any]) -> Any:
    import numpy as np
    import pandas as pd

    moment = pd.Timestamp(np.datetime64(plain[1], plain[2]))
    if plain[3] is not None:
        moment = moment.tz_localize("UTC").tz_convert(zone_from_plain(plain[3]))
    return moment


def _timedelta(plain: list[Any]) -> Any:
    import numpy as np
    import pandas as pd

    return pd.Timedelta(np.timedelta64(plain[1], plain[2]))


def _pandas_constant(plain: list[Any]) -> Any:
    import pandas as pd

    return pd.NaT if plain[0] == "NaT" else pd.NA


_DECODERS: dict[str, Callable[[list[Any]], Any]] = {
    "l": lambda p: [_untag(item) for item in p[1]],
    "t": lambda p: tuple(_untag(item) for item in p[1]),
    "d": lambda p: {_untag(key): _untag(item) for key, item in p[1]},
    "i": lambda p: int(p[1], 16),
    "c": lambda p: complex(p[1], p[2]),
    "D": lambda p: decimal.Decimal(p[1]),
    "y": lambda p: dt.date.fromisoformat(p[1]),
    "T": lambda p: dt.datetime.fromisoformat(p[1]).replace(fold=p[2], tzinfo=zone_from_plain(p[3])),
    "h": lambda p: dt.time.fromisoformat(p[1]).replace(fold=p[2], tzinfo=zone_from_plain(p[3])),
    "e": lambda p: dt.timedelta(p[1], p[2], p[3]),
    "u": lambda p: uuid.UUID(bytes=p[1]),
    "n": _numpy_scalar,
    "a": _numpy_array,
    "pt": _timestamp,
    "pd": _timedelta,
    "NaT": _pandas_constant,
    "NA": _pandas_constant,
}
