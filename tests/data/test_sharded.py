"""Sources in many files: tars, Parquet files, folders of them, patterns."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from mecoq_faiss import ImageSource, open_source


def jpeg(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of webdataset, with captions and metadata beside the images."""
    (tmp_path / "shards").mkdir()
    for shard, rows in enumerate(([0, 1], [2], [3, 4, 5])):
        members: dict[str, bytes] = {}
        for row in rows:
            members |= {f"{row:05}.png": jpeg(row), f"{row:05}.txt": b"a word", f"{row:05}.json": b"{}"}
        write_shard(tmp_path / "shards" / f"{shard:03}.tar", members)
    return tmp_path / "shards"


def reds(source) -> list[int]:
    return [np.asarray(source.open(i))[0, 0, 0].item() for i in range(len(source))]


def test_shards_are_one_source(shards: Path) -> None:
    for src in (str(shards), str(shards / "{000..002}.tar")):
        source = open_source(src, "train")
        assert source.paths == tuple(f"{row:05}.png" for row in range(6)) and source.labels is None
        assert reds(source) == list(range(6)) == reds(pickle.loads(pickle.dumps(source)))
        assert [source.size_and_time(i)[0] for i in range(6)] == [len(jpeg(i)) for i in range(6)]
        assert reds(source.subset([5, 2])) == [5, 2]
    assert len({open_source(str(shards), "train").digest(i) for i in range(6)}) == 6


def test_names_that_come_twice_say_their_shard(tmp_path: Path) -> None:
    for shard in "ab":
        write_shard(tmp_path / f"{shard}.tar", {"0.png": jpeg(1)})
    assert open_source(str(tmp_path), "train").paths == ("a.tar:0.png", "b.tar:0.png")


def test_what_is_wrong_with_shards(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*003\.tar"):
        open_source(str(shards / "{000..003}.tar"), "train")
    with pytest.raises(ValueError, match="smaller number first"):
        open_source(str(shards / "{003..000}.tar"), "train")
    (shards / "003.tar").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"003\.tar: not a readable tar"):
        open_source(str(shards), "train")


def parquet(path: Path, select: str, rows: list[tuple], columns: str) -> Path:
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE t ({columns})")
    connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path


def test_rows_of_bytes_with_paths_and_classes(tmp_path: Path) -> None:
    rows = [(jpeg(i), f"p{i}.png", "ab"[i % 2]) for i in range(4)]
    path = parquet(tmp_path / "x.parquet", "FROM t", rows, "image BLOB, path VARCHAR, label VARCHAR")
    source = open_source(str(path), "train")
    assert source.paths == ("a/p0.png", "a/p2.png", "b/p1.png", "b/p3.png") and source.class_names == ("a", "b")
    assert reds(source) == [0, 2, 1, 3]


def test_hugging_faces_struct_and_the_names_of_its_classes(tmp_path: Path) -> None:
    said = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}})
    rows = [(jpeg(i), i % 2) for i in range(3)]
    select = "SELECT {'bytes': b, 'path': NULL::VARCHAR} AS image, label FROM t"
    path = tmp_path / "hf.parquet"
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (b BLOB, label BIGINT)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet, KV_METADATA {{huggingface: '{said}'}})")
    source = open_source(str(path), "train")
    assert source.class_names == ("cat", "dog") and source.labels is not None
    assert [name.partition("/")[0] for name in source.paths] == ["cat", "cat", "dog"]
    assert reds(source) == [0, 2, 1]


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    for part in range(2):
        rows = [(jpeg(10 * part + i), f"{part}{i}.png") for i in range(2)]
        parquet(tmp_path / f"{part}.parquet", "FROM t", rows, "img BLOB, path VARCHAR")
    assert reds(open_source(str(tmp_path), "train")) == [0, 1, 10, 11]


def test_what_is_wrong_with_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", "FROM t", [(1, "a")], "a INTEGER, b VARCHAR")
    with pytest.raises(ValueError, match=r"no column of images.*its columns are a, b"):
        open_source(str(path), "train")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"bad\.parquet"):
        open_source(str(tmp_path / "bad.parquet"), "train")
    rows = [(None, "a.png"), (jpeg(3), "../../b.png")]
    path = parquet(tmp_path / "odd.parquet", "FROM t", rows, "image BLOB, path VARCHAR")
    source = open_source(str(path), "train")
    assert isinstance(source, ImageSource)
    with pytest.raises(ValueError, match=r"a\.png"):
        source.open(source.paths.index("a.png"))
