"""``/models``: what the cache has, and what can be done with it: add, download, try, delete."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import PathConvertor, register_url_convertor

from tei_manager.api.parameters import COMMON
from tei_manager.api.paths import check_model
from tei_manager.api.problems import responses
from tei_manager.api.schemas import MOMENT, Answer, HistoryView
from tei_manager.errors import ValidationFailed
from tei_manager.manager.models import Model, Models
from tei_manager.manager.models_download import Progress

router = APIRouter(prefix="/models", tags=["models"], dependencies=COMMON)


class _ModelId(PathConvertor):
    """An id in a path, slashes included, but for those that end as an operation does."""

    regex = r"(?!.*/(?:download|load|events)$).+"


register_url_convertor("model", _ModelId())

_EXAMPLE = "BAAI/bge-small-en-v1.5"


class ModelRequest(BaseModel):
    """Names a model."""

    model_config = ConfigDict(extra="forbid")

    model_id: Annotated[str, Field(min_length=1, max_length=512)] = Field(
        examples=[_EXAMPLE], description="Hub id, or folder below one of [instances] model_dirs."
    )


class ProgressView(Answer):
    """How far a download is, or the last one came."""

    files: int = Field(examples=[7])
    files_total: int = Field(description="0 until the hub has said.", examples=[8])
    bytes: int = Field(examples=[1048576])
    bytes_total: int = Field(examples=[133466304])

    @classmethod
    def of(cls, progress: Progress) -> ProgressView:
        """Return the view of a moment."""
        return cls(
            files=progress.files,
            files_total=progress.files_total,
            bytes=progress.octets,
            bytes_total=progress.octets_total,
        )


class ModelView(Answer):
    """One model."""

    model_id: str = Field(examples=[_EXAMPLE])
    status: str = Field(
        description="available, partial, downloading, downloaded, loading, verified or failed.",
        examples=["downloaded"],
    )
    error: str = Field(description="Why it failed; empty if it did not.", examples=[""])
    downloaded: bool = Field(description="Everything that a server needs is here.")
    missing: list[str] = Field(description="Files that a server would need.", examples=[[]])
    cache_path: str | None = Field(description="Its folder.", examples=["/models/bge"])
    cache_size_bytes: int = Field(description="Partial files counted.", examples=[133466304])
    kind: str = Field(
        description="embedding, classifier or reranker; empty if unknown.", examples=["embedding"]
    )
    model_type: str = Field(description="Of its config.json.", examples=["bert"])
    pooling: str | None = Field(examples=["cls"])
    progress: ProgressView | None = Field(description="Of the last download.")
    last_verified: datetime | None = Field(examples=[MOMENT])
    instances: list[str] = Field(description="That use it.", examples=[["bge-small"]])

    @classmethod
    def of(cls, model: Model) -> ModelView:
        """Return what is shown of a model."""
        files, job = model.files, model.job
        return cls(
            model_id=model.model_id,
            status=model.status,
            error=job.error,
            downloaded=not files.missing,
            missing=list(files.missing),
            cache_path=str(files.path) if files.path else None,
            cache_size_bytes=files.size_bytes,
            kind=files.kind,
            model_type=files.model_type,
            pooling=files.pooling,
            progress=ProgressView.of(job.progress) if job.progress else None,
            last_verified=job.verified_at,
            instances=list(model.instances),
        )


async def _models(request: Request) -> Models:
    models: Models = request.app.state.manager.models
    return models


def _checked(
    request: Request,
    model_id: Annotated[
        str, Path(description="Its slash as it is or as %2F.", examples=[_EXAMPLE])
    ],
) -> str:
    if not re.fullmatch(_ModelId.regex, model_id):
        raise ValidationFailed("model_id: an id cannot end in download, load or events here")
    check_model(model_id, request.app.state.manager.settings.instances)
    return model_id


Known = Annotated[Models, Depends(_models)]
Id = Annotated[str, Depends(_checked)]
Wait = Annotated[
    float, Query(ge=0, le=600, description="Seconds to wait for the end; 0 answers at once.")
]


@router.get("", responses=responses())
async def list_models(models: Known) -> list[ModelView]:
    """All models that the cache has anything of or that were registered, in order of their ids."""
    return [ModelView.of(model) for model in await models.all()]


@router.post(
    "", status_code=201, responses=responses(409) | {200: {"description": "Known already."}}
)
async def add_model(
    request: Request, models: Known, wanted: ModelRequest, response: Response
) -> ModelView:
    """Register a model, so that it is listed; 200 if it was known already."""
    _checked(request, wanted.model_id)
    if not await models.add(wanted.model_id):
        response.status_code = 200
    return ModelView.of(await models.get(wanted.model_id))


@router.post("/{model_id:path}/download", status_code=202, responses=responses(404, 409))
async def download_model(models: Known, model_id: Id, wait: Wait = 0) -> ModelView:
    """Begin to download a model, or what is missing of it; a local folder is only looked at."""
    if not model_id.startswith("/"):
        await models.download(model_id)
    return ModelView.of(await models.settled(model_id, wait))


@router.post("/{model_id:path}/load", status_code=202, responses=responses(404, 409))
async def load_model(models: Known, model_id: Id, wait: Wait = 0) -> ModelView:
    """Begin to try whether a server starts with the model, on ports of its own."""
    await models.verify(model_id)
    return ModelView.of(await models.settled(model_id, wait))


@router.get("/{model_id:path}/events", responses=responses(404))
async def model_events(models: Known, model_id: Id) -> list[HistoryView]:
    """What happened to a model since the manager began, oldest first."""
    model = await models.get(model_id)
    return [HistoryView.of(entry) for entry in model.job.events]


@router.get("/{model_id:model}", responses=responses(404))
async def show_model(models: Known, model_id: Id, wait: Wait = 0) -> ModelView:
    """One model; with `wait` once nothing is done with it any more."""
    return ModelView.of(await models.settled(model_id, wait))


@router.delete("/{model_id:model}", status_code=204, responses=responses(404, 409))
async def delete_model(models: Known, model_id: Id) -> None:
    """Forget a model and remove it from the cache; not while an instance uses it."""
    await models.delete(model_id)
