"""The Hugging Face hub: a folder onto it, and the exact revision of a data set on it. The token is HF_TOKEN alone."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from data.base.errors import InputError
from data.base.options import Bound, options
from data.base.run_file import RUN_FILE

Licence = Annotated[
    str,
    Bound(
        "a licence as the hub names it (small letters, digits, dots, dashes)",
        lambda name: re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) is not None,
    ),
]
RepoName = Annotated[str, Bound("ORG/NAME", lambda name: name.strip("/").count("/") == 1)]
RepoKind = Literal["model", "dataset"]
_FIELD = "hub"


@options
class HubOptions:
    """What is said of a folder that goes onto the hub, and where it goes."""

    licence: Licence | None = None
    """Licence as the hub names it, like apache-2.0 (None: the card stays as it is)."""

    hub: RepoName | None = None
    """Name on the hub, ORG/NAME; the token that may write there is HF_TOKEN in the environment (None: push nothing)."""

    private: bool = True
    """Whether a repository that is made for it is private."""


def push_folder(folder: Path, repo: str, kind: RepoKind, *, private: bool, message: str) -> str:
    """Upload a folder as one commit to ORG/NAME, which is made if it is not there; returns its address.

    Files whose name starts with a dot, and run files (they name paths of this machine), stay here. Raises InputError
    without HF_TOKEN, for a bad name, and for whatever the hub refuses.
    """
    token = write_token()
    if not (folder / "README.md").is_file():
        raise InputError("has no README.md: it is no folder that this project wrote", file=folder)
    api = _api(token)
    try:
        address = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            commit_message=message,
            ignore_patterns=[".*", "*/.*", f"*{RUN_FILE}"],
        )
    except Exception as error:  # the client raises many unrelated types
        raise InputError(f"the hub refused {repo}: {_reason(error, token)}", field=_FIELD) from error
    return str(address)


def write_token() -> str:
    """The token for `push_folder`. Raises InputError when there is none: ask before work is done for nothing."""
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise InputError("needs a token that may write, in the environment variable HF_TOKEN", field=_FIELD)
    return token


def pinned_revision(name: str, revision: str | None) -> str | None:
    """The commit that a data set's revision (None: its main branch) stands for now; as given when off line.

    Raises InputError when the hub does not know it or cannot be reached.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    token = os.environ.get("HF_TOKEN")
    try:
        return str(_api(token).dataset_info(name, revision=revision).sha)
    except OfflineModeIsEnabled:
        return revision
    except Exception as error:  # the client raises many unrelated types
        raise InputError(f"the hub has no such data set: {_reason(error, token)}", file=f"hub:{name}") from error


def _api(token: str | None) -> Any:
    from huggingface_hub import HfApi

    # Given here, since the client reads its own default while it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token or False)


def _reason(error: Exception, token: str | None) -> str:
    text = str(error).strip() or type(error).__name__
    text = " ".join(text.replace(token, "[secret]").split()) if token else " ".join(text.split())
    return text[:300]
