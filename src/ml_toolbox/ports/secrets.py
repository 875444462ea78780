"""``SecretStore``: named secrets with versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ml_toolbox.ports.lacks import Lacking

CAPABILITIES = ("write", "versions", "list")


class Secret:
    """A value that prints ``***``. ``reveal()`` is the one way to the clear text."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is never serialised; reveal() it where it is used")


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One stored version of a secret; the value is not in it."""

    name: str
    version: int
    created_at: float


@runtime_checkable
class SecretStore(Protocol):
    """Secrets by name. Values never occur in errors, logs or listings."""

    @property
    def lacks(self) -> Lacking: ...

    def get(self, name: str, *, version: int | None = None) -> Secret:
        """The value; the newest version unless told. ``NotFound`` when absent, ``Denied`` when it cannot be decrypted."""

    def put(self, name: str, value: Secret) -> SecretVersion:
        """Add a version (from 1, gap-free) and return it once durable. Older versions stay readable."""

    def delete(self, name: str) -> None:
        """Remove all versions. Absent: silent."""

    def list(self) -> tuple[SecretVersion, ...]:
        """The newest version of each secret, by name."""
