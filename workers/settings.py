"""Settings of workers, supervisor and command line: ``SMARTFRZ_*``, read once per process."""

from __future__ import annotations

from pathlib import Path
from typing import Self
from urllib.parse import quote

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Shared by every process of one installation."""

    model_config = SettingsConfigDict(env_prefix="SMARTFRZ_", extra="ignore")

    home: Path = Field(Path(".smartfrz"), description="State of the installation; the same path in API and workers.")
    redis_url: str | None = Field(None, description="Job store and broker; unset: the embedded server.")
    window_redis_url: str | None = Field(None, description="Store of the trajectory windows; unset: the job store's.")
    redis_host: str | None = Field(None, description="With the password file, in place of a URL (containers).")
    window_redis_host: str | None = Field(None, description="The same for the window store.")
    redis_password_file: Path | None = Field(None, description="File with the password of both stores (a secret).")
    key_prefix: str = Field("smartfrz:", description="Prefix of every key in both stores.")

    code_dir: Path | None = Field(None, description="User code may come from here; unset: no user code.")
    data_dir: Path | None = Field(None, description="User data may come from here; unset: registry data only.")
    packages_dir: Path | None = Field(None, description="Data packages; unset: <home>/packages.")
    max_cache_ram_mib: int = Field(
        4096, ge=0, description="Most memory that a job may give its forward cache, on each rank, in MiB."
    )
    max_cache_disk_mib: int = Field(
        16384, ge=0, description="Most disk space that a job may give its forward cache, on each rank, in MiB."
    )
    max_processes: int = Field(8, ge=1, description="Most DDP ranks that a job may ask for.")

    lease_seconds: float = Field(120.0, gt=0)
    renew_seconds: float = Field(20.0, gt=0)
    reap_seconds: float = Field(10.0, gt=0, description="Pause between two looks of the reaper.")
    stop_grace_seconds: float = Field(60.0, gt=0, description="From an order to stop until TERM.")
    kill_grace_seconds: float = Field(10.0, gt=0, description="From TERM until KILL.")
    collective_timeout_seconds: float = Field(600.0, gt=0)
    stall_seconds: float = Field(900.0, gt=0, description="A job without progress for so long is marked stalled.")
    wake_seconds: float = Field(30.0, gt=0, description="An idle worker looks for work this often, message or not.")
    keep_days: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="A job that ended so many days ago is deleted with all its files; 0: kept for ever.",
    )
    min_free_mib: int = Field(256, ge=0, description="With less room on the disk of `home` a worker claims nothing.")
    rest_seconds: float = Field(
        60.0, gt=0, description="So long a worker claims nothing after several false starts in a row."
    )
    worker_processes: int = Field(2, ge=1, description="DDP ranks that this worker runs at once on the CPU.")
    rank_module: str = Field("workers.training.main", description="Entry of the ranks; tests put a stand-in here.")

    @model_validator(mode="after")
    def _renewals_fit_the_lease(self) -> Self:
        if self.renew_seconds > self.lease_seconds / 2:
            raise ValueError(
                f"renew_seconds ({self.renew_seconds:g}) must be at most half of lease_seconds "
                f"({self.lease_seconds:g}): with one renewal late, healthy jobs would be taken for lost"
            )
        return self

    @model_validator(mode="after")
    def _urls_from_hosts(self) -> Self:
        if self.redis_url is None and self.redis_host:
            self.redis_url = self._url(self.redis_host)
        if self.window_redis_url is None and self.window_redis_host:
            self.window_redis_url = self._url(self.window_redis_host)
        return self

    def _url(self, host: str) -> str:
        password = self.redis_password_file.read_text().strip() if self.redis_password_file else ""
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{host}:6379/0"

    @property
    def packages(self) -> Path:
        return self.packages_dir or self.home / "packages"
