from __future__ import annotations

import pytest
from pydantic import ValidationError

from workers.settings import Settings


def test_a_lease_that_cannot_be_renewed_in_time_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"renew_seconds \(20\) must be at most half of lease_seconds \(30\)"):
        Settings(lease_seconds=30.0)
    assert Settings(lease_seconds=30.0, renew_seconds=15.0).lease_seconds == 30.0
