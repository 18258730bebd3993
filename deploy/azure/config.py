"""The configuration of a deployment: example.toml, typed and validated before Azure is asked anything."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gdaltools.errors import InvalidParameter


class Config(BaseModel):
    """One deployment; see example.toml for what each field means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,38}[a-z0-9]$")
    resource_group: str
    location: str
    image: str = Field(pattern=r"^[a-z0-9][a-z0-9._/-]*:[A-Za-z0-9._-]+$")
    registry: str = Field(pattern=r"^[a-z0-9]{5,50}$")
    registry_sku: str = "Basic"
    plan_sku: str = "P1V3"
    instances: int = Field(default=1, ge=1, le=30)

    platform_resource_group: str = ""
    service_bus_namespace: str
    bronze_storage_account: str
    silver_storage_account: str
    postgres_host: str
    postgres_database: str
    postgres_admin: str | None = None

    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _always_on_needs_basic(self) -> Self:
        if self.plan_sku.upper() in ("F1", "FREE", "D1", "SHARED"):
            raise ValueError(f"plan_sku {self.plan_sku} cannot be always on: take B1 or a larger one")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the configuration from a TOML file.

        Raises
        ------
        InvalidParameter
            The file does not exist, is not TOML, or has invalid fields; the message names each.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidParameter(f"{path}: {error}") from error
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidParameter(f"{path}: {told}") from None

    @property
    def platforms_group(self) -> str:
        """The resource group of the namespace, the storage accounts and the database."""
        return self.platform_resource_group or self.resource_group

    @property
    def storage_accounts(self) -> tuple[str, ...]:
        """The storage accounts, each once."""
        return tuple(dict.fromkeys((self.bronze_storage_account, self.silver_storage_account)))

    @property
    def identity(self) -> str:
        """The identity's name, which is also the name of its database role."""
        return f"{self.name}-identity"

    @property
    def plan(self) -> str:
        """The App Service plan's name."""
        return f"{self.name}-plan"

    @property
    def full_image(self) -> str:
        """The image's name, including the registry."""
        return f"{self.registry}.azurecr.io/{self.image}"
