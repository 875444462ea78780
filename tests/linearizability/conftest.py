"""The servers for S3 and Azure, as everywhere in the tests."""

from __future__ import annotations

from tests.providers.objects.conftest import azurite, moto

__all__ = ["azurite", "moto"]  # fixtures
