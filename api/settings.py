"""Settings of the API: those of every process of the installation, and its own. Read once, in ``__main__``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from workers.settings import Settings


class ApiSettings(Settings):
    """``SMARTFRZ_*`` as the API reads them."""

    admin_key: SecretStr | None = Field(None, description="The admin key itself; wins over every file.")
    admin_key_file: Path | None = Field(None, description="File with the admin key; unset: <home>/admin.key.")
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body; a larger one is a 413.")
    page_max: int = Field(100, ge=1, description="Largest page of a list; a larger limit is coerced to it.")
    wait_max_seconds: float = Field(60.0, gt=0, description="Longest 'Prefer: wait'.")
    wait_poll_seconds: float = Field(0.5, gt=0, description="Pause between two looks of a waiting request.")
    retry_after_seconds: int = Field(2, ge=1, description="Retry-After of an active job and of a 503.")
    sse_ping_seconds: float = Field(15.0, gt=0, description="Comment line that keeps a quiet stream open.")
    sse_buffer: int = Field(1000, ge=1, description="Events that a slow reader may lag behind before it is dropped.")
    sse_send_timeout_seconds: float = Field(10.0, gt=0, description="A send that takes longer drops the reader.")
    shutdown_seconds: int = Field(5, ge=0, description="From an order to stop until open requests are cut.")
    access_log: bool = Field(False, description="Log a line for each request; /metrics counts them anyway.")
    reaper: bool = Field(True, description="Run the reaper in this process (under a lock: one at a time).")
