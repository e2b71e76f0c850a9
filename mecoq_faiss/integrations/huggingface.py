"""Hugging Face: a bundle to the Hub, from where `hf://ORG/NAME` opens it (extra: hub)."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mecoq_faiss.bundle.folder import MANIFEST, pinned
from mecoq_faiss.bundle.hub import PATTERNS

try:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"huggingface_hub is not installed ({error}): pip install 'mecoq-faiss[hub]'", name=error.name
    ) from error

CARD = "README.md"


def push_to_hub(bundle: str | Path, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload a bundle as one commit: all its files, and a card where the repository has none.

    What an earlier bundle left there is removed in the same commit. The files are compared with the manifest first.
    They hold the items' paths, labels and metadata: the repository is private unless you say otherwise.

    Args:
        bundle: its folder.
        repo_id: ORG/NAME, made where it is not there.
        private: of a repository that is made.
        token: by default the one that `hf auth login` keeps.

    Returns:
        The commit's URL.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: a damaged bundle.
        OSError: the Hub's answer, such as that the token may not write.

    Example:
        >>> push_to_hub("bundle", "org/photos")
        >>> open_bundle("hf://org/photos").search("query.jpg", k=3)
    """
    api = HfApi(token=token)
    with pinned(bundle) as files:
        contents: dict[str, Any] = {name: files.file(name) for name in files.names}  # each checked
        contents[MANIFEST] = (json.dumps(files.manifest, indent=2) + "\n").encode()
        api.create_repo(repo_id, private=private, exist_ok=True)
        there = api.list_repo_files(repo_id)
        if CARD not in there:
            contents[CARD] = _card(repo_id, files.manifest).encode()
        left = [name for name in there if name not in contents and any(fnmatch(name, kind) for kind in PATTERNS)]
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in contents.items()]
        operations += [CommitOperationDelete(name) for name in left]
        done = api.create_commit(
            repo_id, operations, commit_message=f"A bundle of {files.manifest['counts']['items']} items"
        )
    return str(done.commit_url)


def _card(repo_id: str, manifest: dict[str, Any]) -> str:
    return f"""---
library_name: mecoq-faiss
tags: [image-search, faiss, product-quantization]
---

# {repo_id}

A FAISS index of {manifest["counts"]["items"]:,} items, {manifest["bytes_per_code"]:g} bytes each, with learned
codebooks and their encoder.

```python
from mecoq_faiss import open_bundle

hits = open_bundle("hf://{repo_id}").search("query.jpg", k=10)
```
"""
