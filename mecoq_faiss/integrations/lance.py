"""Lance: a bundle as a dataset with an IVF_PQ index of the learned codebooks (extra: lance)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mecoq_faiss.bundle.generation import Generation
from mecoq_faiss.index.codes import decode_codes
from mecoq_faiss.integrations.folders import made_of
from mecoq_faiss.jobs.export_items import export_items

try:
    import lance
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Lance is not installed ({error}): pip install 'mecoq-faiss[lance]'", name=error.name
    ) from error

ROWS = 8192  # of a batch
NAMES = r"data|_\w+|items\.parquet(\.partial)?"


def to_lance(bundle: str | Path, out: str | Path) -> lance.LanceDataset:
    """Write a Lance dataset of a bundle's items, and an index of its codebooks and codes over them.

    Its columns are `id`, `image_path`, `label` (where each item has one), the metadata's, and `vector` (d,) float32:
    what an item's code stands for, as the bundle keeps nothing else of an image. It takes 4 * d bytes an item beside
    the code. The folder can be copied to an object store and opened there, `lance.dataset("s3://...")`. The index has
    one list, around zero: a search looks at all codes, and finds what `IndexPQ` finds; where items' scores are equal,
    as those of equal codes, it may show others of these. A query is what `Encoder.encode` gives; `_distance` is 1 -
    score.

    Args:
        bundle: its folder.
        out: the dataset's, such as `photos.lance`; refused where it exists.

    Returns:
        The dataset.

    Raises:
        FileNotFoundError: no bundle there.
        FileExistsError: `out` is there.
        ValueError: a damaged bundle.
        ImportError: no DuckDB (extra: lance).

    Example:
        >>> dataset = to_lance("bundle", "photos.lance")
        >>> q = load_encoder("bundle").encode("query.jpg")[0]
        >>> dataset.to_table(columns=["image_path"], nearest={"column": "vector", "q": q, "k": 3})["image_path"]
    """
    with made_of(bundle, out, NAMES) as (generation, folder):
        items, codebooks = folder / "items.parquet", generation.codebooks
        export_items(bundle, items)
        with pq.ParquetFile(items) as file:
            schema = file.schema_arrow.append(pa.field("vector", pa.list_(pa.float32(), generation.encoder.d)))
            batches = _with_vectors(file, generation, codebooks, schema)
            dataset = lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), folder)
        add_index(dataset, codebooks)
        items.unlink()
    return lance.dataset(out)


def add_index(dataset: lance.LanceDataset, codebooks: np.ndarray) -> None:
    """Add the index of codebooks (M, K, d) to a dataset whose column `vector` holds what its items' codes stand for."""
    M, K, d = codebooks.shape
    dataset.create_index(
        "vector",
        "IVF_PQ",
        metric="dot",
        num_partitions=1,
        ivf_centroids=np.zeros((1, M * d), np.float32),
        num_sub_vectors=M,
        num_bits=K.bit_length() - 1,
        pq_codebook=codebooks,
    )


def _with_vectors(
    file: pq.ParquetFile, generation: Generation, codebooks: np.ndarray, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in file.iter_batches(ROWS):
        rows = np.arange(first, first := first + len(batch))
        x = pa.array(decode_codes(codebooks, generation.codes(rows)).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(x, generation.encoder.d)
        yield pa.RecordBatch.from_arrays([*batch.columns, vectors], schema=schema)
