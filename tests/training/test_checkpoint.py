"""Checkpoints read without torch.load: its tensors, described first; nothing is called, nothing allocated for a lie."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mecoq_faiss.training.checkpoint import Checkpoint, StoredTensor

WHOLE = torch.arange(24, dtype=torch.float32)
STATE: dict[str, Any] = {
    "epoch": 3,
    "names": ["a", None, 2.5, True],
    "tensors": OrderedDict(
        whole=WHOLE,
        turned=WHOLE.view(4, 6).T,
        part=WHOLE[5:9],
        half=torch.ones(2, 0, dtype=torch.float16),
        scalar=torch.tensor(7),
        flags=torch.tensor([True, False]),
        bf16=torch.randn(3, dtype=torch.bfloat16),
    ),
}


def written(state: object = STATE) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    return file


def opened(folder: Path, content: bytes) -> Checkpoint:
    (folder / "last.pt").write_bytes(content)
    return Checkpoint((folder / "last.pt").open("rb"))


def test_it_holds_what_torch_wrote(tmp_path: Path) -> None:
    found = opened(tmp_path, written().getvalue())
    assert {name: found.content[name] for name in ("epoch", "names")} == {k: STATE[k] for k in ("epoch", "names")}
    for name, tensor in STATE["tensors"].items():
        stored = found.content["tensors"][name]
        assert isinstance(stored, StoredTensor)
        assert (stored.shape, stored.stride, stored.dtype) == (tuple(tensor.shape), tensor.stride(), tensor.dtype)
        assert torch.equal(found.tensor(stored), tensor), name


def test_tensors_of_one_storage_share_it(tmp_path: Path) -> None:
    found = opened(tmp_path, written().getvalue())
    whole, part = (found.tensor(found.content["tensors"][name]) for name in ("whole", "part"))
    whole[5] = -1
    assert part[0] == -1


class Boom:
    def __reduce__(self) -> Any:
        return (print, ("code of a pickle was run",))


@pytest.mark.parametrize("state", [Boom(), {"x": [Boom()]}, Path("x"), {"x": {1, 2}}, torch.nn.Linear(1, 1)])
def test_nothing_else_is_made(state: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match=r"wants to call|persistent"):
        opened(tmp_path, written(state).getvalue())
    assert capsys.readouterr().out == ""


def archive(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """STATE's archive with other records."""
    file = io.BytesIO()
    with zipfile.ZipFile(written()) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive(lambda _, record: record, zipfile.ZIP_DEFLATED), "is compressed"),
        (archive(lambda name, record: b"big" if name.endswith("byteorder") else record), "little-endian"),
        (archive(lambda name, record: record[:-1] if name.endswith("data/0") else record), "not of 96 bytes"),
        (archive(lambda name, record: record.replace(b"K\x18", b"K\x17") if "pkl" in name else record), "of 92 bytes"),
    ],
)
def test_records_that_are_not_what_they_say(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        found = opened(tmp_path, content)
        found.tensor(found.content["tensors"]["whole"])


@pytest.mark.parametrize(
    "changes", [{"shape": (25,)}, {"offset": 1}, {"stride": (2,)}, {"shape": (2**40,), "stride": (0,)}]
)
def test_a_tensor_stays_in_its_record(changes: dict[str, Any], tmp_path: Path) -> None:
    found = opened(tmp_path, written().getvalue())
    stored = StoredTensor(**vars(found.content["tensors"]["whole"]) | changes)
    with pytest.raises(ValueError, match="reaches beyond record"):
        found.tensor(stored)
