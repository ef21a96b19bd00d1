"""Models by name.

The contract, the same for every model: :class:`Batch` is ``(inputs, labels)``; ``inputs`` is a tensor or a dict of
named tensors; :func:`forward` calls ``model(x)`` or ``model(**inputs)``; the output is the logits, float,
``(n, num_classes)``, nothing else. Small networks and MiniLM end in a module named ``head``. Parameter names are
paths of plain modules, the same in checkpoints, in the API and for the predictor.

Use ``build(spec, task, settings, seed=...)``: same seed, same weights, on every rank.
"""

from workers.training.batch import Batch, Inputs, TaskInfo, check_logits, forward
from workers.training.models.inherit import Inherited, inherit
from workers.training.models.registry import build

__all__ = ["Batch", "Inherited", "Inputs", "TaskInfo", "build", "check_logits", "forward", "inherit"]
