"""Give a fine-tuned Hugging Face classifier experts, and read the receipt.

    python examples/upcycle_a_classifier.py path/to/your-classifier with-experts

The new model answers like the old one until it is trained. Train it with `transformers.Trainer` or your own loop:
`output.loss` includes the losses of the routers.
"""

import argparse

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sentimoe import MoEConfig, upcycle
from sentimoe.upcycle import layer_numbers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder or hub id of a sequence classifier")
parser.add_argument("output", help="folder to write")
parser.add_argument("--experts", type=int, default=4, help="experts in each MoE layer")
parser.add_argument("--per-token", type=int, default=2, help="experts that read each token")
arguments = parser.parse_args()

dense = AutoModelForSequenceClassification.from_pretrained(arguments.model)
tokenizer = AutoTokenizer.from_pretrained(arguments.model)
texts = ["The battery died after two days.", "Honestly the best phone I have ever owned."]
batch = tokenizer(texts, padding=True, return_tensors="pt")

config = MoEConfig(num_experts=arguments.experts, num_experts_per_tok=arguments.per_token)
model = upcycle(dense, config, probe=batch)  # `dense` stays as it was

receipt = model.moe_receipt
print(f"largest difference of a logit on {receipt.texts} texts: {receipt.max_abs_logit_diff:.1e}")
print(f"parameters: {dense.num_parameters():,} before, {model.num_parameters():,} with experts")

with torch.no_grad():
    output = model(**batch)
for layer, shares in zip(layer_numbers(model), output.expert_load, strict=True):
    print(f"layer {layer}: load of each expert", [round(float(share), 2) for share in shares])

model.save_pretrained(arguments.output)
tokenizer.save_pretrained(arguments.output)
