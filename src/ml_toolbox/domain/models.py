"""How a model is named: registry references, stages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import check_name


class Stage(StrEnum):
    """Where a model version stands. The spelling is the one users know."""

    REGISTERED = "registered"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"

    @classmethod
    def parse(cls, text: str) -> Stage:
        for stage in cls:
            if stage.value.lower() == text.lower():
                return stage
        raise Invalid.choice("stage", text, [stage.value for stage in cls])


@dataclass(frozen=True, slots=True)
class ModelRef:
    """``NAME``, ``NAME:VERSION`` or ``NAME@ALIAS`` (a stage name is also an alias). No suffix: the latest version."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        name, sep, rest = text.partition("@")
        if sep:
            return cls(check_name(name, field="model"), alias=check_name(rest, field="alias"))
        name, sep, rest = text.partition(":")
        if not sep:
            return cls(check_name(name, field="model"))
        if not re.fullmatch(r"v?[1-9][0-9]{0,9}", rest):
            raise Invalid(f"model: {rest!r} is not a version number", hint="write NAME:3 or NAME@ALIAS", field="model")
        return cls(check_name(name, field="model"), version=int(rest.removeprefix("v")))

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        return f"{self.name}:{self.version}" if self.version is not None else self.name
