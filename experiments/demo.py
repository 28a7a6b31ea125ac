"""`make demo`: a gated mixture of experts on human-labelled tweets, beside two honest baselines."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from transformers.utils import logging

from sentimoe.bench.lexicon import vader_probabilities
from sentimoe.classifier import SentimentClassifier
from sentimoe.data import Split, load_dataset
from sentimoe.evaluation import evaluate_predictions, fit_tfidf, peak_memory_mib
from sentimoe.inference import Engine, keep_freed_memory
from sentimoe.records import write_json, write_text
from sentimoe.training import TrainConfig, train, training_texts
from sentimoe.upcycle import layer_numbers

from .load import mean_expert_load
from .pictures import confusion_picture

SENTENCES = (
    "The battery died after two days and support never answered. Never again!",
    "The parcel arrived on Tuesday.",
    "Honestly the best phone I have ever owned, I love it.",
)
LOAD_TEXTS = 512
CONFIG = TrainConfig(
    data="tweets", method="moe-gated", epochs=3, train_limit=8000, max_length=64, method_settings={"init_noise": 0.05}
)

REPORT = Template(
    """# Demo: a gated mixture of experts on tweets, compared with two baselines

{{ used }} of {{ data.splits.train.rows }} training tweets were used. All rows are scored on the same {{ n }} held-out test tweets.
Backbone {{ config.model }}, seed {{ config.seed }}, {{ config.epochs }} epochs, {{ seconds | round | int }} s in total, peak memory
{{ '%.2f' % peak_gib }} GiB.

| model | accuracy | weighted F1 (95% interval) | macro F1 (95% interval) |
|---|---|---|---|
{% for name, m in rows %}| {{ name }} | {{ '%.4f' % m.accuracy }} | {{ '%.4f' % m.f1_weighted }} ({{ '%.4f' % m.intervals.f1_weighted[0] }} - {{ '%.4f' % m.intervals.f1_weighted[1] }}) | {{ '%.4f' % m.f1_macro }} ({{ '%.4f' % m.intervals.f1_macro[0] }} - {{ '%.4f' % m.intervals.f1_macro[1] }}) |
{% endfor %}
Macro F1 of the experts minus that of TF-IDF + logistic regression: {{ '%+.1f' % gain }} points.

![Confusion matrix of the mixture of experts](confusion.png)

## Three sentences

| text | label | score |
|---|---|---|
{% for text, answer in sentences %}| {{ text }} | {{ answer.label }} | {{ '%.3f' % answer.score }} |
{% endfor %}
## Expert load

Share of the work (token and choice pairs) of each expert on {{ load_texts }} test tweets chosen at random. An even share would be
{{ '%.3f' % (1 / load[0] | length) }}.

| layer |{% for e in load[0] %} expert {{ loop.index0 }} |{% endfor %}
|---|{% for e in load[0] %}---|{% endfor %}
{% for row in load %}| {{ layers[loop.index0] }} |{% for share in row %} {{ '%.3f' % share }} |{% endfor %}
{% endfor %}
## Receipt

At conversion, in float32, on {{ receipt.texts }} texts ({{ receipt.probe }}): the logits of the model with experts
differed from those of the dense model by at most {{ '%.2g' % receipt.max_abs_logit_diff }} (allowed:
{{ '%.0e' % receipt.tolerance }}). The symmetry-breaking noise that followed moved them by
{{ '%.2g' % receipt.noise_abs_logit_diff }}.
""",
    trim_blocks=False,
)


def demo(folder: Path) -> dict[str, Any]:
    """Train, evaluate beside TF-IDF + logistic regression and VADER, and write `report.md` and `metrics.json`.

    Returns what `metrics.json` holds: `moe`, `tfidf_lr` and `vader`, each with the scores on the same test tweets.
    """
    started = time.perf_counter()
    keep_freed_memory()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    shutil.rmtree(folder, ignore_errors=True)
    tell(f"training on {CONFIG.train_limit:,} texts; a line every 30 seconds says how far it is")
    record = train(CONFIG, folder / "model")
    dataset = load_dataset(CONFIG.data)
    used: Split = training_texts(dataset.splits["train"], CONFIG)
    test = dataset.splits["test"]
    classifier = SentimentClassifier.from_pretrained(folder / "model")
    engine = classifier.engine
    assert isinstance(engine, Engine)
    tell(f"answering {len(test):,} test texts, then the two baselines")
    probabilities = {
        "moe": classifier.predict_proba(test.texts),
        "tfidf_lr": fit_tfidf(used, dataset.splits["validation"]).predict_proba(test.texts),
        "vader": vader_probabilities(test, dataset.label_names),
    }
    tell("computing intervals")
    metrics = {name: evaluate_predictions(test.labels, p, dataset.label_names) for name, p in probabilities.items()}
    confusion_picture(
        np.array(metrics["moe"]["confusion_matrix"]), dataset.label_names, folder / "confusion.png", "Test tweets"
    )
    model = engine.model
    sample = test.sample(LOAD_TEXTS).texts
    report = REPORT.render(
        data=record["data"],
        used=record["data"]["train_used"],
        n=len(test),
        config=CONFIG,
        seconds=time.perf_counter() - started,
        peak_gib=peak_memory_mib() / 1024,
        rows=[
            ("gated mixture of experts", metrics["moe"]),
            ("TF-IDF + logistic regression", metrics["tfidf_lr"]),
            ("VADER (lexicon, untrained)", metrics["vader"]),
        ],
        gain=100 * (metrics["moe"]["f1_macro"] - metrics["tfidf_lr"]["f1_macro"]),
        sentences=list(zip(SENTENCES, classifier(SENTENCES), strict=True)),
        load=mean_expert_load(engine, sample).tolist(),
        load_texts=len(sample),
        layers=layer_numbers(model),
        receipt=model.moe_receipt,
    )
    write_text(folder / "report.md", report)
    write_json(folder / "metrics.json", metrics)
    tell(f"done after {time.perf_counter() - started:.0f} s")
    return metrics


def tell(line: str) -> None:
    """What is done now, on standard error, in a log too."""
    print(f"demo: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    demo(target)
    print((target / "report.md").read_text(encoding="utf-8"))
