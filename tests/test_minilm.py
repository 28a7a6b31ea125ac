"""The real embedded model on real tweets."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sentimoe import MoEConfig, collapse, load_classifier, upcycle
from sentimoe.data import load_dataset
from sentimoe.upcycle import backbone_path

LABELS = ("negative", "neutral", "positive")
NAME = "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def tweets():
    tokenizer = AutoTokenizer.from_pretrained(backbone_path(NAME))
    return tokenizer(
        load_dataset("tweets").splits["test"].texts[:48], padding=True, truncation=True, return_tensors="pt"
    )


@torch.no_grad()
@pytest.mark.parametrize(("expert", "k"), [("gated", 1), ("gated", 2), ("plain", 2)])
def test_upcycling_preserves_the_logits_on_tweets(tweets, expert, k, tmp_path):
    model = load_classifier(NAME, LABELS)
    dense = model(**tweets).logits
    model = upcycle(model, MoEConfig(expert=expert, num_experts_per_tok=k), probe=tweets)
    assert model.moe_receipt.max_abs_logit_diff <= 1e-5 and model.moe_receipt.probe == "given texts"
    assert model.moe_receipt.tokens == int(tweets["attention_mask"].sum())
    sparse = model(**tweets)
    torch.testing.assert_close(sparse.logits, dense, atol=1e-5, rtol=1e-5)
    assert (sparse.expert_load > 0.01).all()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**tweets).logits, sparse.logits)
    model = collapse(model)
    assert model.collapse_report.exact
    torch.testing.assert_close(model(**tweets).logits, dense, atol=0, rtol=0)


@torch.no_grad()
def test_the_mean_head_pools_what_sentence_transformers_pools():
    """Two paraphrases are closer than an unrelated sentence, by the margin that this model is known for."""
    model, tokenizer = load_classifier(NAME, LABELS), AutoTokenizer.from_pretrained(backbone_path(NAME))
    sentences = ["The film was wonderful.", "A great movie.", "Interest rates rose in March."]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    pooled = []
    model.classifier.register_forward_pre_hook(lambda module, given: pooled.append(given[0]))
    model(**inputs)
    vectors = torch.nn.functional.normalize(pooled[0], dim=1)
    assert vectors[0] @ vectors[1] > 0.6 > 0.2 > vectors[0] @ vectors[2]


def test_three_steps_lower_the_loss_and_move_the_gate(tweets):
    model = upcycle(load_classifier(NAME, LABELS), MoEConfig(init_noise=0.05)).train()
    labels = torch.arange(len(tweets["input_ids"])) % 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = model(**tweets, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    from sentimoe.upcycle import moe_layers

    for moe in moe_layers(model):
        gate, up = moe.experts.gate_up_proj.chunk(2, dim=1)
        assert up.abs().max() > 1e-4 and gate.std() > 0
