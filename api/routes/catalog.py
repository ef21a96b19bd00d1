"""``/v1/models``, ``/v1/datasets``, ``/v1/policies``: what can be trained, on what, and who freezes."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.responses import Response

from api.deps import render
from api.errors import not_found
from api.schemas import CatalogEntry, Page
from api.views import page
from workers.jobs import catalog

router = APIRouter(prefix="/v1", tags=["catalog"])


def _entry(kind: str, entry: catalog.Entry) -> CatalogEntry:
    return CatalogEntry.model_validate({"object": kind, **entry.to_dict()})


def _list(kind: str, entries: Mapping[str, catalog.Entry]) -> Response:
    return render(page((_entry(kind, entry) for _, entry in sorted(entries.items())), lambda entry: entry.name))


def _one(kind: str, entries: Mapping[str, catalog.Entry], name: str) -> Response:
    if name not in entries:
        raise not_found(f"no {kind} {name!r}; there are: {', '.join(sorted(entries))}", f"{kind.upper()}_NOT_FOUND")
    return render(_entry(kind, entries[name]))


@router.get("/models", response_model=Page[CatalogEntry])
async def models() -> Response:
    """Models by name, with the JSON Schema of their options."""
    return _list("model", catalog.MODELS)


@router.get("/models/{name:path}", response_model=CatalogEntry)
async def model(name: str) -> Response:
    """One model."""
    return _one("model", catalog.MODELS, name)


@router.get("/datasets", response_model=Page[CatalogEntry])
async def datasets() -> Response:
    """Data sets by name, with the JSON Schema of their options."""
    return _list("dataset", catalog.DATASETS)


@router.get("/datasets/{name:path}", response_model=CatalogEntry)
async def dataset(name: str) -> Response:
    """One data set."""
    return _one("dataset", catalog.DATASETS, name)


@router.get("/policies", response_model=Page[CatalogEntry])
async def policies() -> Response:
    """Freezing policies by name, with the JSON Schema of their options."""
    return _list("policy", catalog.POLICIES)


@router.get("/policies/{name:path}", response_model=CatalogEntry)
async def policy(name: str) -> Response:
    """One policy."""
    return _one("policy", catalog.POLICIES, name)
