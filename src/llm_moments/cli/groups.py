"""Options in `--help` by what they are about, where a verb has many."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

MANY = 12  # options from which on they are grouped
SHARED = {  # of options that several verbs have
    "Data": ("data", "unlabelled", "heal_data", "evaluate", "text_column", "pair_column", "label_column", "group_column", "encoding", "on_error", "on_overflow", "limit", "stream"),
    "How a model that makes texts is asked": ("system", "max_new_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "samples", "json_schema"),
    "Plan and machine": ("set_", "plan", "stock", "device", "task", "metric", "trust_remote_code", "workers", "config"),
    "Output": ("out", "overwrite", "format", "json_", "timings", "html", "tensorboard", "histograms", "csv", "parquet", "trace"),
}  # fmt: skip
TRAINING = {  # of `train`, in whose help they come before those
    "Steps": ("epochs", "updates", "batch_size", "batch_tokens", "accumulate", "max_length", "image_size", "pack", "order", "early_stopping", "checkpoint_every", "seed"),
    "Optimiser": ("optimizer", "optimizer_option", "learning_rate", "weight_decay", "schedule", "warm_up", "clip"),
    "Loss": ("loss", "label_smoothing", "class_weights", "dropout", "balance"),
    "What is learnt, and in what": ("new_head", "freeze", "lora", "precision", "attention", "gradient_checkpointing", "model_option", "temperature"),
    "More data": ("augment", "translate_there", "translate_back", "translate_languages", "unlabelled", "pseudo_threshold"),
}  # fmt: skip


class Grouped(TyperCommand):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The verb's own first, then the groups that it has."""
        shown = {param.name: record for param in self.get_params(ctx) if (record := _record(param, ctx)) is not None}
        arguments = [
            shown.pop(p.name) for p in self.get_params(ctx) if p.name in shown and p.param_type_name == "argument"
        ]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        groups = {**(TRAINING if self.name in ("train", "distill") else {}), **SHARED} if len(shown) > MANY else {}
        made: dict[str, list[Any]] = {"Options": []}
        for name, record in shown.items():
            group = next((title for title, names in groups.items() if name in names), "Options")
            made.setdefault(group, []).append(record)
        for title in ["Options", *groups]:
            if made.get(title):
                with formatter.section(title):
                    formatter.write_dl(made[title])


def _record(param: Any, ctx: Any) -> Any:
    return None if getattr(param, "hidden", False) else param.get_help_record(ctx)
