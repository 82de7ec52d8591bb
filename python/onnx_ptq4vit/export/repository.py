"""The files of a model: of a folder, or of a repository of the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from .._errors import IoError, ModelError, UsageError


@dataclass(frozen=True)
class Repository:
    """`name` is a folder, or the name of a repository as the hub has it."""

    name: str
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return Path(self.name).is_dir()

    def read(self, file: str) -> bytes | None:
        """The content of a file; `None` if there is none of that name."""
        if self.is_local:
            path = Path(self.name) / file
            return path.read_bytes() if path.is_file() else None
        try:
            return Path(huggingface_hub.hf_hub_download(self.name, file, revision=self.revision)).read_bytes()
        except errors.GatedRepoError as error:
            why = "its owner wants conditions to be accepted: do so on its page on the hub, then `hf auth login`"
            raise self._io(why) from error
        except errors.RepositoryNotFoundError as error:
            raise self._io("the hub has no such model, or it is private: `hf auth login` lets you see your own") from error
        except errors.RevisionNotFoundError as error:
            raise UsageError(f"{self.name}: it has no revision {self.revision}") from error
        except errors.LocalEntryNotFoundError:
            # Without the network, a file that the repository does not have is not told from one that is not in the cache.
            if self._is_cached():
                return None
            raise self._io("the hub cannot be reached, and the cache does not have it") from None
        except errors.EntryNotFoundError:
            return None
        except errors.HFValidationError as error:
            raise UsageError(f"{self.name}: expected timm/NAME, OWNER/NAME or a folder") from error
        except (errors.HfHubHTTPError, OSError) as error:
            raise self._io(f"the hub cannot be reached: {type(error).__name__}") from error

    def json(self, file: str) -> dict[str, Any] | None:
        """The content of a JSON file; `None` if there is none of that name."""
        content = self.read(file)
        if content is None:
            return None
        try:
            found = json.loads(content)
        except ValueError as error:
            raise ModelError(f"{self.name}/{file}: no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ModelError(f"{self.name}/{file}: expected a JSON object")
        return found

    def _is_cached(self) -> bool:
        """Whether the cache has any file of the revision."""
        try:
            huggingface_hub.snapshot_download(self.name, revision=self.revision, local_files_only=True)
        except (errors.LocalEntryNotFoundError, OSError, ValueError):
            return False
        return True

    def _io(self, why: str) -> IoError:
        error = IoError(f"{self.name}: {why}")
        error.place = self.name
        return error
