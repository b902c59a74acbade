"""Train a classifier of texts or images, or a model that makes texts: from a folder, or afresh (cnn: images,
linear: words of texts, marian: translation).

The same command with the same --out goes on where it was ended.

Settings that --set NAME=VALUE gives beside the options below: batch_tokens (most padded tokens of a batch), accumulate
(batches of one update), optimizer_options ({"betas": [0.9, 0.98]}), weight_decay, warm_up (share of the updates in which
the rate rises), label_smoothing, clip (largest norm of the gradient; 0: none), dropout, order (length or random),
attention (auto, math or flash), checkpoint_every (updates), gradient_checkpointing, pack (several examples in one row, of
causal models), translate_there, translate_back and translate_languages (two models' folders and en,de: for
--augment back-translation=0.3).

Example: moments train encoder/ --data train.csv --eval test.csv --out my-model

Example: moments train linear --data train.csv --eval test.csv --out small-model

Example: moments train cnn --data train-images-idx3-ubyte.gz --out my-cnn --learning-rate 1e-3

Example: moments train my-llm --data dialogues.jsonl --task chat --lora 16 --out my-chat

Example: moments train marian --data pairs.csv --out my-translator --learning-rate 1e-3"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def train(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", parser=paths.text, help="A model folder; or afresh: linear (words of texts), cnn (images)."
        ),
    ],
    data: o.DataOpt,
    out: Annotated[Path, typer.Option("--out", parser=paths.path, help="The folder that the model is saved to.")],
    rows: o.Labelled,
    views: o.NoTrace,
    said: o.Said,
    evaluate: Annotated[
        str | None,
        typer.Option("--eval", parser=paths.text, help="Examples that the model is judged on after each epoch."),
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            "--unlabelled",
            parser=paths.text,
            help="More examples; a first model labels them, and what it is sure of is learnt from.",
        ),
    ] = None,
    pseudo_threshold: Annotated[
        float, typer.Option("--pseudo-threshold", help="Least probability of such a label.")
    ] = 0.95,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the data; 3 (linear: 5).")] = None,
    updates: Annotated[int, typer.Option("--updates", help="Updates after which it ends, if not sooner; 0: any.")] = 0,
    stream: Annotated[
        bool, typer.Option("--stream", help="Examples are not held in memory; the first 2,000 name the labels.")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows of one batch.")] = 32,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", hidden=True, help="Or its padded tokens; 0: rows decide.")
    ] = 0,
    accumulate: Annotated[int, typer.Option("--accumulate", hidden=True, help="Batches of one update.")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="At its peak; 0.0001 (linear: 0.03).")
    ] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Tokens a row is cut at; 128.")] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="For the labels of the data, whatever the model's own head knows.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the head, the order and the dropout.")] = 0,
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="sgd, momentum, nesterov, adam, adamw, adafactor or one of torch.optim.")
    ] = "adamw",
    optimizer_option: Annotated[
        list[str] | None,
        typer.Option("--optimizer-option", hidden=True, metavar="NAME=VALUE", help="Such as betas=[0.9,0.98]."),
    ] = None,
    weight_decay: Annotated[float, typer.Option("--weight-decay", hidden=True, help="Of matrices.")] = 0.01,
    schedule: Annotated[str, typer.Option("--schedule", help="constant, linear, cosine or one-cycle.")] = "linear",
    warm_up: Annotated[
        float, typer.Option("--warm-up", hidden=True, help="Share of the updates in which the rate rises.")
    ] = 0.1,
    loss: Annotated[
        str | None, typer.Option("--loss", help="cross-entropy, binary-cross-entropy or mean-squared-error.")
    ] = None,
    label_smoothing: Annotated[float, typer.Option("--label-smoothing", hidden=True, help="0 to 1.")] = 0.0,
    image_size: Annotated[
        int, typer.Option("--image-size", min=0, help="Pixels of each side of an image; 0: the model's own.")
    ] = 0,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", help="chat, text-generation or translation, where the model could be for several things."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any setting of the training (see above), such as warm_up=0.05; of models that make texts also a choice of the plan, such as translate.target_lang=de.",
        ),
    ] = None,
    pack: Annotated[
        bool,
        typer.Option(
            "--pack", hidden=True, help="Of causal models: several examples stand in one row of --max-length tokens."
        ),
    ] = False,
    model_option: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option",
            metavar="NAME=VALUE",
            help="Of cnn: channels=[32,64], hidden=512 …; of linear: features=hashed (else tf-idf), ngrams=2, vocabulary=50000; of marian: width=192, decoder_layers=2 ….",
        ),
    ] = None,
    class_weights: Annotated[str | None, typer.Option("--class-weights", help="balanced: every class alike.")] = None,
    dropout: Annotated[
        float | None, typer.Option("--dropout", hidden=True, help="0 to 1; else the model's own.")
    ] = None,
    clip: Annotated[float, typer.Option("--clip", hidden=True, help="Largest norm of the gradient; 0: none.")] = 1.0,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")] = "auto",
    order: Annotated[
        str, typer.Option("--order", hidden=True, help="Rows of like length together, or random.")
    ] = "length",
    attention: Annotated[
        str, typer.Option("--attention", hidden=True, help="The kernel: auto, math or flash.")
    ] = "auto",
    freeze: Annotated[
        list[str] | None, typer.Option("--freeze", metavar="BLOCK", help="embeddings, 'layer 0', …; may be repeated.")
    ] = None,
    lora: Annotated[int, typer.Option("--lora", help="Rank of adapters (peft); 0: all weights are trained.")] = 0,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", hidden=True, help="Less memory, more time.")
    ] = False,
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment",
            metavar="NAME=AMOUNT,…",
            help="Texts: word-dropout, swap, synonym, back-translation. Images: flip, crop, colour, mixup, cutmix.",
        ),
    ] = None,
    translate_there: Annotated[
        str | None,
        typer.Option(
            "--translate-there",
            hidden=True,
            metavar="DIR",
            parser=paths.text,
            help="For back-translation: the model to another language …",
        ),
    ] = None,
    translate_back: Annotated[
        str | None,
        typer.Option(
            "--translate-back", hidden=True, metavar="DIR", parser=paths.text, help="… and the one back from it."
        ),
    ] = None,
    translate_languages: Annotated[
        str | None,
        typer.Option("--translate-languages", hidden=True, metavar="CODE,CODE", help="Where they know several: en,de."),
    ] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Rare classes again until all are as common.")] = False,
    early_stopping: Annotated[
        int, typer.Option("--early-stopping", help="Epochs without a better score; 0: never.")
    ] = 0,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", hidden=True, metavar="STEPS", help="Updates; 0: after each epoch.")
    ] = 0,
    device: o.DeviceOpt = "auto",
    histograms: Annotated[
        bool, typer.Option("--histograms", help="Weights and gradients of every epoch, too, in TensorBoard.")
    ] = False,
    overwrite: o.Overwrite = False,
) -> None:
    from contextlib import ExitStack

    from llm_moments.cli.training import settings_set
    from llm_moments.steps.augment import IMAGE, TEXT, parse
    from llm_moments.train.train import train as fine_tune

    views.free(data=data, overwrite=True)
    examples, judged = rows.read(data), rows.judged(evaluate)
    more = rows.read(unlabelled, label=None, limit=None) if unlabelled else None
    settings: dict[str, Any] = {
        "updates": updates, "batch_size": batch_size, "batch_tokens": batch_tokens, "accumulate": accumulate,
        "seed": seed, "optimizer": optimizer,
        "optimizer_options": o.named_values(optimizer_option, "--optimizer-option"), "weight_decay": weight_decay,
        "schedule": schedule, "warm_up": warm_up, "loss": loss, "label_smoothing": label_smoothing,
        "class_weights": class_weights, "dropout": dropout, "clip": clip, "precision": precision,
        "order": order, "attention": attention, "freeze": tuple(freeze or ()),
        "lora": lora, "gradient_checkpointing": gradient_checkpointing, "early_stopping": early_stopping,
        "checkpoint_every": checkpoint_every, "image_size": image_size,
        "balance": balance, "new_head": new_head, "augment": parse(augment or "", {**TEXT, **IMAGE}),
        "translate_there": translate_there or "", "translate_back": translate_back or "",
        "translate_languages": translate_languages or "",
        "pack": pack,
        "model_options": o.named_values(model_option, "--model-option"),
    }  # fmt: skip
    own = {"epochs": epochs, "learning_rate": learning_rate, "max_length": max_length}
    settings |= {name: value for name, value in own.items() if value is not None} | settings_set(set_)
    with ExitStack() as stack:
        tick = stack.enter_context(tell.progress(said.fmt))
        live: list[Any] = []
        if views.tensorboard:
            from llm_moments.render.tensorboard import Live

            live = [stack.enter_context(Live(views.tensorboard, settings, histograms))]
        done = fine_tune(
            model, examples, out, evaluate=judged, overwrite=overwrite, progress=tick, device=device, observers=live,
            unlabelled=more, pseudo_threshold=pseudo_threshold, task=task, stream=stream,
            **settings,
        )  # fmt: skip
    tell.skipped(examples, judged)
    tell.warnings(done.warnings)
    said.tell(done, "console:show_training")
    replace(views, tensorboard=None).write(session=done.session, training=done)  # which was written as it learnt
