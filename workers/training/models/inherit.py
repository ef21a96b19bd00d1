"""Start from the weights that another job of this installation trained (``model.init_from``)."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from workers.jobs.layout import JobFiles
from workers.training.errors import ConfigInvalid
from workers.training.models.weights import load_exactly, read_tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What was taken over.

    Attributes:
        job_id: the job whose weights they were.
        tensors: how many parameters and buffers came from it.
        fresh: names of those of the head that kept their random values, since its shape differs.
    """

    job_id: str
    tensors: int
    fresh: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"fresh": list(self.fresh)}


def inherit(model: nn.Module, job_id: str, home: Path) -> Inherited:
    """Load the trained weights of a job into ``model``, by name and shape; a head of another shape stays as it is.

    Args:
        home: ``SMARTFRZ_HOME`` of the installation that both jobs belong to.

    Raises:
        ConfigInvalid: the job left no weights here, or they are of another network; the message names the tensors.
    """
    path = JobFiles(home, job_id).weights
    if path is None:
        raise ConfigInvalid(
            f"model.init_from: job {job_id} has no trained weights on this machine any more: train it again, or take "
            "model.init_from out"
        )
    state, own = read_tensors(path), model.state_dict()
    head = [name for name in head_names(model) if name in state]
    fresh = tuple(head) if any(state[name].shape != own[name].shape for name in head) else ()
    try:
        load_exactly(model, state | {name: own[name] for name in fresh}, f"job {job_id}")
    except ConfigInvalid as error:
        raise ConfigInvalid(f"model.init_from: {error}") from error
    found = Inherited(job_id=job_id, tensors=len(state) - len(fresh), fresh=fresh)
    _log.info("start from job %s: %d tensors, fresh: %s", job_id, found.tensors, ", ".join(fresh) or "none")
    return found


def head_names(model: nn.Module) -> list[str]:
    """Tensors of the module ``head``, or, in a network without one, of its last module that has any."""
    names = list(model.state_dict())
    last = names[-1].rpartition(".")[0] if names else ""
    return [n for n in names if n.startswith("head.")] or [n for n in names if n.rpartition(".")[0] == last]
