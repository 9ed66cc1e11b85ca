"""Download a repository of the Hugging Face hub: what is needed of it, with progress in the log and clear errors."""

import errno
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from truss_model.errors import LoadError

logger = logging.getLogger(__name__)

# Mistral's repositories hold the weights a second time, as consolidated.safetensors.
WANTED = ["*.json", "model*.safetensors", "tokenizer.model*", "*.jinja"]
TOKEN_HELP = "Put a token of an account with access into the secret hf_access_token (locally: HF_TOKEN)."
LOG_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HubRepository:
    id: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubRepository":
        """Read `owner/name` or `owner/name@revision`."""
        id_, _, revision = text.partition("@")
        return cls(id_, revision or None)


def download(
    repository: HubRepository,
    token: str | None,
    local_only: bool,
    *,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Return the folder, downloaded before or now. Raises LoadError with the cause and the remedy."""
    where: dict[str, Any] = {
        "repo_id": repository.id,
        "revision": repository.revision,
        "token": token,
        "endpoint": endpoint,
        "cache_dir": cache,
        "allow_patterns": WANTED,
    }
    try:
        if not (local_only or constants.HF_HUB_OFFLINE) and _reachable(where, cache or Path(constants.HF_HUB_CACHE)):
            return Path(str(snapshot_download(**where, tqdm_class=LoggedProgress)))
        return Path(str(snapshot_download(**where, local_files_only=True)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _explained(repository, token, error) from error


def _reachable(where: dict[str, Any], folder: Path) -> bool:
    """Whether the hub can be reached. Raises OSError when what is to be downloaded does not fit on the disk."""
    try:
        files = snapshot_download(**where, dry_run=True, tqdm_class=LoggedProgress)
    except DryRunError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise error.__cause__ from None
        logger.warning("The hub cannot be reached: %s", error.__cause__)
        return False
    need = sum(file.file_size for file in files if not isinstance(file, str) and file.will_download)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(errno.ENOSPC, f"{need / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free")
    return True


def _explained(repository: HubRepository, token: str | None, error: Exception) -> LoadError:
    name = repository.id if repository.revision is None else f"{repository.id} at {repository.revision}"
    refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
    if isinstance(error, GatedRepoError):
        asked = "this token's account has not been given access" if token else "and no token is set"
        return LoadError(f"{name} is gated on the hub, {asked}. Ask for access on its page there. {TOKEN_HELP}")
    if isinstance(error, RevisionNotFoundError):
        return LoadError(f"{repository.id} on the hub has no revision {repository.revision}.")
    if isinstance(error, RepositoryNotFoundError) or refused:
        state = "the token does not open it" if token else "it needs a token and none is set"
        return LoadError(f"{name} was not found on the hub: the name is wrong, or {state}. {TOKEN_HELP}")
    if isinstance(error, HFValidationError):
        return LoadError(f"'{repository.id}' is no name of a repository on the hub: owner/name is expected.")
    if isinstance(error, LocalEntryNotFoundError):
        return LoadError(
            f"{name} has not been downloaded before, and the hub cannot be reached (or HF_HUB_OFFLINE is set). Mount "
            "the weights, set TRUSS_MODEL_PATH to a folder that holds them, or set TRUSS_MODEL_ID=demo."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return LoadError(
            f"Not enough disk space to download {name}: {error.strerror}. Set HF_HOME to a larger disk, or use "
            "config.yaml's weights, which the platform mounts."
        )
    return LoadError(f"Downloading {name} failed: {type(error).__name__}: {error}", transient=True)


class LoggedProgress(tqdm):
    """A progress bar that is a line in the log now and then: containers have no terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["disable"] = False  # tqdm's own default where there is no terminal is to say nothing
        self._logged = time.monotonic()
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY_SECONDS and self.total:
            self._logged = now
            logger.info("%s: %s of %s", self.desc, self.format_sizeof(self.n), self.format_sizeof(self.total))
        return True
