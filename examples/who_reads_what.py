"""Show which expert reads each token of a text, and how the answer changes with fewer experts per token.

    python examples/who_reads_what.py runs/mine "The battery died, but the support was great."

The folder must hold a trained model with experts. `sentimoe explain` writes a whole report.
"""

import argparse

import torch

from sentimoe import SentimentClassifier
from sentimoe.upcycle import layer_numbers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="run folder of a model with experts")
parser.add_argument("text")
arguments = parser.parse_args()

classifier = SentimentClassifier.from_pretrained(arguments.folder)
batch = classifier.tokenizer([arguments.text], return_tensors="pt").to(classifier.model.device)
with torch.no_grad():
    output = classifier.model(**batch)

tokens = classifier.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
best = torch.stack([logits.argmax(dim=-1) for logits in output.router_logits], dim=1)  # one row for each token
print("best expert of each token in layers", *layer_numbers(classifier.model))
for token, experts in zip(tokens, best.tolist(), strict=True):
    print(f"{token:>16}", *experts)

for count in range(1, classifier.model.config.moe["num_experts_per_tok"] + 1):
    fewer = SentimentClassifier.from_pretrained(arguments.folder, num_experts_per_tok=count)
    (answer,) = fewer(arguments.text)
    print(f"{count} experts per token: {answer['label']} {answer['score']:.3f}")
