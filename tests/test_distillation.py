"""Distillation: the loss against its formula, unlabelled texts, and dividing a trained teacher."""

import copy
import shutil
from importlib import import_module

import pandas as pd
import pytest
import torch
from backbone import labelled_texts, write_backbone
from tiny import batch, dense, texts
from torch.nn import functional as F
from torch.testing import assert_close

from sentimoe import MoEConfig, SentimentClassifier, upcycle
from sentimoe.data import dataset_from_texts, load_unlabelled
from sentimoe.errors import ConfigError
from sentimoe.manifest import MANIFEST
from sentimoe.training import TrainConfig, prepare, train
from sentimoe.training.distillation import Distillation, drop_tokens
from sentimoe.training.objective import Objective
from sentimoe.upcycle import moe_layers


def loss_of(distillation, model, inputs):
    """The loss of a batch that is read at once, and the model's output."""
    objective = Objective(distillation=distillation)
    objective.drop_tokens(inputs)
    answers = objective.answers(model, inputs)
    sums = objective.sums(answers)
    return objective.loss(answers, sums, sums), answers.outputs


def test_the_loss_is_its_formula():
    torch.manual_seed(0)
    student, teacher = dense("bert-mean"), dense("bert-mean")
    given = batch(texts(9, 5, 7)) | {"labels": torch.tensor([2, -100, 0])}
    inputs = {name: value for name, value in given.items() if name != "labels"}
    loss, _ = loss_of(Distillation(0.3, 2.0, 0.7, teacher), student, given)
    ours, theirs = (model(**inputs, output_hidden_states=True) for model in (student, teacher))
    task = F.cross_entropy(ours.logits[[0, 2]], torch.tensor([2, 0]))
    p, q = ((each.logits / 2).softmax(-1) for each in (theirs, ours))
    answers = 4 * (p * (p / q).log()).sum(-1).mean()
    real = given["attention_mask"].bool()
    hidden = (ours.hidden_states[-1] - theirs.hidden_states[-1])[real].square().mean()
    hidden = hidden / theirs.hidden_states[-1][real].square().mean()
    assert_close(loss, 0.7 * task + 0.3 * answers + 0.7 * hidden, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("case", ["bert-mean", "bert", "llama"])
def test_teacher_and_student_do_not_read_the_same_tokens(case):
    """A model divided among experts that are all active is its teacher, whatever is left of a text."""
    teacher, given = dense(case), batch(texts(9, 5, 7)) | {"labels": torch.tensor([2, 1, 0])}
    kind = "gated" if case == "llama" else "plain"
    whole = MoEConfig(init="split", expert=kind, num_experts=5, num_shared_experts=1, num_experts_per_tok=5)
    student = upcycle(copy.deepcopy(teacher), whole, texts=[batch(texts(9, 12))])
    losses = set()
    for seed in range(5):
        torch.manual_seed(seed)
        told = Distillation(1.0, 2.0, 1.0, teacher, token_dropout=0.4)
        agreed = loss_of(told, student, dict(given))
        assert agreed[0] - agreed[1].aux_loss < 1e-5
        losses.add(agreed[1].logits.sum().item())
    assert len(losses) > 1  # other tokens every time


def test_tokens_are_dropped_between_the_first_and_the_last():
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 0, 0]])
    dropped = torch.stack([drop_tokens(mask, 0.5) for _ in range(400)])
    for row, places in ((0, [1, 4]), (1, [0, 2]), (2, [2])):
        assert (dropped[:, row, places] == 1).all()
    assert (dropped * (1 - mask) == 0).all() and 0.4 < dropped[:, 0, 2:4].float().mean() < 0.6


def test_texts_without_any_label_have_no_cross_entropy():
    student, teacher = dense("bert-mean"), dense("bert-mean")
    given = batch(texts(9, 5)) | {"labels": torch.tensor([-100, -100])}
    loss, _ = loss_of(Distillation(0.0, 2.0, 0.0, teacher), student, given)
    assert float(loss.detach()) == 0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    rows, labels = labelled_texts(160)
    pd.DataFrame({"text": rows, "label": labels}).to_csv(folder / "data.csv", index=False)
    told = {"model": write_backbone(folder / "backbone"), "data": str(folder / "data.csv"), "precision": "float32"}
    told |= {"batch_size": 16, "max_length": 32}
    train(TrainConfig(method="full", epochs=6, learning_rate=5e-3, **told), folder / "run", progress=False)
    return folder, told


def test_a_teacher_is_divided_and_teaches(teacher):
    folder, told = teacher
    pd.DataFrame({"text": [f"the {word} thing" for word in ["great", "awful", "hate", "lovely"]] * 3}).to_csv(
        folder / "more.csv", index=False
    )
    config = TrainConfig(
        method="moe-split",
        teacher=str(folder / "run"),
        unlabelled=str(folder / "more.csv"),
        epochs=2,
        learning_rate=1e-3,
        **told | {"model": "never read"},
    )
    done = train(config, folder / "split", progress=False)
    assert done["metrics"]["test"]["f1_weighted"] > 0.9
    loaded = SentimentClassifier.from_pretrained(folder / "split", precision="float32")
    assert len(moe_layers(loaded.model)) == 2 and loaded.model.config.moe["num_experts_per_tok"] == 2
    assert done["data"]["train_used"] == done["data"]["splits"]["train"]["rows"] + 4


def test_a_divided_teacher_starts_as_the_teacher(teacher):
    folder, told = teacher
    dataset = dataset_from_texts(*labelled_texts(60))
    settings = {"num_experts": 7, "num_experts_per_tok": 7}
    config = TrainConfig(method="moe-split", teacher=str(folder / "run"), method_settings=settings, **told)
    ready = prepare(config, dataset)
    inputs = ready.tokenizer(["a great thing", "the worst"], return_tensors="pt", padding=True)
    assert_close(ready.model.eval()(**inputs).logits, ready.distillation.teacher(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_without_dropout_a_student_in_training_answers_as_its_teacher(teacher):
    folder, told = teacher
    dataset = dataset_from_texts(*labelled_texts(60))
    settings = {"num_experts": 7, "num_experts_per_tok": 7}
    for dropout, alike in ((None, False), (0.0, True)):
        config = TrainConfig(
            method="moe-split", teacher=str(folder / "run"), method_settings=settings, dropout=dropout, **told
        )
        ready = prepare(config, dataset)
        inputs = ready.tokenizer(["a great thing", "the worst"], return_tensors="pt", padding=True)
        ours, theirs = ready.model.train()(**inputs).logits, ready.distillation.teacher(**inputs).logits
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4) == alike


def test_dropout_is_given_where_the_model_has_some(teacher):
    """Experts and the dense model drop at the same places; LoRA's is its own; what is saved keeps the model's."""
    _, told = teacher
    dataset = dataset_from_texts(*labelled_texts(60))

    def rates(method, **settings):
        ready = prepare(TrainConfig(method=method, dropout=0.3, method_settings=settings, **told), dataset)
        assert ready.model.config.get_text_config().hidden_dropout_prob == 0.1
        return sorted({module.p for module in ready.model.modules() if isinstance(module, torch.nn.Dropout)})

    assert rates("full") == [0.3] and rates("moe-plain") == [0.0, 0.3]
    assert rates("lora", lora_dropout=0.2) == [0.2, 0.3]


def test_a_dropout_of_0_stays_and_one_of_attention_alone_is_given():
    attention = torch.nn.Module()
    attention.attention_dropout = 0.1
    model = torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Dropout(0.1), attention)
    import_module("sentimoe.training.prepare").set_dropout(model, 0.3)
    assert (model[0].p, model[1].p, attention.attention_dropout) == (0.0, 0.3, 0.3)


def test_without_a_teacher_the_backbone_is_divided(teacher):
    _, told = teacher
    model = SentimentClassifier(method="moe-split", epochs=1, **{k: v for k, v in told.items() if k != "data"})
    model.fit(*labelled_texts(60))
    assert len(moe_layers(model.model)) == 2


def test_another_student_learns_from_the_teacher_too(teacher):
    folder, told = teacher
    dataset = dataset_from_texts(*labelled_texts(60))
    config = TrainConfig(method="full", teacher=str(folder / "run"), distillation_hidden_weight=0.5, **told)
    ready = prepare(config, dataset)
    assert ready.distillation is not None and not moe_layers(ready.model) and ready.teacher_probs is None
    theirs = copy.deepcopy(ready.distillation.teacher.state_dict())
    assert any(not torch.equal(theirs[name], value) for name, value in ready.model.state_dict().items())


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"teacher": "nowhere"}, "is not the folder of a trained model"),
        ({"teacher": "nowhere", "method": "moe-split"}, "must be the folder of a trained dense model"),
        ({"teacher": ["RUN", "RUN"], "distillation_hidden_weight": 1.0}, "those of one teacher"),
        ({"unlabelled": "tweets"}, "unlabelled='tweets' is not allowed; it must be None without a teacher"),
        ({"teacher": "RUN", "class_weights": True}, "off with a teacher"),
        ({"teacher": "RUN", "distillation_weight": 1.5}, "between 0 and 1"),
        ({"teacher": "RUN", "distillation_token_dropout": 0.2}, "needs a teacher that reads what is left"),
        ({"teacher": "RUN", "distillation_token_dropout": 1.0}, "0 or more and below 1"),
        ({"dropout": 1.0}, "0 or more and below 1"),
    ],
)
def test_mistakes_with_teachers(teacher, told, reason):
    folder, common = teacher
    run = str(folder / "run")
    told = {"method": "full"} | {key: {"RUN": run}.get(str(value), value) for key, value in told.items()}
    told["teacher"] = [run, run] if isinstance(told.get("teacher"), list) else told.get("teacher")
    with pytest.raises(ConfigError, match=reason):
        prepare(TrainConfig(**common, **told), dataset_from_texts(*labelled_texts(60)))


def test_a_teacher_with_another_vocabulary_is_refused(teacher, tmp_path):
    folder, common = teacher
    copied = shutil.copytree(folder / "run", tmp_path / "run")
    (copied / MANIFEST).unlink()
    text = (copied / "tokenizer.json").read_text(encoding="utf-8")
    (copied / "tokenizer.json").write_text(text.replace('"great":', '"grate":'), encoding="utf-8")
    with pytest.raises(ConfigError, match="different vocabularies"):
        config = TrainConfig(method="full", teacher=str(copied), distillation_hidden_weight=1.0, **common)
        prepare(config, dataset_from_texts(*labelled_texts(60)))


def test_answers_of_several_teachers_are_their_softened_mean(teacher, tmp_path):
    """Asked once for every text; one of them has another vocabulary and experts."""
    folder, told = teacher
    more = SentimentClassifier(method="moe-gated", epochs=1, seed=1, **{k: v for k, v in told.items() if k != "data"})
    rows, labels = labelled_texts(60)
    more.fit(rows, labels)
    more.tokenizer.add_tokens(["anewword"])
    more.model.resize_token_embeddings(len(more.tokenizer))
    more.save_pretrained(tmp_path / "more")
    both = [str(folder / "run"), str(tmp_path / "more")]
    dataset = dataset_from_texts(rows, labels)
    ready = prepare(TrainConfig(method="full", teacher=both, distillation_temperature=3.0, **told), dataset)
    assert ready.distillation.teacher is None and ready.config.distillation_hidden_weight == 0
    expected = 0
    for each in both:
        classifier = SentimentClassifier.from_pretrained(each, precision="float32")
        probabilities = torch.tensor(classifier.predict_proba(ready.train.texts), dtype=torch.float64)
        expected = expected + (probabilities.log() / 3).softmax(-1) / 2
    assert_close(torch.tensor(ready.teacher_probs), expected, rtol=1e-5, atol=1e-7)


def test_answers_reach_the_loss(teacher):
    """With the teachers' answers alone, a student agrees with them and not with the labels, which are wrong."""
    folder, told = teacher
    rows, labels = labelled_texts(320)
    wrong = [{"negative": "positive", "positive": "negative"}[label] for label in labels]
    pd.DataFrame({"text": rows, "label": wrong}).to_csv(folder / "wrong.csv", index=False)
    config = TrainConfig(
        method="full", teacher=str(folder / "run"), distillation_weight=1.0, epochs=6, learning_rate=5e-3, patience=6,
        **told | {"data": str(folder / "wrong.csv")},
    )  # fmt: skip
    done = train(config, folder / "student", progress=False)
    assert done["metrics"]["test"]["accuracy"] < 0.4  # validation, whose labels are wrong too, chose the epoch


def test_answers_in_the_loss_are_their_formula():
    student = dense("bert-mean")
    given = batch(texts(9, 5)) | {"labels": torch.tensor([1, -100])}
    wanted = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    loss, outputs = loss_of(Distillation(0.4, 2.0), student, given | {"teacher_probs": wanted})
    q = (outputs.logits / 2).softmax(-1)
    answers = 4 * (wanted * (wanted / q).log()).sum(-1).mean()
    task = F.cross_entropy(outputs.logits[:1], torch.tensor([1]))
    assert_close(loss, 0.6 * task + 0.4 * answers, rtol=1e-4, atol=1e-5)


def test_a_division_looks_at_texts_from_everywhere():
    """A file may be sorted by label, and the division reads only the first tokens that it is given."""
    shuffled = import_module("sentimoe.training.prepare")._shuffled
    texts = [str(number) for number in range(10_000)]
    first = [int(text) for text in shuffled(texts, 0)[:50]]
    assert len(shuffled(texts, 0)) == 2048 and max(first) > 8000 and min(first) < 2000


def test_a_teacher_of_other_labels_is_refused(teacher):
    folder, common = teacher
    rows, labels = labelled_texts(60)
    dataset = dataset_from_texts(rows, [label.upper() for label in labels])
    with pytest.raises(ConfigError, match="they must agree"):
        prepare(TrainConfig(method="full", teacher=str(folder / "run"), **common), dataset)


def test_unlabelled_texts_are_new_and_stand_once(tmp_path):
    beside = dataset_from_texts(*labelled_texts(60))
    known = beside.splits["validation"].texts[0]
    pd.DataFrame({"text": ["New one", "new  ONE", "", known.upper(), "another"]}).to_csv(tmp_path / "m.csv")
    assert load_unlabelled(str(tmp_path / "m.csv"), beside) == ["New one", "another"]
    assert len(load_unlabelled("tweets", beside)) > 20_000
