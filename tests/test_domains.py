"""Domains that are added later: what they answer, that nothing else moves, and that they can be taken away."""

import errno
import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from backbone import labelled_texts, train_classifier
from command import invoke
from huggingface_hub.utils import filter_repo_objects
from tiny import D, batch, dense, texts

from sentimoe import MoEConfig, SentimentClassifier, upcycle
from sentimoe.bench import speed
from sentimoe.data import FileFormat, dataset_from_texts, load_dataset
from sentimoe.domains import OldTexts, Recipe, add, add_domain, router
from sentimoe.domains.fitting import Examples, train_top
from sentimoe.domains.old import what_is_old
from sentimoe.domains.receipt import check_moved, effect_on_unmoved, identical
from sentimoe.domains.router import fit_router
from sentimoe.domains.states import Trunk
from sentimoe.domains.top import calibrated, with_labels_of
from sentimoe.domains.updates import KINDS, start, updates_of
from sentimoe.errors import ConfigError, DataError, ModelFolderError, NotSupportedError, StoppedError
from sentimoe.evaluation import Threshold
from sentimoe.inference import domain_names, remove_domain
from sentimoe.inference.conversion import padded_probe
from sentimoe.inference.domain_folder import about_domain, kept_vectors, load_routed, save_kept
from sentimoe.inference.routed import Domain, RoutedClassifier, changed_weights, routed
from sentimoe.inference.segments import Segment
from sentimoe.model_folder import SEEN, THRESHOLD
from sentimoe.model_folder.finding import WANTED
from sentimoe.upcycle import head_modules, mean_over_real_tokens
from sentimoe_cli.domains import told

WORDS = {"late": ["delayed", "waited"], "lost": ["luggage", "suitcase"], "good": ["smooth", "quick"]}
QUICK = {"layers": 1, "epochs": 12, "learning_rate": 1.5e-3, "max_moved": 0.1, "precision": "float32"}


def flights(count, prefix="flight"):
    """Texts of another domain with labels of its own, each decided by one word."""
    labels = [list(WORDS)[i % 3] for i in range(count)]
    return [f"{prefix} {i} to paris was {WORDS[label][i // 3 % 2]} again" for i, label in enumerate(labels)], labels


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    return train_classifier(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def added(base, tmp_path_factory):
    """A folder with one domain, and its receipt."""
    folder = tmp_path_factory.mktemp("added") / "model"
    old = OldTexts(*labelled_texts(120))
    dataset = dataset_from_texts(*flights(90))
    return folder, add_domain(base, "airlines", dataset, Recipe(**QUICK), old_texts=old, output=folder)


@pytest.fixture
def copied(added, tmp_path):
    shutil.copytree(added[0], tmp_path / "model")
    return tmp_path / "model"


def test_a_domain_answers_its_own_texts_and_the_base_the_others(base, added):
    folder, receipt = added
    classifier = SentimentClassifier.from_pretrained(folder, precision="float32")
    assert classifier.label_names == ["negative", "positive", "good", "late", "lost"]
    assert classifier.domains == ["base", "airlines"] and not classifier.ordinal
    new, labels = flights(30, "plane")
    old, right = labelled_texts(40)
    found = classifier.engine.predict([*new, *old, " "])
    assert found.domains.tolist() == [1] * 30 + [0] * 40 + [-1] and np.isnan(found.domain_scores[-1])
    assert (found.domain_scores[:-1] > 0.5).all() and found.domain_scores.dtype == np.float32
    assert (classifier.predict([*new, *old]) == [*labels, *right]).mean() > 0.9
    assert (found.probabilities[:30, :2] == 0).all() and (found.probabilities[30:70, 2:] == 0).all()
    np.testing.assert_allclose(found.probabilities[:70].sum(1), 1, rtol=1e-5)
    assert receipt["old_texts"]["share"] == 0 and receipt["old_texts"]["identical"]
    assert receipt["old_texts"]["before"] == receipt["old_texts"]["after"]
    assert receipt["domain"]["found"] == 1 and "before" not in receipt["domain"]
    assert json.loads((folder / "domains/airlines/receipt.json").read_text()) == receipt
    assert classifier.seen_texts.mask([flights(90)[0][0], labelled_texts(120)[0][0]]).all()


def test_old_texts_have_bit_identical_logits(base, added):
    """The receipt: the same texts in the same batches, before and after."""
    plain = SentimentClassifier.from_pretrained(base, precision="float32").engine
    engine = SentimentClassifier.from_pretrained(added[0], precision="float32").engine
    old = labelled_texts(64)[0]
    before, after = (torch.from_numpy(each.logits(each.windows(old))[0]) for each in (plain, engine))
    assert torch.equal(before, after[:, :2])
    mixed = [*old, *flights(64)[0]]
    among = torch.from_numpy(engine.logits(engine.windows(mixed))[0])[:64, :2]
    torch.testing.assert_close(before, among, rtol=0, atol=1e-5)
    assert identical(plain, engine, old) and not identical(plain, engine, mixed)
    assert effect_on_unmoved(plain, engine, mixed, "float32") == {"texts": 64, "identical": True}
    with torch.no_grad():  # another model, which the receipt must not call the same
        engine.model.tops[0].model.get_parameter("classifier.weight").mul_(1.01)
    found = effect_on_unmoved(plain, engine, mixed, "float32")
    with torch.no_grad():
        engine.model.tops[0].model.get_parameter("classifier.weight").div_(1.01)
    assert found == {"texts": 64, "identical": False}


def test_a_long_text_goes_to_one_domain(added):
    """Its windows may look like texts of different domains."""
    engine = SentimentClassifier.from_pretrained(added[0], precision="float32").engine
    old, new = labelled_texts(40)[0], flights(40)[0]
    long = [" ".join([*old[:15], *new[:5]]), " ".join([*new[:15], *old[:5]]), old[0]]
    windows = engine.windows(long)
    alone = engine.answers(replace(windows, owner=list(range(len(windows.owner))))).domains
    assert [set(alone[np.array(windows.owner) == text]) for text in (0, 1)] == [{0, 1}, {0, 1}]
    found = engine.answers(windows)
    assert [set(found.domains[np.array(windows.owner) == text]) for text in (0, 1, 2)] == [{0}, {1}, {0}]
    owner = np.array(windows.owner)
    assert np.isfinite(found.logits[owner == 0][:, :2]).all() and np.isinf(found.logits[owner == 0][:, 2:]).all()
    assert np.isfinite(found.logits[owner == 1][:, 2:]).all() and np.isinf(found.logits[owner == 1][:, :2]).all()


def test_a_long_text_that_would_go_elsewhere_when_cut_proves_nothing(base, added):
    """Kind: its first window goes to the new domain, and the receipt denies that old texts are answered as before."""
    plain = SentimentClassifier.from_pretrained(base, precision="float32").engine
    engine = SentimentClassifier.from_pretrained(added[0], precision="float32").engine
    old, new = labelled_texts(40)[0], flights(40)[0]
    long = " ".join([*new[:8], *old[:32]])
    assert engine.predict([long]).domains.tolist() == [0]
    assert effect_on_unmoved(plain, engine, [long, *old], "float32") == {"texts": 40, "identical": True}


def test_the_trunk_reads_a_text_once_whatever_answers_it(added, monkeypatch):
    engine = SentimentClassifier.from_pretrained(added[0], precision="float32").engine
    read, lengths = engine.model._read, []
    monkeypatch.setattr(
        engine.model, "_read", lambda given: lengths.append(int(given["attention_mask"].sum())) or read(given)
    )
    mixed = [*labelled_texts(20)[0], *flights(20)[0]]
    windows = engine.windows(mixed)
    engine.answers(windows)
    assert sum(lengths) == sum(len(each["input_ids"]) for each in windows.encodings)


def test_one_domain_can_be_fixed(base, added):
    alone = SentimentClassifier.from_pretrained(added[0], precision="float32", domain="airlines")
    assert alone.label_names == ["good", "late", "lost"]
    found = alone.engine.predict(labelled_texts(4)[0])
    assert found.domains.tolist() == [1] * 4 and (found.domain_scores == 1).all()
    plain = SentimentClassifier.from_pretrained(added[0], precision="float32", domain="base")
    assert plain.label_names == ["negative", "positive"] and plain.domains == []
    with pytest.raises(ConfigError, match="no domain 'x'; there are base, airlines"):
        SentimentClassifier.from_pretrained(added[0], domain="x")
    with pytest.raises(ConfigError, match="has no domains"):
        SentimentClassifier.from_pretrained(base, domain="base")


def test_removing_gives_the_folder_before(base, copied, monkeypatch):
    """Domains of both kinds in one folder, as it is where one was added before LoRA became the default."""
    before = hashes(base)
    one = hashes(copied)
    assert {name: one[name] for name in before} == before
    dataset = dataset_from_texts(*flights(60, "a train"))
    with monkeypatch.context() as patch:
        patch.setattr(add, "DEFAULT", "experts")
        add_domain(copied, "trains", dataset, Recipe(**QUICK | {"max_moved": 1.0, "learning_rate": 5e-3}))
    assert [about_domain(copied, name)["kind"] for name in ("airlines", "trains")] == ["lora", "experts"]
    assert domain_names(copied) == ["airlines", "trains"] and {each.of for each in kept_vectors(copied)} == {
        "base",
        "airlines",
        "trains",
    }
    (copied / "domains/.adding-left").mkdir()
    dataset = dataset_from_texts(*flights(60, "a boat"))  # the newest, though first in the alphabet
    add_domain(copied, "aaa", dataset, Recipe(**QUICK | {"max_moved": 1.0, "epochs": 1}))
    assert domain_names(copied) == ["airlines", "trains", "aaa"]
    for name, texts_of in (("airlines", "flight"), ("trains", "a train")):
        known, labels = flights(60, texts_of)
        answers = SentimentClassifier.from_pretrained(copied, domain=name).predict(known)
        assert (answers == labels).mean() > 0.6
    remove_domain(copied, "trains")  # not the last one
    assert domain_names(copied) == ["airlines", "aaa"]
    assert SentimentClassifier.from_pretrained(copied).domains == ["base", "airlines", "aaa"]
    remove_domain(copied, "aaa")
    assert hashes(copied) == one and not (copied / "domains/.adding-left").exists()
    remove_domain(copied, "airlines")
    assert hashes(copied) == before and not (copied / "domains").exists()
    save_kept(copied, np.zeros((2, 32), dtype=np.float32))  # what a killed process leaves
    with pytest.raises(ConfigError, match="has no domain 'airlines', nor any other"):
        remove_domain(copied, "airlines")
    assert hashes(copied) == before


def test_a_damaged_domain_can_be_taken_away(base, copied):
    """Kind: half a file, and neither the model loads nor can the domain be removed."""
    (copied / "domains/airlines/domain.json").write_text("{")
    with pytest.raises(ModelFolderError, match=r"domain\.json"):
        SentimentClassifier.from_pretrained(copied)
    remove_domain(copied, "airlines")
    assert hashes(copied) == hashes(base)


def test_too_many_moved_texts_are_refused_and_nothing_is_left(base, tmp_path, monkeypatch):
    monkeypatch.setattr(router, "MARGIN", 50)  # a router that takes half of what looks like the domain
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    before = hashes(folder)
    old = labelled_texts(120)[0]
    disguised = OldTexts(flights(200)[0] + old)
    dataset = dataset_from_texts(*flights(60, "flight"))
    for output in (None, tmp_path / "other"):
        with pytest.raises(NotSupportedError, match=r"of old texts would go to airlines, more than max_moved=0.0"):
            kept = SentimentClassifier.from_pretrained(folder)
            recipe = Recipe(**QUICK | {"max_moved": 0.01, "epochs": 1})
            add_domain(folder, "airlines", dataset, recipe, old_texts=disguised, output=output)
    assert hashes(folder) == before and not (tmp_path / "other").exists() and kept.domains == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["bert", "bert-mean", "distilbert", "mpnet", "gpt2", "llama", "modernbert"])
def test_every_family_answers_as_a_model_with_the_changed_weights(case, kind):
    """Reference: a copy of the whole model with these weights, text by text."""
    torch.manual_seed(0)
    model = dense(case)
    top = Segment(model, 1, 3)
    start(top, kind)
    with torch.no_grad():
        for parameter in top.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    updates = updates_of(top)
    assert all(any(name.startswith(f"{head}.") for name in updates) for head in head_modules(model))
    rows = texts(9, 5, 2, 7, 3, 8)
    given = batch(rows)
    with torch.no_grad():
        (states,) = Segment(model, 0, 1)(given["input_ids"], given["attention_mask"])
    pooled = mean_over_real_tokens(states, given["attention_mask"])[:, 0]
    weight = np.eye(D, dtype=np.float32)[0]
    domain = Domain("new", ["bad", "fair", "good"], "str", 1, weight, -float(pooled.sort().values[2:4].mean()), updates)
    with torch.no_grad():
        _, trained = top.eval()(states, given["attention_mask"])
        _, stored = RoutedClassifier(model, [domain], torch.float32).tops[1](states, given["attention_mask"])
    torch.testing.assert_close(stored, trained, rtol=0.02, atol=0.02)  # 16 bits
    model_with = dense(case)
    model_with.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, value in changed_weights(model, updates).items():
            model_with.get_parameter(name).copy_(value)
    whole = RoutedClassifier(model, [domain], torch.float32)
    found = whole.answer(
        lambda places: batch([rows[place] for place in places]), [len(row) for row in rows], range(6), 1000
    )
    assert found.domains.sum() == 3
    by_base = RoutedClassifier(model, [domain], torch.float32, "base")
    asked = []
    same = by_base.answer(
        lambda places: asked.append(places) or batch([rows[place] for place in places]),
        [9, 5, 2, 7, 3, 8],
        range(6),
        1000,
    ).logits
    with torch.no_grad():
        for places in asked:  # the same batch, bit for bit
            expected = model(**batch([rows[place] for place in places])).logits
            assert torch.equal(torch.from_numpy(same[places]), expected)
        for row, going, logits in zip(rows, found.domains, found.logits, strict=True):
            expected = (model_with if going else model)(**batch([row])).logits[0]
            torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
    assert whole.tops[1].model.get_parameter(_first_frozen(whole.tops[1], updates)) is model.get_parameter(
        _first_frozen(whole.tops[1], updates)
    )


def _first_frozen(top, updates):
    changed = {name.removesuffix(".lora_A").removesuffix(".lora_B") for name in updates}
    return next(name for name, _ in top.model.named_parameters() if name not in changed)


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_keeps_the_best_epoch(kind):
    model = dense("bert-mean")
    generator = torch.Generator().manual_seed(1)
    states = [torch.randn(6, D, generator=generator) for _ in range(80)]
    labels = [int(each.mean() > 0) for each in states]
    examples = Examples(states, labels)

    def loss(updates):
        domain = Domain("new", ["bad", "fair", "good"], "str", 1, np.zeros(D), 1.0, updates)
        top = RoutedClassifier(model, [domain], torch.float32).tops[1]
        with torch.no_grad():
            _, logits = top(torch.stack(states), torch.ones(80, 6, dtype=torch.long))
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels)))

    how = {"rate": 1e-3, "seed": 0, "dtype": torch.float32}
    before = loss({})
    after = loss(train_top(Segment(model, 1, 3), kind, examples, examples, epochs=6, **how))
    assert after < 0.6 * before
    wild = {**how, "rate": 3.0}
    kept = loss(train_top(Segment(model, 1, 3), kind, examples, examples, epochs=2, **wild))
    assert kept <= before + 1e-3, "an epoch that is worse than none must not be kept"
    again = loss(train_top(Segment(model, 1, 3), kind, examples, examples, epochs=6, **how))
    assert after == again


def test_the_newest_domain_that_takes_a_text_gets_it():
    scores = np.array([[-1.0, -2.0, -0.1], [3.0, 1.0, 0.2], [3.0, 1.0, -0.2], [3.0, -1.0, 0.0]])
    assert routed(scores).tolist() == [0, 3, 2, 1]


def test_the_router_takes_no_more_of_any_old_part_than_allowed():
    generator = np.random.default_rng(0)
    far, near = generator.normal(size=(400, 8)) - 2, generator.normal(size=(100, 8)) + 0.5
    new = generator.normal(size=(200, 8)) + 1
    fitted = fit_router([far, near], new, 0.05)
    takes = [float((each @ fitted.weight + fitted.bias > 0).mean()) for each in (far, near, new)]
    assert takes[0] == 0 and takes[1] <= 0.05 and 0.02 < fitted.moved <= 0.04 and 0.05 < takes[2] < 0.6
    free = fit_router([far, near], new, 1.0)
    assert free.bias > fitted.bias and free.found > fitted.found
    with pytest.raises(DataError, match="a domain needs 20 texts"):
        fit_router([far], new[:19], 0.05)


def test_each_share_of_moved_texts_is_held_to_the_limit():
    def receipt(base, airlines, old):
        kept = {"base": {"moved": base}, "airlines": {"moved": airlines}}
        return {"name": "trains", "max_moved": 0.05, "kept": kept, "old_texts": {"share": old}}

    check_moved(receipt(0.05, 0.05, 0.05))
    for place in range(3):
        shares = [0.06 if index == place else 0.0 for index in range(3)]
        with pytest.raises(
            NotSupportedError, match=r"6\.0% of old texts would go to trains, more than max_moved=0\.05"
        ):
            check_moved(receipt(*shares))


def test_states_that_do_not_fit_are_refused_before_they_are_made(base, monkeypatch):
    """Kind: the system ends the process without a word."""
    classifier = SentimentClassifier.from_pretrained(base, precision="float32")
    trunk = Trunk(classifier.model, classifier.tokenizer, 1, "float32")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=50_000))
    texts = flights(90)[0]
    assert len(trunk.read(texts).pooled) == 90
    with pytest.raises(
        DataError, match=r"the states of 90 texts with [\d,]+ tokens take 0\.\d GB, and 0\.0 GB are free"
    ):
        trunk.read(texts, states=True)


def test_a_domain_is_divided_by_its_temperature(base, added):
    plain = SentimentClassifier.from_pretrained(base, precision="float32")
    (domain,) = load_routed(added[0], plain.model, torch.float32, "airlines").domains
    texts, labels = flights(300)
    wrong = ["good" if i % 4 == 0 else label for i, label in enumerate(labels)]  # so that it is too sure of itself
    dataset = dataset_from_texts(texts, wrong)
    found, temperature = calibrated(domain, plain.model, plain.engine, dataset, torch.float32)
    before, after = (
        plain.engine.with_model(RoutedClassifier(plain.model, [each], torch.float32, "airlines"))
        for each in (domain, found)
    )
    windows = before.windows(texts[:40])
    np.testing.assert_allclose(after.logits(windows)[0] * temperature, before.logits(windows)[0], atol=1e-4)
    assert temperature > 1.1


def test_unlabelled_texts_teach_the_router(base, tmp_path):
    """Without them it finds few of the texts that look otherwise."""
    dataset, told = dataset_from_texts(*flights(60)), {"old_texts": OldTexts(labelled_texts(120)[0])}
    other = [f"my voyage {i} by sea, a cabin and the captain" for i in range(80)]
    recipe = Recipe(**QUICK | {"epochs": 1})
    for name, more in (("without", []), ("with", other)):
        add_domain(base, "travel", dataset, recipe, unlabelled=more, output=tmp_path / name, **told)
    vectors = [
        len({each.of: each.vectors for each in kept_vectors(tmp_path / name)}["travel"]) for name in ("without", "with")
    ]
    assert vectors[1] - vectors[0] == 80
    weights = [SentimentClassifier.from_pretrained(tmp_path / name).engine.model.weight for name in ("without", "with")]
    assert not np.allclose(*weights)


def test_a_full_disk_leaves_no_half_of_a_domain(copied, monkeypatch):
    before = hashes(copied)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sentimoe.inference.domain_folder.write_json", full)
    with pytest.raises(StoppedError):
        add_domain(
            copied, "trains", dataset_from_texts(*flights(60)), Recipe(**QUICK | {"max_moved": 1.0, "epochs": 1})
        )
    assert hashes(copied) == before


def test_a_domain_that_another_process_added_meanwhile_is_not_passed_over(added, copied):
    """Kind: two at once, whose routers do not know of each other."""

    def meanwhile(line):
        if line.startswith("the router finds"):
            shutil.copytree(copied / "domains" / "airlines", copied / "domains" / "ships", dirs_exist_ok=True)

    with pytest.raises(ConfigError, match=r"changed meanwhile .*before: airlines; now: airlines, ships"):
        add_domain(
            copied, "trains", dataset_from_texts(*flights(90)), Recipe(**QUICK | {"max_moved": 1.0}), progress=meanwhile
        )
    assert not (copied / "domains" / "trains").exists()


def test_weights_that_another_process_wrote_meanwhile_get_no_domain_of_the_old_ones(copied):
    weights = copied / "model.safetensors"

    def meanwhile(line):
        if line.startswith("the router finds"):
            weights.write_bytes(weights.read_bytes() + b" ")

    recipe = Recipe(**QUICK | {"max_moved": 1.0, "epochs": 1})
    with pytest.raises(ConfigError, match="changed meanwhile, and the domain fits the old ones; run it again"):
        add_domain(copied, "trains", dataset_from_texts(*flights(90)), recipe, progress=meanwhile)
    assert not (copied / "domains" / "trains").exists()


def test_folders_that_no_domain_wrote_are_left_alone(base, tmp_path):
    """Kind: a folder of the user's that is called domains."""
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "model/domains/example.org").mkdir(parents=True)
    (tmp_path / "model/domains/example.org/zone.txt").write_text("x")
    before = hashes(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"has no domain 'example\.org', nor any other"):
        remove_domain(tmp_path / "model", "example.org")
    assert hashes(tmp_path / "model") == before
    assert SentimentClassifier.from_pretrained(tmp_path / "model").domains == []


def test_a_foreign_or_damaged_domain_is_refused(copied):
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelFolderError):
        SentimentClassifier.from_pretrained(copied)
    (copied / "sentimoe_manifest.json").unlink()
    with pytest.raises(ModelFolderError, match="'airlines' was added to other weights"):
        SentimentClassifier.from_pretrained(copied)
    weights.write_bytes(whole)
    router = copied / "domains/airlines/router.safetensors"
    kept = router.read_bytes()
    router.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(ModelFolderError, match="not the file that was saved"):
        SentimentClassifier.from_pretrained(copied)
    router.unlink()
    with pytest.raises(ModelFolderError, match="lacks"):
        SentimentClassifier.from_pretrained(copied, verify=False)


def test_what_a_domain_cannot_be_added_to(base, added, tmp_path):
    dataset = dataset_from_texts(*flights(60))
    for name in ("base", "base.safetensors", "Air lines", "../x"):
        with pytest.raises(ConfigError, match="must begin with a lower-case letter"):
            add_domain(base, name, dataset, Recipe(**QUICK))
    with pytest.raises(ConfigError, match="has a domain 'airlines' already"):
        add_domain(added[0], "airlines", dataset, Recipe(**QUICK))
    with pytest.raises(ConfigError, match="give --old-texts"):
        add_domain(base, "trains", dataset, Recipe(**QUICK))
    with pytest.raises(ConfigError, match="must be fewer than the 2 layers"):
        add_domain(base, "trains", dataset, Recipe(**QUICK | {"layers": 2}))
    with pytest.raises(ConfigError, match="is not empty"):
        add_domain(base, "trains", dataset, Recipe(**QUICK), output=added[0])
    from sentimoe.methods import save_adapted

    loaded = SentimentClassifier.from_pretrained(base)
    mixture = upcycle(loaded.model, MoEConfig(num_experts=2, num_experts_per_tok=1))
    save_adapted(mixture, loaded.tokenizer, tmp_path / "sparse")
    with pytest.raises(ConfigError, match="has experts for each token; a domain is added to a dense classifier"):
        add_domain(tmp_path / "sparse", "trains", dataset, Recipe(**QUICK))
    SentimentClassifier.from_pretrained(base).export(tmp_path / "exported")
    with pytest.raises(ConfigError, match="is exported, compressed or an adapter; add the domain to the run folder"):
        add_domain(tmp_path / "exported", "trains", dataset, Recipe(**QUICK))


def test_in_python(base, tmp_path):
    """`add_domain` and `remove_domain` of the classifier; labels of the model keep its head."""
    shutil.copytree(base, tmp_path / "model")
    classifier = SentimentClassifier.from_pretrained(tmp_path / "model", precision="float32")
    new = [f"hotel {i} was {'clean' if i % 2 else 'dirty'}" for i in range(60)]
    labels = ["positive" if i % 2 else "negative" for i in range(60)]
    old = labelled_texts(120)
    receipt = classifier.add_domain("hotels", new, labels, old_texts=old[0], old_labels=old[1], **QUICK)
    assert classifier.domains == ["base", "hotels"] and classifier.label_names == ["negative", "positive"]
    assert receipt["domain"]["before"]["accuracy"] < receipt["domain"]["routed"]["accuracy"]
    for purpose, call in {
        "save": lambda: classifier.save_pretrained(tmp_path / "x"),
        "export": lambda: classifier.export(tmp_path / "x"),
        "compress": lambda: classifier.compress(new, tmp_path / "x"),
    }.items():
        with pytest.raises(ConfigError, match=f"nothing to {purpose}: it has added domains; remove them first"):
            call()
    classifier.remove_domain("hotels")
    assert classifier.domains == [] and hashes(tmp_path / "model") == hashes(base)
    with pytest.raises(ConfigError, match="save_pretrained"):
        SentimentClassifier().add_domain("hotels", new, labels)


def test_the_commands(base, added, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(base, model)
    new, labels = flights(90)
    old, right = labelled_texts(120)
    pd.DataFrame({"text": new, "label": labels}).to_csv(tmp_path / "airlines.csv", index=False)
    pd.DataFrame({"text": old, "label": right}).to_csv(tmp_path / "old.csv", index=False)
    quick = ["--layers", 1, "--epochs", 12, "--learning-rate", 1.5e-3, "--max-moved", 0.1, "--precision", "float32"]
    given = ["add-domain", model, "--name", "airlines", "--data", tmp_path / "airlines.csv"]
    before = hashes(model)
    result = invoke(*given, "--old-texts", tmp_path / "old.csv", *quick)
    assert result.exit_code == 0, result.stderr
    assert "test texts of airlines: the router finds 100.0% of them" in result.stdout
    assert "60 old texts, 0 (0.00%) go to airlines now; the others are answered bit for bit as before" in result.stdout
    assert "weighted F1 of the old texts: 1.0000, before 1.0000" in result.stdout
    assert "an old text that goes to airlines gets one of its labels; for fewer of them, lower" in result.stdout
    one = json.loads(invoke("predict", "--model", model, new[0]).stdout)
    assert (one["label"], one["domain"]) == ("late", "airlines") and one["domain_score"] > 0.5
    fixed = json.loads(invoke("predict", "--model", model, "--domain", "base", new[0]).stdout)
    assert fixed["label"] in ("negative", "positive") and "domain" not in fixed
    for output in (tmp_path / "out.csv", tmp_path / "out.xlsx"):
        given = ["--input", tmp_path / "airlines.csv", "--output", output, "--probabilities"]
        result = invoke("predict", "--model", model, *given)
        assert result.exit_code == 0, result.stderr
    table = pd.read_csv(tmp_path / "out.csv")
    assert (table["domain"] == "airlines").all() and {"prob_late", "prob_negative"} <= set(table.columns)
    output = ["--output", tmp_path / "fixed.csv", "--domain", "base"]
    invoke("predict", "--model", model, "--input", tmp_path / "airlines.csv", *output)
    assert set(pd.read_csv(tmp_path / "fixed.csv")["label"]) <= {"negative", "positive"}
    scores = json.loads(invoke("evaluate", model, "--data", tmp_path / "airlines.csv", "--json").stdout)
    assert scores["domains"] == {"base": 0, "airlines": 90} and scores["accuracy"] > 0.9
    told = json.loads(invoke("info", model, "--json").stdout)
    assert told["domains"]["airlines"]["kind"] == "lora"
    assert told["domains"]["airlines"]["labels"] == ["good", "late", "lost"] and told["labels"] == [
        "negative",
        "positive",
    ]
    for command in (
        ["export", model, tmp_path / "x"],
        ["compress", model, "--texts", tmp_path / "old.csv", "--output", tmp_path / "x"],
        ["explain", model, "--data", tmp_path / "old.csv", "--output", tmp_path / "x"],
        ["predict", "--model", model, "--backend", "openvino", "a"],
        ["serve", model, "--port", "0"],
    ):
        assert "domains" in invoke(*command).error
    assert invoke("remove-domain", model, "--name", "airlines").exit_code == 0
    assert hashes(model) == before


def test_old_texts_come_from_the_data_of_the_run(base, tmp_path):
    """Where the config of the run names data that are still there, `--old-texts` is not needed.

    Rows that the file has got since do not count: the model does not know them. It is read as it was for training.
    """
    shutil.copytree(base, tmp_path / "model")
    rows = [*zip(*labelled_texts(120), strict=True), *((f"a new row, number {i}", "positive") for i in range(40))]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "old.csv", index=False, sep="|")
    (tmp_path / "model/config.yaml").write_text(f"data: {tmp_path / 'old.csv'}\ndelimiter: '|'\n")
    lines = []
    receipt = add_domain(
        tmp_path / "model",
        "airlines",
        dataset_from_texts(*flights(60)),
        Recipe(**QUICK | {"epochs": 1}),
        progress=lines.append,
    )
    read = load_dataset(str(tmp_path / "old.csv"), file_format=FileFormat(delimiter="|")).splits["train"].texts
    trained_on = sum("new row" not in text for text in read)
    assert 60 < trained_on < len(read) and f"from {trained_on} training texts of the model" in lines[0]
    (kept,) = [each for each in kept_vectors(tmp_path / "model") if each.of == "base"]
    assert kept.vectors.shape == (trained_on, 32)
    assert receipt["training_texts"] == {"texts": trained_on, "identical": True}
    assert f"{trained_on} training texts of the model that do not go to airlines are answered bit for bit" in str(
        told(receipt, tmp_path / "model")
    )
    shutil.rmtree(tmp_path / "model/domains")
    (tmp_path / "old.csv").write_text(
        "text|label\n" + "".join(f"other text {i}|{'positive' if i % 2 else 'negative'}\n" for i in range(60))
    )
    with pytest.raises(ConfigError, match=r"old\.csv has other texts now"):
        add_domain(tmp_path / "model", "airlines", dataset_from_texts(*flights(60)), Recipe(**QUICK))


def test_what_others_use_too_is_not_changed(base, monkeypatch, tmp_path):
    """Kind: a ready model, which lies where the package is installed, gets a domain for all who use it."""
    classifier = SentimentClassifier.from_pretrained(base, precision="float32")
    classifier._is_own = False  # as of a name or a hub id
    with pytest.raises(ConfigError, match="which other programs use too; copy it"):
        classifier.add_domain("airlines", *flights(90))
    with pytest.raises(ConfigError, match="remove_domain would change"):
        classifier.remove_domain("airlines")
    assert not domain_names(base)


def test_a_threshold_that_was_found_with_other_domains_is_told(copied, caplog):
    Threshold(0.5, 0.9, 0.95, 1.0, 0.9, 1000, False).save(copied, "x", "0")
    assert Threshold.load(copied).value == 0.5 and not caplog.text
    remove_domain(copied, "airlines")
    assert Threshold.load(copied).value == 0.5 and "was found with other domains" in caplog.text


def test_domains_that_begin_after_unlike_numbers_of_layers_are_refused(copied):
    """Kind: another copy's domain is put in, and layers of it are dropped without a word."""
    shutil.copytree(copied / "domains/airlines", copied / "domains/trains")
    about = json.loads((copied / "domains/trains/domain.json").read_text())
    (copied / "domains/trains/domain.json").write_text(json.dumps(about | {"cut": 2, "number": 2}))
    with pytest.raises(ModelFolderError, match="begin after unlike numbers of layers"):
        SentimentClassifier.from_pretrained(copied, verify=False)


def test_texts_of_a_base_that_nobody_knows_stay_unknown(copied):
    (copied / SEEN).unlink()
    assert SentimentClassifier.from_pretrained(copied, verify=False).seen_texts is None


def test_a_domain_that_makes_its_texts_worse_is_told(added):
    receipt = json.loads(json.dumps(added[1]))
    receipt["domain"]["before"] = {"accuracy": 2.0}
    lines = "\n".join(told(receipt, Path("runs/mine")))
    assert "better before; remove it: sentimoe remove-domain runs/mine --name airlines" in lines
    assert "all domains together take 0.00%" in lines and "gets one of its labels" not in lines


def test_threads_get_their_own_answers(added):
    """Kind: the states of a call in the segment, where the next call of another thread finds them."""
    classifier = SentimentClassifier.from_pretrained(added[0], precision="float32")
    (new, _), (old, _) = flights(120, "plane"), labelled_texts(120)
    parts = [[*new[start : start + 10], *old[start : start + 10]] for start in range(0, 120, 10)]
    expected = [classifier.predict_proba(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, alone in zip(pool.map(classifier.predict_proba, parts), expected, strict=True):
                np.testing.assert_array_equal(found, alone)


def test_a_probe_lies_where_the_model_does():
    """Kind: a model with domains on a GPU cannot be loaded, and no test has one."""
    assert {each.device.type for each in padded_probe(dense("bert").to("meta")).values()} == {"meta"}


def test_vectors_that_are_left_over_are_not_believed(base, copied):
    """Kind: those of another number of layers, by which any domain tells its texts from all others."""
    shutil.rmtree(copied / "domains" / "airlines")
    assert kept_vectors(copied) and not domain_names(copied)
    classifier = SentimentClassifier.from_pretrained(base, precision="float32")
    trunk = Trunk(classifier.model, classifier.tokenizer, 1, "float32")
    assert "the router learns what is old from" in what_is_old(copied, trunk, OldTexts(labelled_texts(120)[0]), 0).note


def test_integers_stay_integers_where_the_domain_has_no_other_labels(base, monkeypatch, tmp_path):
    numbers = SimpleNamespace(config=SimpleNamespace(num_labels=2, id2label={0: "1", 1: "2"}, label_type="int"))
    dataset = dataset_from_texts([f"text {i}" for i in range(40)], ["1", "2"] * 20)
    assert dataset.label_type == "str" and with_labels_of(dataset, numbers).label_type == "int"
    lines = []
    monkeypatch.setattr("sentimoe.domains.add.label_type", lambda config: "int")
    old = OldTexts(labelled_texts(120)[0])
    flown = dataset_from_texts(*flights(90))
    add_domain(base, "airlines", flown, Recipe(**QUICK), old_texts=old, output=tmp_path / "x", progress=lines.append)
    assert any("has integers as labels, and airlines has others" in line for line in lines)


def test_old_labels_that_the_model_lacks_are_refused_before_training(base, tmp_path):
    old = OldTexts(labelled_texts(40)[0], ["Positive", "negative"] * 20)
    with pytest.raises(DataError, match="the old texts have the labels Positive, and the model answers negative, pos"):
        add_domain(base, "x", dataset_from_texts(*flights(90)), Recipe(**QUICK), old_texts=old, output=tmp_path / "x")


def test_a_threshold_holds_for_those_that_answered_when_it_was_found(base, copied, tmp_path, caplog):
    Threshold(0.5, 0.9, 0.95, 1.0, 0.9, 1000, False).save(copied, "x", "0")
    Threshold.load(copied, "airlines")
    assert caplog.text.count("was found with other domains, so its guarantee does not hold") == 1
    manifest = copied / "domains/airlines/sentimoe_manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b"a", b"b", 1))  # as of a domain that was added anew, under the same name
    Threshold.load(copied)
    assert caplog.text.count("was found with other domains, so its guarantee does not hold") == 2
    manifest.write_bytes(whole)
    alone = SentimentClassifier.from_pretrained(copied, domain="base")
    alone.save_pretrained(tmp_path / "without")
    assert not (tmp_path / "without" / THRESHOLD).exists()
    caplog.clear()
    Threshold(0.5, 0.9, 0.95, 1.0, 0.9, 1000, False).save(base, "x", "0")  # before there were domains
    shutil.move(base / THRESHOLD, copied / THRESHOLD)
    assert Threshold.load(copied, "base").value == 0.5 and not caplog.text
    alone.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / THRESHOLD).read_bytes() == (copied / THRESHOLD).read_bytes()


def test_the_hub_gives_the_lists_of_domains_too():
    found = filter_repo_objects([f"domains/airlines/{SEEN}", "onnx/model.onnx"], allow_patterns=list(WANTED))
    assert list(found) == [f"domains/airlines/{SEEN}"]


def test_a_benchmark_measures_the_model_without_its_domains(added):
    assert speed.load(added[0], "torch").label_names == ["negative", "positive"]
