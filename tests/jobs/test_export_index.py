"""Export of every kind, from images and from stored codes, and its proof against brute force."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest

from mecoq_faiss import ModelConfig, TrainConfig, encode, evaluate, export_index, load_encoder, remove, train
from mecoq_faiss.bundle.folder import read_manifest, verify_files
from mecoq_faiss.bundle.proof import VerificationError
from mecoq_faiss.data.sources import ImageSource, open_source
from mecoq_faiss.index import load_index, read_codes, read_ids
from mecoq_faiss.index.codes import code_blocks
from mecoq_faiss.jobs.search import search
from mecoq_faiss.quantizer import SoftProductQuantizer
from mecoq_faiss.storage.files import InUseError
from mecoq_faiss.storage.shards import map_array
from tests.exact import search_exact

KINDS = [
    ("pq", 8, {}),
    ("pq", 4, {}),
    ("pqfs", 4, {}),
    ("pqfs", 4, {"refine": True, "k_factor": 8.0}),
    ("ivfpq", 8, {"nlist": 9, "nprobe": 2}),
    ("ivfpqfs", 4, {"nlist": 9, "nprobe": 2}),
    ("ivfpqfs", 4, {"nlist": 9, "nprobe": 3, "refine": True}),
    ("ivfpq-all", 8, {}),
]
N = 700


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 8 and 4 bits on clustered features, and their codes."""
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 24))
    x = (centers[rng.integers(0, 20, N)] + 0.4 * rng.normal(size=(N, 24))).astype(np.float32)
    np.save(folder / "x.npy", x)
    for nbits in (8, 4):
        model = ModelConfig(M=32 // nbits, D=32, nbits=nbits, hidden=32)
        settings = TrainConfig(epochs=2, batch_size=128, memory_start_epoch=1, memory_size=64)
        train(folder / "x.npy", folder / f"run{nbits}", model, settings)
        encode(folder / f"run{nbits}", folder / "x.npy", folder / f"codes{nbits}.h5")
    return folder


def quantizer_of(path: Path) -> SoftProductQuantizer:
    return load_encoder(path).model.quantizer


@pytest.mark.parametrize(("kind", "nbits", "options"), KINDS)
@pytest.mark.parametrize("from_codes", [False, True], ids=["data", "codes"])
def test_every_kind_is_exported_and_proved(
    work: Path, tmp_path: Path, kind: str, nbits: int, options: dict, from_codes: bool
) -> None:
    run, codes_file, out = work / f"run{nbits}", work / f"codes{nbits}.h5", tmp_path / "bundle"
    data, codes = (None, codes_file) if from_codes else (work / "x.npy", None)
    manifest = export_index(run, data, out, codes=codes, kind=kind, **options)
    verify_files(out)
    assert not list(tmp_path.glob("*.partial")) and {p.name for p in out.iterdir()} == {
        "index.faiss", "items.h5", "encoder", "manifest.json",
    }  # fmt: skip
    assert manifest["nlist"] == options.get("nlist", 1 if kind == "ivfpq-all" else None)
    assert manifest["nprobe"] == options.get("nprobe", 1 if kind == "ivfpq-all" else None)
    assert manifest["refine"] == (options.get("k_factor", 4.0) if options.get("refine") else None)
    index = faiss.read_index(str(out / "index.faiss"))
    with h5py.File(codes_file) as file:
        np.testing.assert_array_equal(read_codes(index), file["codes"][:])
    with h5py.File(out / "items.h5") as items:
        assert set(items) >= {"codes", "ids", "paths"} and items["ids"][:].tolist() == list(range(N))
    proof = manifest["verification"]
    rounds = kind.endswith("fs") and not options.get("refine")
    assert proof["max_score_difference"] <= (proof["table_rounding"] + 1e-4 if rounds else 1e-4)
    assert (proof["max_score_difference"] > 1e-4) == rounds
    assert ("equal_codes" in proof) == (not from_codes)
    if kind in ("pq", "ivfpq-all", "ivfpq"):
        assert proof["top_k_agreement"] == 1  # every list visited
    if kind in ("pq", "ivfpq-all"):
        assert proof["recall_at_10"] == 1
    if kind.startswith("ivf"):
        assert 0.2 < proof["recall_at_10"] <= 1


def test_the_index_keeps_its_own_nprobe_after_the_proof(work: Path, tmp_path: Path) -> None:
    export_index(work / "run8", None, tmp_path / "b", codes=work / "codes8.h5", kind="ivfpq", nlist=9, nprobe=2)
    index = faiss.read_index(str(tmp_path / "b" / "index.faiss"))
    assert isinstance(index, faiss.IndexIVFPQ) and index.nprobe == 2


def test_recall_in_the_manifest_is_that_of_plain_search(work: Path, tmp_path: Path) -> None:
    from mecoq_faiss.bundle.probes import queries_like_codes

    options: dict[str, Any] = {"kind": "ivfpq", "nlist": 9, "nprobe": 1}
    out = tmp_path / "b"
    manifest = export_index(work / "run8", None, out, codes=work / "codes8.h5", **options)
    with h5py.File(work / "codes8.h5") as file:
        codes = file["codes"][:]
    books = quantizer_of(out).unit_codebooks().detach().numpy()
    xq = queries_like_codes(books, codes)
    exact, _ = search_exact(books, codes, xq, 10)
    D, I = faiss.read_index(str(out / "index.faiss")).search(xq, 10)
    reached = ((exact[:, 9:] - 1e-4 <= D) & (I >= 0)).mean()
    assert manifest["verification"]["recall_at_10"] == pytest.approx(reached, abs=1e-9)


@pytest.mark.parametrize("kind", ["pq", "ivfpq"])
def test_own_ids_come_back_from_search_and_evaluate(tmp_path: Path, kind: str) -> None:
    plain, own = tmp_path / "plain", tmp_path / "own"
    options: dict[str, Any] = {"nlist": 4, "nprobe": 4} if kind == "ivfpq" else {}
    source = _labelled_digits_run(tmp_path)
    export_index(source, "digits", plain, kind=kind, **options)
    ids = np.arange(1500, dtype=np.int64)[::-1] + 10**15
    export_index(source, "digits", own, kind=kind, ids=ids, **options)
    assert read_manifest(own)["has_ids"] and not read_manifest(plain)["has_ids"]
    query = tmp_path / "query.png"
    queries = open_source("digits", "queries")
    assert isinstance(queries, ImageSource)
    queries.open(3).save(query)
    first, second = search(plain, [query], 20)[0], search(own, [query], 20)[0]
    assert [(h.row, h.path) for h in first] == [(h.row, h.path) for h in second]
    assert [h.id for h in first] == [h.row for h in first]
    assert [h.id for h in second] == ids[[h.row for h in second]].tolist()
    I = faiss.read_index(str(own / "index.faiss")).search(load_encoder(own).encode(query), 20)[1]
    assert set(I[0].tolist()) == {h.id for h in second}
    with h5py.File(own / "items.h5") as items:
        np.testing.assert_array_equal(items["ids"][:], ids)
    assert evaluate(plain, "digits", k=50) == evaluate(own, "digits", k=50)


def _labelled_digits_run(folder: Path) -> Path:
    settings = TrainConfig(epochs=1, batch_size=256, cached_views=2)
    train("digits", folder / "run", ModelConfig(backbone="pixels", image_size=8, hidden=16), settings)
    return folder / "run"


def test_own_ids_of_unreadable_images_are_left_out(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    digits = open_source("digits", "queries")
    assert isinstance(digits, ImageSource)
    for i in range(9):
        digits.open(i).save(photos / f"{i}.png")
    (photos / "4.png").write_bytes(b"no picture")
    ids = np.arange(9, dtype=np.int64) * 11
    manifest = export_index(_labelled_digits_run(tmp_path), photos, tmp_path / "bundle", ids=ids)
    assert manifest["counts"] == {"items": 8, "source_items": 9, "unreadable": 1}
    found = read_ids(load_index(tmp_path / "bundle" / "index.faiss"))
    assert found is not None and found.tolist() == [0, 11, 22, 33, 55, 66, 77, 88]
    hit = search(tmp_path / "bundle", [photos / "7.png"], 8)[0][0]
    assert hit.id == 11 * int(Path(hit.path).stem) and hit.row == hit.id // 11 - (hit.id > 44)


def test_ids_from_files(work: Path, tmp_path: Path) -> None:
    ids = np.arange(N, dtype=np.int64) * 3
    np.save(tmp_path / "ids.npy", ids)
    first, second = tmp_path / "a", tmp_path / "b"
    export_index(work / "run8", None, first, codes=work / "codes8.h5", ids=tmp_path / "ids.npy")
    export_index(first, None, second, codes=first / "items.h5", ids=first / "items.h5")  # a bundle of a bundle
    for bundle in (first, second):
        np.testing.assert_array_equal(read_ids(load_index(bundle / "index.faiss")), ids)


def test_ids_auto_are_those_that_items_have_anyway(work: Path, tmp_path: Path) -> None:
    export_index(work / "run8", work / "x.npy", tmp_path / "a", ids="auto")
    index = faiss.read_index(str(tmp_path / "a" / "index.faiss"))
    np.testing.assert_array_equal(read_ids(index), np.arange(N))
    index.add_with_ids(load_encoder(tmp_path / "a").encode(work / "x.npy")[:1], np.array([N + 5]))  # as programs do
    assert index.ntotal == N + 1
    remove(tmp_path / "a", [0, 3])
    export_index(tmp_path / "a", None, tmp_path / "b", codes=tmp_path / "a", ids="auto")
    kept = read_ids(load_index(tmp_path / "b" / "index.faiss"))
    np.testing.assert_array_equal(kept, [1, 2, *range(4, N)])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"kind": "pqfs"}, "needs 4-bit codes"),
        ({"kind": "hnsw"}, "unknown"),
        ({"kind": "pq", "nlist": 4}, "no lists"),
        ({"kind": "pq", "refine": True}, "needs no refine"),
        ({"kind": "ivfpq", "nlist": N + 1}, "nlist"),
        ({"kind": "ivfpq", "nlist": 8, "nprobe": 9}, "nprobe"),
        ({"ids": np.zeros(N, np.int64)}, "occurs more than once"),
        ({"ids": np.arange(N - 1)}, "shape"),
        ({"ids": np.arange(N, dtype=np.int32)}, "int64"),
        ({"codes": "codes8.h5"}, "one of the two"),
    ],
)
def test_refused_before_any_work(work: Path, tmp_path: Path, more: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        export_index(work / "run8", work / "x.npy", tmp_path / "bundle", **more)
    assert not any(tmp_path.iterdir())


def test_foreign_codes_are_refused(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(ValueError, match="another model"):
        export_index(work / "run8", None, out, codes=work / "codes4.h5")
    with pytest.raises(ValueError, match="not a file of codes"):
        export_index(work / "run8", None, out, codes=work / "x.npy")
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        export_index(work / "run8", None, out, codes=work / "none.h5")
    with pytest.raises(ValueError, match="one of the two"):
        export_index(work / "run8", None, out)
    assert not any(tmp_path.iterdir())


def killed(run: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """An export that `error` ends once everything is encoded."""
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr("mecoq_faiss.bundle.built.build_index", lambda *a, **k: (_ for _ in ()).throw(error))
        export_index(run, data, out)


def test_what_a_killed_export_of_another_run_left_is_not_used(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(work / "run4", work / "x.npy", tmp_path / "bundle", monkeypatch, KeyboardInterrupt())
    (tmp_path / "bundle.partial" / ".index.faiss.1.tmp").write_text("half")
    export_index(work / "run8", work / "x.npy", tmp_path / "bundle")
    index = load_index(tmp_path / "bundle" / "index.faiss")
    with h5py.File(work / "codes8.h5") as file:
        np.testing.assert_array_equal(read_codes(index), file["codes"][:])
    assert {p.name for p in (tmp_path / "bundle").iterdir()} == {"index.faiss", "items.h5", "encoder", "manifest.json"}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory"), VerificationError("no"), OSError("full"), SystemExit()]
)
def test_whatever_ends_an_export_its_encoding_is_kept(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    killed(work / "run8", work / "x.npy", tmp_path / "bundle", monkeypatch, error)
    monkeypatch.setattr("mecoq_faiss.jobs.export_index.encode_source", lambda *a, **k: pytest.fail("all is encoded"))
    assert export_index(work / "run8", work / "x.npy", tmp_path / "bundle")["counts"]["items"] == N
    assert not (tmp_path / "bundle.partial").exists()


@pytest.mark.parametrize("harm", ["flipped", "cut"])
def test_a_damaged_encoding_of_a_killed_export_is_made_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    killed(work / "run8", work / "x.npy", tmp_path / "bundle", monkeypatch, KeyboardInterrupt())
    encoded = tmp_path / "bundle.partial" / "encoded.h5"
    if harm == "flipped":
        with h5py.File(encoded, "r+") as file:
            file["codes"][3, 0] ^= 1
    else:
        encoded.write_bytes(encoded.read_bytes()[:3000])
    export_index(work / "run8", work / "x.npy", tmp_path / "bundle")
    index = load_index(tmp_path / "bundle" / "index.faiss")
    with h5py.File(work / "codes8.h5") as file:
        np.testing.assert_array_equal(read_codes(index), file["codes"][:])


def test_codes_that_hdf5_cannot_read_are_named(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> None:
        raise OSError("Can't synchronously read data (address of object past end of allocation)")

    shutil.copy(work / "codes8.h5", tmp_path / "codes.h5")
    monkeypatch.setattr("mecoq_faiss.bundle.encoded.damaged_dataset", failing)
    with pytest.raises(ValueError, match=r"codes\.h5 is damaged \(Can't .*\): encode the images anew"):
        export_index(work / "run8", None, tmp_path / "out", codes=tmp_path / "codes.h5")


def test_a_flipped_bit_in_codes_is_refused(work: Path, tmp_path: Path) -> None:
    codes = tmp_path / "codes.h5"
    codes.write_bytes((work / "codes8.h5").read_bytes())
    export_index(work / "run8", None, tmp_path / "bundle", codes=codes)
    for given, damaged, says in (
        (codes, codes, "its codes do not match their checksum"),
        (tmp_path / "bundle", tmp_path / "bundle" / "items.h5", r"items\.h5 differs from the manifest"),
    ):
        with h5py.File(damaged, "r+") as file:
            file["codes"][3, 0] ^= 1
        with pytest.raises(ValueError, match=says):
            export_index(work / "run8", None, tmp_path / "other", codes=given)
    assert not list(tmp_path.glob("other*"))


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_of_the_users_in_the_way_is_left_alone(work: Path, tmp_path: Path, linked: bool) -> None:
    mine = tmp_path / ("precious" if linked else "b.partial")
    mine.mkdir()
    (mine / "index.faiss").write_text("mine")
    if linked:
        (tmp_path / "b.partial").symlink_to(mine)
    with pytest.raises(FileExistsError, match=r"b\.partial is in the way"):
        export_index(work / "run8", work / "x.npy", tmp_path / "b")
    assert [p.name for p in mine.iterdir()] == ["index.faiss"] and not (tmp_path / "b").exists()


def test_two_exports_to_one_place(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*args: object, **options: object) -> None:
        with pytest.raises(InUseError, match=f"in use by process {os.getpid()}"):
            export_index(work / "run8", work / "x.npy", tmp_path / "b")
        raise KeyboardInterrupt

    monkeypatch.setattr("mecoq_faiss.jobs.export_index.encode_source", second)
    with pytest.raises(KeyboardInterrupt):
        export_index(work / "run8", work / "x.npy", tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_blocks_of_a_memory_map_are_its_rows(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (1 << 17, 4), dtype=np.uint8)
    with h5py.File(tmp_path / "codes.h5", "w") as file:
        file.create_dataset("codes", data=codes)
    seen = 0
    for start, block in code_blocks(map_array(tmp_path / "codes.h5", "codes"), 10_007):
        assert start == seen and (block == codes[start : start + len(block)]).all()
        seen += len(block)
    assert seen == len(codes)


def test_the_version_of_what_is_not_installed_is_unknown(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the package runs from its checkout."""
    version = metadata.version

    def installed(name: str) -> str:
        if name == "mecoq-faiss":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", installed)
    versions = export_index(work / "run8", work / "x.npy", tmp_path / "bundle")["versions"]
    assert (versions["mecoq-faiss"], versions["numpy"]) == ("unknown", np.__version__)


def test_a_kill_after_the_last_rename_leaves_nothing(work: Path, tmp_path: Path, monkeypatch) -> None:
    """The bundle and the encoded file are whole by then: the same call clears up and gives them."""
    import mecoq_faiss.storage.work_folder as module

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.WorkFolder, "_drop", stop)
        with pytest.raises(KeyboardInterrupt):
            export_index(work / "run8", work / "x.npy", tmp_path / "bundle")
    whole = (tmp_path / "bundle" / "items.h5").read_bytes()
    (tmp_path / "bundle" / "items.h5").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"items\.h5 differs from the manifest"):
        export_index(work / "run8", work / "x.npy", tmp_path / "bundle")
    (tmp_path / "bundle" / "items.h5").write_bytes(whole)
    manifest = export_index(work / "run8", work / "x.npy", tmp_path / "bundle")
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert names == {"index.faiss", "items.h5", "encoder", "manifest.json"}
    assert manifest["counts"]["items"] == N
    with pytest.raises(FileExistsError, match="bundle exists"):
        export_index(work / "run8", work / "x.npy", tmp_path / "bundle")
    with monkeypatch.context() as patch:
        patch.setattr(module.WorkFolder, "remove", stop)
        with pytest.raises(KeyboardInterrupt):
            encode(work / "run8", work / "x.npy", tmp_path / "e.h5")
    assert encode(work / "run8", work / "x.npy", tmp_path / "e.h5") == N
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "e.h5"]
    with pytest.raises(FileExistsError, match=r"e\.h5 exists"):
        encode(work / "run8", work / "x.npy", tmp_path / "e.h5")


def test_the_pq_of_k_means_beside_the_learned_codes(work: Path, tmp_path: Path) -> None:
    manifest = export_index(work / "run8", work / "x.npy", tmp_path / "km", kmeans=True)
    assert (manifest["codes"], manifest["d"], manifest["bytes_per_code"]) == ("additive", 4 * 24, 4)
    x = np.load(work / "x.npy")
    hits = search(tmp_path / "km", work / "x.npy", 10)
    near = np.argsort(-(x / np.linalg.norm(x, axis=1, keepdims=True)) @ x[:50].T, axis=0)[:10].T
    found = [len({hit.row for hit in mine} & set(rows)) for mine, rows in zip(hits[:50], near.tolist(), strict=True)]
    assert np.mean(found) > 3  # of 10; chance is 0.14
    with pytest.raises(ValueError, match="give --data, not --codes"):
        export_index(work / "run8", None, tmp_path / "no", codes=work / "codes8.h5", kmeans=True)
