"""The command `mecoq-faiss train`: its options and what it prints."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import click

from .options import CODES, METRICS, OBJECTIVES, PRESETS, Duration, data_option, device_option, json_option, show


@click.command("train")
@data_option("data", "Training images (labels are not used)")
@data_option("validation", "Held-out images, of which figures are logged; of a protocol its queries", required=False)
@data_option("queries-sample", "With --objective preserve, queries of another kind, such as texts", required=False)
@click.option("--out", required=True, type=click.Path(), help="Folder of the run, to be made.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    metavar="NAME",
    default="default",
    show_default=True,
    help="Named settings to start from; `mecoq-faiss info --presets` lists them.",
)
@click.option("--config", type=click.Path(), help="TOML file of settings; they go over the preset's.")
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    help="What similar means: of one kind (semantic), near by the given or the backbone's features (preserve), both, "
    "or both where there are fifty kinds and more (fine).  [default: both, or of feature vectors preserve]",
)
@click.option(
    "--metric", type=click.Choice(METRICS), help="By which features are near, to be preserved.  [default: cosine]"
)
@click.option("--bits", type=int, help="Bits a code, a multiple of 8.  [default: 32]")
@click.option("--nbits", type=int, help="Bits a sub-quantizer: 8, or 4 for FastScan.  [default: 8]")
@click.option("--codes", type=click.Choice(CODES), help="One codeword a segment, or a sum of M.  [default: product]")
@click.option("--dim", "D", type=int, help="Embedding dimension D, a multiple of M = bits / nbits.")
@click.option("--backbone", help="torchvision classifier, timm:NAME, pixels, or one that an installed package offers.")
@click.option("--weights", help="default (pretrained, downloaded), none, or a .safetensors/.pth file.")
@click.option("--image-size", type=int, help="Side of the input in pixels.")
@click.option("--trainable-layers", type=int, help="Backbone layers that learn, from the top; 0 freezes all.")
@click.option("--epochs", type=int, help="Passes over the images.")
@click.option("--batch-size", type=int, help="Images a step.  [default: 512, or half of fewer images]")
@click.option("--lr", type=float, help="Learning rate.")
@click.option(
    "--views",
    "cached_views",
    type=int,
    help="Random views an image in the view cache; 0 chooses 10 to 40, on a CPU fewer of a heavy backbone.",
)
@click.option(
    "--budget",
    type=Duration(),
    help="Time to make the view cache in, such as 90s, 30m or 2h: chooses --views by the measured rate.",
)
@click.option("--no-view-cache", is_flag=True, help="Draw fresh views every epoch instead.")
@click.option("--seed", type=int, help="Seed of everything random.")
@click.option("--workers", type=int, help="Image decoding processes; -1 chooses.")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Any other setting, e.g. temperature=0.4.")
@click.option("--resume", is_flag=True, help="Continue what is in --out, or start where there is nothing.")
@click.option(
    "--ray",
    metavar="ADDRESS|local",
    help="Train by the workers of a Ray cluster (auto, HOST:PORT), or of a Ray on this machine (extra: cluster).",
)
@click.option(
    "--ranks", type=click.IntRange(min=1), help="With --ray, how many processes train together.  [default: 1]"
)
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events.")
@device_option
@json_option
def command(
    data: str,
    validation: str | None,
    queries_sample: str | None,
    out: str,
    preset: str,
    config: str | None,
    budget: float | None,
    no_view_cache: bool,
    pairs: tuple[str, ...],
    resume: bool,
    ray: str | None,
    ranks: int | None,
    tensorboard: bool,
    device: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Learn embedding and codebooks from unlabelled images.

    Settings come from the preset, then --config, then the options; with --resume from the run itself, and any given
    must be the run's. `--data digits` (small, offline) has defaults of its own.
    """
    from mecoq_faiss.config import make_configs
    from mecoq_faiss.jobs.train import is_first_rank, objective_of, settings_of_run, train, train_along
    from mecoq_faiss.presets import settings_for

    if ranks is not None and ray is None:
        raise click.UsageError("--ranks is for --ray; without it start the command by torchrun --nproc-per-node N")
    if not is_first_rank():
        if not train_along(data, out, device=device, queries_sample=queries_sample):
            sys.exit(1)  # the first rank says why
        return
    options = {name: value for name, value in flags.items() if value is not None}
    if no_view_cache:
        options["view_cache"] = False
    elif "cached_views" in options or budget is not None:
        options["view_cache"] = True  # also where the preset has none
    protocol = data.partition("#")[0].partition(":")[0]
    started_with = settings_of_run(out) if resume else {}
    settings = settings_for(
        preset, config, options, pairs, protocol=protocol, objective=objective_of(data), started_with=started_with
    )
    model_config, train_config = make_configs(**settings)
    started = time.monotonic()
    if ray is not None:
        from mecoq_faiss.cluster.train import train as train_on_ray

        train = partial(train_on_ray, ray=ray, ranks=ranks or 1)
    model = train(
        data, out, model_config, train_config, resume=resume, device=device, tensorboard=tensorboard, budget=budget,
        validation=validation, queries_sample=queries_sample,
    )  # fmt: skip
    c = model.config
    show(
        {
            "run": str(out),
            "bits": c.bits,
            "M": c.M,
            "nbits": c.nbits,
            "D": c.D,
            "codes": c.codes,
            "seconds": time.monotonic() - started,
        },
        as_json,
    )
