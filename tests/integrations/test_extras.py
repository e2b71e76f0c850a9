"""A program that is not installed is named, with what installs it."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("langchain", "langchain_community", "langchain"),
        ("llamaindex", "llama_index", "llamaindex"),
        ("lance", "lance", "lance"),
        ("huggingface", "huggingface_hub", "hub"),
    ],
)
def test_what_is_missing_is_named(name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"mecoq_faiss.integrations.{name}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"{library}.*: pip install 'mecoq-faiss\[{extra}\]'"):
        importlib.import_module(f"mecoq_faiss.integrations.{name}")
