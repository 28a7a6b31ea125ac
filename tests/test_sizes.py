"""What training does when nothing is said: numbers by the size of the data, and a head that starts from embeddings."""

import numpy as np
import pytest
import torch
from backbone import write_backbone
from sklearn.linear_model import LogisticRegression

from experiments.sizes import summary
from sentimoe.data import dataset_from_texts
from sentimoe.records import write_json
from sentimoe.training import TrainConfig, prepare
from sentimoe.training.embeddings import embeddings
from sentimoe.training.head_init import fit_regression, linear_layer, start_head
from sentimoe.training.sizes import sized
from sentimoe.training.tokens import tokenise


@pytest.mark.parametrize(
    ("texts", "validation", "epochs", "batch_size", "patience"),
    [(45, 5, 20, 16, 0), (270, 30, 9, 16, 0), (900, 100, 3, 16, 2), (2700, 300, 3, 32, 2), (10**6, 10**5, 3, 32, 2)],
)
def test_few_texts_are_read_often(texts, validation, epochs, batch_size, patience):
    found = sized(TrainConfig(), texts, validation)
    assert (found.epochs, found.batch_size, found.patience) == (epochs, batch_size, patience)
    assert found.head_init == ("logistic-regression" if texts == 45 else "random")


def test_what_was_given_stays():
    given = TrainConfig(epochs=7, batch_size=5, patience=1, head_init="random")
    assert sized(given, 50, 5) == given
    assert sized(TrainConfig(patience=0), 10**4, 10**3).patience == 0


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    texts = [f"the {word} thing number {i}" for i in range(20) for word in ("lovely", "awful", "green")]
    dataset = dataset_from_texts(texts, ["good", "bad", "neither"] * 20)
    backbone = write_backbone(tmp_path_factory.mktemp("backbone"))
    return prepare(TrainConfig(model=backbone, method="full", max_length=32, precision="float32"), dataset)


def rows_of(ready):
    return tokenise(ready.train, ready.tokenizer, 32, "training").rows


def encoded(ready, rows):
    return [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]


def test_embeddings_are_what_the_head_reads(ready):
    rows = rows_of(ready)
    found = embeddings(ready.model, ready.tokenizer, encoded(ready, rows), tokens_per_batch=64)
    with torch.no_grad():
        for row, one in zip(rows, found, strict=True):
            states = ready.model.base(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state
            np.testing.assert_allclose(one, states.mean(1)[0].numpy(), atol=1e-5)


def test_the_head_starts_as_logistic_regression(ready):
    """Its probabilities are the regression's; the backbone stays as it was."""
    before = {name: tensor.clone() for name, tensor in ready.model.base.state_dict().items()}
    rows = rows_of(ready)
    features = embeddings(ready.model, ready.tokenizer, encoded(ready, rows))
    regression, scale = fit_regression(features, np.asarray(rows["labels"]))
    start_head(ready.model, ready.tokenizer, rows, 0)
    padded = ready.tokenizer.pad(encoded(ready, rows), return_tensors="pt")
    with torch.no_grad():
        ours = ready.model.eval()(**padded).logits.softmax(-1).numpy()
    np.testing.assert_allclose(ours, regression.predict_proba(features / scale), atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ready.model.base.state_dict().items())


def test_a_class_without_a_text_is_rare_and_two_classes_have_two_rows():
    features, labels = np.random.default_rng(0).normal(size=(40, 6)), np.array([0, 2] * 20)
    regression = LogisticRegression().fit(features, labels)
    weight, bias = linear_layer(regression, 3)
    logits = features @ weight.T + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities[:, 1].max() < 0.05
    np.testing.assert_allclose((logits[:, 2] - logits[:, 0]), regression.decision_function(features), atol=1e-8)


def test_the_page_compares_draws_that_both_have(tmp_path):
    scores = {("sentimoe", 0): 0.6, ("sentimoe", 1): 0.5, ("tfidf", 0): 0.4, ("tfidf", 1): 0.4, ("frozen", 0): 0.55}
    for (way, draw), score in scores.items():
        cell = {"data": "sst5", "size": 50, "way": way, "draw": draw, "f1_macro": score, "test_texts": 2000}
        write_json(tmp_path / f"{way}{draw}.json", cell)
    found = summary(tmp_path)
    (row,) = found["rows"]
    assert row["scores"]["sentimoe"] == {"mean": 0.55, "draws": 2} and row["scores"]["frozen"]["draws"] == 1
    assert row["less"] == pytest.approx(0.05)  # frozen on draw 0, not .15 of TF-IDF on both
    assert found["wanted"] - found["missing"] == 5
