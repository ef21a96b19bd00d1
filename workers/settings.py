"""Settings of workers, supervisor and command line: ``SMARTFRZ_*``, read once per process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Shared by every process of one installation."""

    model_config = SettingsConfigDict(env_prefix="SMARTFRZ_", extra="ignore")

    home: Path = Field(Path(".smartfrz"), description="State of the installation; the same path in API and workers.")
    redis_url: str | None = Field(None, description="Job store and broker; unset: the embedded server.")
    window_redis_url: str | None = Field(None, description="Store of the trajectory windows; unset: the job store's.")
    key_prefix: str = Field("smartfrz:", description="Prefix of every key in both stores.")

    code_dir: Path | None = Field(None, description="User code may come from here; unset: no user code.")
    data_dir: Path | None = Field(None, description="User data may come from here; unset: registry data only.")
    packages_dir: Path | None = Field(None, description="Data packages; unset: <home>/packages.")
    max_processes: int = Field(8, ge=1, description="Most DDP ranks that a job may ask for.")

    lease_seconds: float = Field(120.0, gt=0)
    renew_seconds: float = Field(20.0, gt=0)
    reap_seconds: float = Field(10.0, gt=0, description="Pause between two looks of the reaper.")
    stop_grace_seconds: float = Field(60.0, gt=0, description="From an order to stop until TERM.")
    kill_grace_seconds: float = Field(10.0, gt=0, description="From TERM until KILL.")
    collective_timeout_seconds: float = Field(600.0, gt=0)

    @property
    def packages(self) -> Path:
        return self.packages_dir or self.home / "packages"
