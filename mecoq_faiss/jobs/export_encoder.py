"""The whole job of writing an encoder as one ONNX graph, for programs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mecoq_faiss.bundle.encoder import load_encoder
from mecoq_faiss.bundle.onnx_export import check_exporting, write_onnx
from mecoq_faiss.storage.files import check_writable_parent


def export_encoder(bundle: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the encoder of a bundle, or of a finished run, as an ONNX graph, and compare it with the model.

    It takes ready views (b, 3, s, s) uint8, or features (b, F) float32 for a model of features, and gives queries
    (b, d) float32: what `index.search` takes. `load_encoder(out, runtime="onnx")` adds the preprocessing.

    Args:
        bundle: the folder.
        out: the .onnx file; refused where it exists.

    Returns:
        `file`, `bytes`, `input` (the shape of one), `d`, and `max_difference` of the queries from the model's, for some
        made-up inputs.

    Raises:
        ValueError, OSError: what is wrong with the input, in one line; a network that has no such graph.
        VerificationError: the graph computes something else.
        ImportError: onnx, onnxscript or onnxruntime are not installed (extra: onnx-export).

    Example:
        >>> from mecoq_faiss import export_encoder, load_encoder
        >>> export_encoder("bundle", "encoder.onnx")["max_difference"] < 1e-4
        True
        >>> load_encoder("encoder.onnx", runtime="onnx").encode("query.png").shape[0]
        1
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another --out")
    check_writable_parent(out)
    check_exporting()
    encoder = load_encoder(bundle, "cpu")
    difference = write_onnx(encoder, out)
    found = {"file": str(out), "bytes": out.stat().st_size, "input": list(encoder.shape), "d": encoder.d}
    return found | {"max_difference": difference}
