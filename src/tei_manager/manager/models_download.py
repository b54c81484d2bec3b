"""Downloads a model into the Hugging Face cache, so that a next attempt goes on where one ended.

The hub's own library gives up partial files when it is interrupted, so each file is fetched here
into ``blobs/ETAG.partial``, with the library's own request, and becomes the blob ``ETAG`` once it
is whole; the library then finds it and links it. All of this blocks, and is run in a thread.

Known flaws
    The library hands on 10 MiB at a time: progress moves, an end is noticed and a partial file
    grows in such steps. Two managers that download one model into one cache write into one partial
    file; the library finds a wrong size then and says so.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tei_manager.errors import ModelDownloadFailed
from tei_manager.manager.models_cache import WEIGHTS, cache_folder, repository

HUB_SECONDS = 5.0
"""How long the hub may take for an answer; it is what people wait for where there is none."""

# Weights of other frameworks and formats are left out; these few endings are all that is read.
_SMALL = (".json", ".txt", ".model", ".jinja")


class Cancelled(Exception):
    """The manager stops, or somebody deleted the model: the partial file stays."""


@dataclass
class Progress:
    """How far a download is; the thread writes it, anybody reads it.

    Args:
        files: That are there.
        files_total: That are wanted; 0 until the hub has said.
        octets: That are there.
        octets_total: Of all that are wanted.
        cancelled: Set it, and the thread ends at the next octets.
    """

    files: int = 0
    files_total: int = 0
    octets: int = 0
    octets_total: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Hub:
    """Where models come from and go to.

    Args:
        endpoint: Of the hub, without a slash at the end.
        cache: Folder of downloads.
        offline: The user has ruled out the network.
        min_free: Octets of the disk that a download leaves free.
    """

    endpoint: str
    cache: Path
    offline: bool
    min_free: int

    @classmethod
    def of(cls, environ: Mapping[str, str], min_free: int) -> Hub:
        """Return the hub that the variables of the Hugging Face libraries name."""
        from huggingface_hub.constants import ENDPOINT

        offline = environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        endpoint = (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        return cls(endpoint, cache_folder(environ), offline, min_free)


class _Part(io.FileIO):
    """A partial file that tells how it grows."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path, "ab")
        self._progress = progress
        progress.octets += self.tell()

    def write(self, data: Any, /) -> int:
        if self._progress.cancelled.is_set():
            raise Cancelled
        written, view = 0, memoryview(data)
        while written < len(view):
            written += super().write(view[written:])
        self._progress.octets += written
        return written

    def truncate(self, size: int | None = None, /) -> int:
        """Forget octets: the hub does not go on from the middle."""
        before = self.seek(0, os.SEEK_END)
        after = super().truncate(size)
        self._progress.octets -= before - after
        return after


def download(hub: Hub, model_id: str, progress: Progress) -> None:
    """Fetch what is not yet there of the main branch of a model.

    Raises:
        ModelDownloadFailed: It could not be had; the sentence says why and what to do.
        Cancelled: It was asked to end.
    """
    from huggingface_hub import errors

    if hub.offline:
        raise ModelDownloadFailed("HF_HUB_OFFLINE is set; unset it or name a local directory")
    try:
        _download(hub, model_id, progress)
    except (Cancelled, ModelDownloadFailed):
        raise
    except errors.GatedRepoError as error:
        sentence = f"The hub shows '{model_id}' only to those who agreed to its terms"
        raise ModelDownloadFailed(f"{sentence}; agree there and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        sentence = f"The hub has no model '{model_id}', or shows it only with a token"
        raise ModelDownloadFailed(f"{sentence}; check the id or set HF_TOKEN") from error
    except Exception as error:  # the classes differ between the HTTP clients of hub versions
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        sentence = f"Nothing came from the hub at {hub.endpoint} ({reason[:300]})"
        hint = "check the network and HF_ENDPOINT, or name a local directory"
        raise ModelDownloadFailed(f"{sentence}; {hint}") from error


def _download(hub: Hub, model_id: str, progress: Progress) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    info = HfApi(endpoint=hub.endpoint).model_info(
        model_id, files_metadata=True, timeout=HUB_SECONDS
    )
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    names = wanted(sizes)
    progress.files_total = len(names)
    progress.octets_total = sum(sizes[name] for name in names)
    blobs = repository(hub.cache, model_id) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    _check_space(hub, model_id, progress.octets_total)
    for name in names:
        _fetch(hub, model_id, str(info.sha), name, progress)
        progress.files += 1
    refs = blobs.with_name("refs")
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(str(info.sha), "ascii")


def wanted(names: Collection[str]) -> list[str]:
    """Return the files of a repository that a server needs, the weights last.

    Raises:
        ModelDownloadFailed: There are no weights that a server can load.
    """
    small = [name for name in sorted(names) if name.endswith(_SMALL) and name.count("/") < 2]
    dense = [n for n in sorted(names) if "Dense" in n and n.endswith("/model.safetensors")]
    shards = [n for n in sorted(names) if n.startswith("model-") and n.endswith(".safetensors")]
    for weights in WEIGHTS:
        if weights in names:
            data = [f"{weights}_data"] if f"{weights}_data" in names else []
            return [*small, *dense, *data, weights]
        if weights == WEIGHTS[0] and f"{weights}.index.json" in names and shards:
            return [*small, *dense, *shards]
    raise ModelDownloadFailed(
        f"The model has none of {', '.join(WEIGHTS)}; choose one that a server can load"
    )


def _check_space(hub: Hub, model_id: str, octets: int) -> None:
    """Refuse a download after which less than the floor would be free; what is there counts."""
    blobs = repository(hub.cache, model_id) / "blobs"
    there = sum(each.stat().st_size for each in blobs.iterdir())
    free = shutil.disk_usage(hub.cache).free
    if free - max(0, octets - there) < hub.min_free:
        raise ModelDownloadFailed(
            f"'{model_id}' needs {octets >> 20} MiB and {free >> 20} MiB are free, of which"
            f" {hub.min_free >> 20} MiB stay so; delete a model or lower [models] min_free_mb"
        )


def _fetch(hub: Hub, model_id: str, commit: str, name: str, progress: Progress) -> None:
    """Fetch one file, unless it is there, and link it into the snapshot."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if progress.cancelled.is_set():
        raise Cancelled
    url = hf_hub_url(model_id, name, revision=commit, endpoint=hub.endpoint)
    found = get_hf_file_metadata(url, timeout=HUB_SECONDS, endpoint=hub.endpoint)
    if not found.etag or "/" in found.etag:
        raise ModelDownloadFailed(f"The hub at {hub.endpoint} gives no ETag for {name}; try later")
    blob = repository(hub.cache, model_id) / "blobs" / found.etag
    if blob.is_file():
        progress.octets += blob.stat().st_size
    else:
        _fill(blob, url, found.location, found.size, progress)
    hf_hub_download(
        model_id, name, revision=commit, cache_dir=hub.cache, endpoint=hub.endpoint,
        etag_timeout=HUB_SECONDS,
    )  # fmt: skip


def _fill(blob: Path, url: str, location: str, size: int | None, progress: Progress) -> None:
    from huggingface_hub.file_download import http_get

    # It is public there, though not in the form that type checkers look for.
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers = build_hf_headers()
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is the hub's, not its storage's
    partial = blob.with_name(f"{blob.name}.partial")
    with _Part(partial, progress) as file:
        http_get(location, file, resume_size=file.tell(), headers=headers, expected_size=size)
    partial.replace(blob)
