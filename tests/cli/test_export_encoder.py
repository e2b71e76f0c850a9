"""`export-encoder`, `export-index --onnx` and `search --runtime onnx`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.calls import fails, ok


def test_the_commands(run: Path, bundle: Path, digit_image: Path, tmp_path: Path) -> None:
    shown = json.loads(ok("export-encoder", bundle, "--out", tmp_path / "encoder.onnx", "--json"))
    assert shown["max_difference"] < 1e-4 and shown["input"] == [3, 8, 8]
    assert "exists: choose another --out" in fails("export-encoder", run, "--out", tmp_path / "encoder.onnx")
    assert "lacks encoder.onnx" in fails("search", bundle, digit_image, "--runtime", "onnx")
    ok("export-index", run, "--codes", bundle, "--out", tmp_path / "bundle", "--onnx")
    both = [ok("search", tmp_path / "bundle", digit_image, "-k", 3, "--runtime", name) for name in ("torch", "onnx")]
    assert both[0].split()[0::3] == both[1].split()[0::3]  # ranks and paths
