"""Every error that the library raises on purpose.

::

    FreezerError
    ├── ConfigError (also ValueError)     the user's settings cannot work; the message names the fix
    ├── UnitError (also ValueError)       a unit that does not exist, or a model whose units changed
    ├── PlanError                         a plan that must not be applied (freezes everything, thaws what is active)
    ├── AgreementError                    ranks disagree about what is frozen, or at which step
    ├── VerificationError                 after an event the model is not in the state that the plan demands
    ├── CacheError                        the forward cache cannot be used as it was asked to
    └── PredictorError                    weights missing, damaged, or made for other features
"""

from __future__ import annotations


class FreezerError(Exception):
    """Base of all errors of this library."""


class ConfigError(FreezerError, ValueError):
    """Settings that cannot work. ``pointer`` is a JSON pointer into the freeze section."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class UnitError(FreezerError, ValueError):
    """A unit that does not exist, or whose parameters changed under the freezer."""


class PlanError(FreezerError):
    """A plan that must not be applied."""


class AgreementError(FreezerError):
    """The ranks hold different plans for the same step."""


class VerificationError(FreezerError):
    """After an event the model is not in the state that the plan demands."""


class CacheError(FreezerError):
    """The forward cache cannot be used as it was asked to; training without it would go on."""


class PredictorError(FreezerError):
    """Predictor weights that are missing, damaged or made for other features."""


def require(condition: bool, pointer: str, message: str) -> None:
    """Raise :class:`ConfigError` with the pointer of the field, unless the condition holds."""
    if not condition:
        raise ConfigError(message, pointer)
