"""Training on Ray: `jobs.train` on the workers of Ray Train, one for each rank."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from mecoq_faiss.cluster.session import connected, import_ray
from mecoq_faiss.config import ModelConfig, TrainConfig
from mecoq_faiss.jobs.train import train as train_here
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.cache import cache_folder
from mecoq_faiss.runtime.ranks import MOST_WAIT, RankLost
from mecoq_faiss.storage.files import check_writable_parent
from mecoq_faiss.training.fit import check_out
from mecoq_faiss.training.run_folder import RunFolder

DEVICES = ("auto", "cpu", "cuda")


def train(
    data: str | Path,
    out: str | Path,
    model_config: ModelConfig | None = None,
    train_config: TrainConfig | None = None,
    *,
    ray: str = "local",
    ranks: int = 1,
    device: str = "auto",
    resume: bool = False,
    tensorboard: bool = False,
    budget: float | None = None,
    validation: str | Path | None = None,
    queries_sample: str | Path | None = None,
) -> MeCoQ:
    """`mecoq_faiss.train` on several ranks of a Ray; the run is that of torchrun with as many ranks, to the byte.

    Each rank has one CPU and one thread, or one GPU. A rank that is killed ends the training; `resume` goes on, also
    without Ray.

    Args:
        data: what names the source, the same on all nodes.
        out: the run folder, in a place that all nodes see.
        model_config: as in `mecoq_faiss.train`.
        train_config: likewise.
        ray: `local` (a Ray on this machine, for this call), `auto`, or the HOST:PORT of a cluster of which this machine
            is a node.
        ranks: how many processes train together.
        device: `auto` (GPUs, if the cluster has one for each rank), `cpu` or `cuda`.
        resume: as in `mecoq_faiss.train`.
        tensorboard: likewise.
        budget: likewise.
        validation: likewise, a name.
        queries_sample: likewise, a name.

    Returns:
        The trained model, in eval mode.

    Raises:
        ValueError, OSError, TrainingError: as in `mecoq_faiss.train`, in one line; more ranks than the Ray can hold.
        ImportError: no Ray (extra: cluster).
        ConnectionError: no cluster at the address.
        RuntimeError: a rank was killed; the last checkpoint is kept.
    """
    import_ray()
    if device not in DEVICES:
        raise ValueError(f"device={device!r}: with Ray, which chooses among GPUs, give auto, cpu or cuda")
    if ranks < 1:
        raise ValueError(f"ranks={ranks} must be at least 1")
    run = RunFolder(Path(out).absolute())
    check_out(run, resume)
    check_writable_parent(run.path)
    more = {"resume": resume, "tensorboard": tensorboard, "budget": budget, "validation": validation}
    more["queries_sample"] = queries_sample
    with connected(ray) as found:
        kind = _device(found.cluster_resources(), ranks, device)
        job = {
            "folder": os.getcwd(), "cache": str(cache_folder().absolute()),
            "arguments": (data, run.path, model_config, train_config), "options": {"device": kind, **more},
        }  # fmt: skip
        _fit(job, ranks, kind, run)
    return run.load_trained()


def _device(there: dict[str, float], ranks: int, device: str) -> str:
    """Where the ranks train; ValueError where the Ray does not hold so many."""
    if device == "cuda" or (device == "auto" and there.get("GPU", 0) >= ranks):
        name, kind = "GPU", "cuda"
    else:
        name, kind = "CPU", "cpu"
    if there.get(name, 0) < ranks:
        raise ValueError(f"{ranks} ranks need {ranks} {name}s, and the Ray has {there.get(name, 0):.0f}: lower --ranks")
    return kind


def _fit(job: dict[str, Any], ranks: int, device: str, run: RunFolder) -> None:
    """Run `_learn` on the workers, and raise the error of the one that began it."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    notes = Path(tempfile.mkdtemp(prefix=f".{run.path.name}.ray-", dir=run.path.parent))  # Ray's own, on all nodes
    try:
        TorchTrainer(
            _learn,
            train_loop_config=job,
            torch_config=TorchConfig(backend=backend, timeout_s=int(MOST_WAIT.total_seconds())),
            scaling_config=ScalingConfig(num_workers=ranks, use_gpu=device == "cuda"),
            run_config=RunConfig(storage_path=str(notes), name="run"),
        ).fit()
    except WorkerGroupError as error:
        raise _cause(error.worker_failures, run) from error
    finally:
        shutil.rmtree(notes, ignore_errors=True)


def _learn(job: dict[str, Any]) -> None:
    """What each worker does: train, as under torchrun; it has a process group already."""
    with suppress(FileNotFoundError):  # of another node
        os.chdir(job["folder"])
    os.environ["MECOQ_FAISS_CACHE"] = job["cache"]
    train_here(*job["arguments"], **job["options"])


def _cause(failures: dict[int, Exception], run: RunFolder) -> BaseException:
    """The error of the rank that failed by itself; without one a rank was killed."""
    own = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
    said = [error for error in own if not type(error).__module__.startswith("ray.")]  # those are of killed workers
    for error in said:
        if not isinstance(error, RankLost):
            return error
    lost = "another rank has ended: run the same command with --resume to continue"
    return said[0] if said else RankLost(f"{lost}; the last checkpoint is kept in {run.path}")
