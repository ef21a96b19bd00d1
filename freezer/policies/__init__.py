"""Freezing policies: :func:`make` builds the one that the settings name. Nothing heavy is loaded before that.

Other distributions add policies by an entry point in the group ``smartfrz.policies``: a callable, mostly a class, that
takes the :class:`~freezer.config.FreezeConfig`, checks ``options`` itself, and gives an object with
``decide(context)``.
What else a policy may have is in :class:`freezer.policies.base.Policy`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from freezer.config import POLICIES, FreezeConfig
from freezer.errors import ConfigError
from freezer.options import check_options

if TYPE_CHECKING:
    from freezer.policies.base import Policy

GROUP = "smartfrz.policies"

_BUILT_IN = {
    "smartfrz": "freezer.policies.learned:from_config",
    "smartfrz-paper": "freezer.policies.learned:from_config",
    "progress-only": "freezer.policies.learned:from_config",
    "static": "freezer.policies.static:StaticPolicy",
    "linear": "freezer.policies.linear:LinearPolicy",
    "freezeout": "freezer.policies.freezeout:FreezeOutPolicy",
    "autofreeze": "freezer.policies.autofreeze:AutoFreezePolicy",
    "egeria": "freezer.policies.egeria:EgeriaPolicy",
    "thaw-last": "freezer.policies.thaw_last:ThawLastPolicy",
    "none": "freezer.policies.controls:NonePolicy",
    "random": "freezer.policies.controls:RandomPolicy",
}


def make(config: FreezeConfig) -> Policy:
    """The policy that ``config.policy`` names.

    Raises:
        ConfigError: no policy of that name, one that cannot decide, or options it does not take; with a pointer.
        PredictorError: predictor weights that are missing, damaged or made for other features.
    """
    if config.policy in _BUILT_IN:
        check_options(config)
        module, _, name = _BUILT_IN[config.policy].partition(":")
        built_in: Policy = getattr(importlib.import_module(module), name)(config)
        return built_in
    found = _registered().get(config.policy)
    if found is None:
        raise ConfigError(f"unknown policy {config.policy!r}; known: {', '.join(available())}", "/policy")
    from freezer.policies.base import complete  # it knows units, and with them torch

    return complete(found.load()(config), config.policy)


def available() -> list[str]:
    """Names of the built-in policies, then of the registered ones."""
    return [*POLICIES, *sorted(set(_registered()) - set(POLICIES))]


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
