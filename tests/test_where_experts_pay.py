"""The studies of where experts pay: what students are taught, how they are compared, routers that read whole texts."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from backbone import write_backbone
from tiny import sparse

from experiments import added_domains, added_rivals, added_steps, one_trunk, students_summary
from experiments import many_texts as many
from experiments.domains import ADDED, LEFT_OUT, route_texts, write_domains
from experiments.gain_picture import gain_picture
from experiments.many_texts import Cell, Study, divergences, taught
from experiments.render import templates
from experiments.students_summary import beside_ready, gain, many_texts, verdicts
from experiments.tables import Stored, data_rows
from experiments.where_experts_pay import MODEL, domains, left_out, not_run, paid
from sentimoe.data import dataset_from_texts
from sentimoe.domains.updates import LowRank
from sentimoe.errors import ConfigError
from sentimoe.records import read_json, write_json
from sentimoe.training import TrainConfig, fit, prepare

NOTHING = {"many": many_texts(Path("nowhere")), "domains": [], "left_out": None, "trunk": None, "added": None}
NOTHING |= {"ready": None, "label_names": ["anger", "joy", "optimism", "sadness"]}


def shown(**found):
    """The page that shows this and nothing else."""
    values = NOTHING | found
    values |= {"drawn": False, "paid": paid(values), "not_run": not_run(values)}
    return templates().get_template("where-experts-pay.md.jinja").render(values)


def test_the_divergence_is_that_of_scipy_and_zero_for_the_teacher_itself():
    from scipy.stats import entropy

    generator = np.random.default_rng(0)
    teacher, student = (generator.dirichlet([1.0, 1.0, 1.0], size=5) for _ in range(2))
    assert np.allclose(divergences(teacher, student), entropy(teacher, student, axis=1))
    assert np.allclose(divergences(teacher, teacher), 0)


def test_a_student_learns_the_answers_alone(tmp_path):
    dataset = dataset_from_texts([f"text {number}" for number in range(40)], ["good", "bad"] * 20)
    config = TrainConfig(
        model=write_backbone(tmp_path / "backbone"), method="full", max_length=16, precision="float32", epochs=6,
        batch_size=8, patience=0, head_init="random", learning_rate=5e-3,
    )  # fmt: skip
    texts = [f"text {number}" for number in range(30)]
    answers = np.tile([[0.9, 0.1]], (30, 1))  # whatever the labels say
    ready = taught(prepare(config, dataset), texts, answers)
    fit(ready, tmp_path / "run")
    encoded = ready.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = ready.model(**encoded).logits.softmax(-1)[:, 0]
    assert (found - 0.9).abs().max() < 0.1


def test_a_gain_counts_only_the_seeds_that_both_have():
    dense = {0: {"kl": np.full(50, 0.3)}, 1: {"kl": np.full(50, 0.4)}}
    other = {1: {"kl": np.full(50, 0.1)}, 2: {"kl": np.full(50, 9.0)}}
    found = gain(dense, other)
    assert found is not None and found["seeds"] == 1
    assert found["difference"] == pytest.approx(0.3) and found["interval"] == pytest.approx([0.3, 0.3])
    assert gain(dense, {7: other[1]}) is None


def test_the_rate_is_the_one_that_came_closest_on_all_seeds(tmp_path):
    study = Study(tmp_path, tmp_path / "work", tmp_path, print)
    for factor, scores in {1.0: (0.30, 0.30), 2.0: (0.10, 0.40), 4.0: (0.28, 0.28)}.items():
        for seed, score in enumerate(scores):
            path = study.path(Cell("dense", 20_000, seed, factor))
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"choice": {"kl": score}, "held_out": {"kl": score + 1}})
    assert study.rate_factor(Cell("dense-longer", 3_000, 2)) == 2.0
    told = many_texts(tmp_path)
    assert told["held_out"] == [{"row": "dense", "kl": pytest.approx(1.25)}]


def test_students_of_another_data_set_are_no_students_of_this_one(tmp_path):
    """Kind: one key for both, and a gain that is the difference of other texts under another teacher."""
    (tmp_path / "students").mkdir()
    record = {"size": 3000, "seed": 0, "learning_rate": 1e-4, "gflops_per_text": 1, "parameters": 9}
    record |= {"epochs": 2, "batch_size": 32, "hardware": {"processor": "one"}}
    record |= {"held_out": {"kl": 0.1}, "test": {"f1_weighted": 0.5}, "validation": {"f1_weighted": 0.5}}
    for data, row, kl in (("sst5", "dense", 9.0), ("tweeteval-emotion", "dense", 0.3), ("sst5", "gated-2-of-4", 9.0)):
        path = tmp_path / "students" / f"{data}__{row}__n3000__s0.json"
        write_json(path, record | {"data": data, "row": row})
        np.savez(path.with_suffix(".npz"), kl=np.full(9, kl), predictions=np.zeros(9), labels=np.zeros(9))
    (row,) = many_texts(tmp_path)["rows"]
    assert row["row"] == "dense"
    again = tmp_path / "students" / "tweeteval-emotion__dense__n3000__s1.json"
    write_json(again, record | {"seed": 1, "data": "tweeteval-emotion", "row": "dense", "hardware": {"gpu": "H100"}})
    np.savez(again.with_suffix(".npz"), kl=np.full(9, 0.3), predictions=np.zeros(9), labels=np.zeros(9))
    with pytest.raises(ConfigError, match="the seeds of dense on 3,000 texts were trained unlike each other"):
        many_texts(tmp_path)
    better = {0: {"kl": np.zeros(9), "predictions": np.zeros(9, dtype=int), "labels": np.zeros(9, dtype=int)}}
    worse = {0: {"kl": np.zeros(9), "predictions": np.ones(9, dtype=int), "labels": None}}
    assert gain(worse, better)["f1"]["difference"] == 1


def test_experts_pay_by_both_intervals_and_the_corrected_t_test():
    def row(name, size, *less):
        keys = ("interval", "p_value", "seeds")
        told = [None if each is None else dict(zip(keys, each, strict=True)) for each in less]
        return {"row": name, "size": size, "less": dict(zip(("dense", "dense-longer"), told, strict=False))}

    above, below = [0.001, 0.002], [-0.001, 0.002]
    rows = [
        row("dense-longer", 3_000, (above, 0.001, 3)),  # of which the rule does not speak
        row("gated-2-of-4", 3_000, (above, 0.001, 3), (above, 0.004, 3)),
        row("plain-1-of-8", 3_000, (above, 0.001, 3), (below, 0.001, 3)),
        row("gated-2-of-4", 20_000, (above, 0.001, 3), (above, 0.01, 3)),
        row("plain-1-of-8", 20_000, (above, 0.001, 3), (above, 0.001, 2)),  # a seed is missing
        row("plain-1-of-8", 91_996, (above, 0.001, 3), None),
    ]
    for each in rows:
        for less in filter(None, each["less"].values()):
            less |= {"first": 2, "of_seeds": [0.001]}
    found = verdicts(rows)
    assert [(each["row"], each["size"], each["pays"]) for each in found] == [
        ("gated-2-of-4", 3_000, True), ("plain-1-of-8", 3_000, False), ("gated-2-of-4", 20_000, True)
    ]  # fmt: skip
    assert [each["p"] for each in found] == pytest.approx([0.02, 0.006, 0.04])
    rows[3]["less"]["dense-longer"]["p_value"] = 0.06
    assert not verdicts(rows)[2]["pays"]
    rows[3]["less"]["dense-longer"]["p_value"] = None  # equal differences: nothing to judge by
    assert not verdicts(rows)[2]["pays"]
    behind = rows[4]["less"]["dense-longer"]  # two seeds, both closer to the teacher: not decided
    behind["of_seeds"] = [-0.001, 0.004]  # the first one is not: no further seed is run
    assert verdicts(rows)[3] == {
        "row": "plain-1-of-8", "size": 20_000, "seeds": 2, "excluded": False, "p": 1.0, "pays": False,
        "behind": ["dense-longer"],
    }  # fmt: skip
    behind["first"] = 3  # the first seed is missing
    assert len(verdicts(rows)) == 3


def test_the_page_says_where_experts_pay_and_what_is_missing():
    row = {"title": "dense", "seeds": 3, "accuracy": 0.8, "gflops": 1.0, "machine": "CPU"}
    less = {"difference": 0.01, "interval": [0.005, 0.02]}
    gated = row | {"title": "gated experts, chosen per token", "less": less, "gflops": 1.5, "pays": True}
    page = shown(domains=[row, gated, gated | {"title": "a dense model of each domain"}])
    assert "**A dense model for each of the sixteen domains** (no rule): +1.00 points" in page
    page = shown(domains=[row, gated])
    assert "**Experts pay here:** sixteen domains, gated experts, chosen per token." in page
    assert "Gated experts, chosen per token: by the rule, they pay." in page and "at 1.50 times its FLOPs" in page
    assert "Not run yet: gated experts, chosen per text; LoRA; dense, trained on eight" in page
    page = shown(domains=[row, gated | {"pays": None, "seeds": 1}])
    assert "By the rules that stand, experts pay nowhere so far" in page and "not decided (1 of 3 seeds)" in page


def test_validation_decides_whether_a_student_replaces_the_ready_model():
    ready = {"validation": {"f1_weighted": 0.8}, "scores": {"f1_weighted": 0.7}}
    rows = [
        {"row": "dense", "size": 3_000, "validation": 0.79, "f1_weighted": 0.9},
        {"row": "gated-2-of-4", "size": 91_996, "validation": 0.78, "f1_weighted": 0.95},
    ]
    trained = [
        SimpleNamespace(record={"test": {"f1_weighted": f1}, "validation": {"f1_weighted": 0.7}}) for f1 in (0.6, 0.8)
    ]
    cells = {("tweeteval-emotion", MODEL, name, "default"): trained for name in ("full", "lora")}
    results = SimpleNamespace(cells=cells)
    found = beside_ready(rows, ready, results)
    assert found["from_labels"] == {"seeds": 2, "f1_weighted": pytest.approx(0.7), "validation": pytest.approx(0.7)}
    assert found["student"] == rows[0] and not found["replaces"]
    assert "The ready model `emotion` stays:" in shown(ready=found)
    assert beside_ready([*rows, rows[0] | {"validation": 0.81}], ready, results)["replaces"]
    assert beside_ready([], ready, results) is None


def test_parts_of_a_data_set_are_no_rows_of_the_table_of_data():
    data = {name: {"name": name} for name in ("imdb", "fdu-mtl", "fdu-mtl-mr", "fdu-mtl-of-eight")}
    rows = data_rows(SimpleNamespace(data=data, paper={"table_1": {}}))
    assert [row["ours"]["name"] for row in rows if row["ours"]] == ["imdb", "fdu-mtl"]


def test_undeclared_students_are_refused_before_work(tmp_path):
    study = Study(tmp_path, tmp_path / "work", tmp_path, print)
    for cell, said in (
        (Cell("plain", 3_000, 2), "row 'plain' is not declared; choose among dense, "),
        (Cell("dense", 5, 2), "size 5 is not declared; choose among 3000, 20000, 91996"),
        (Cell("dense", 3_000, 1), "seed 1 is not declared; choose among 2, 3, 4"),
    ):
        with pytest.raises(ConfigError, match=said):
            study.run([cell])


def test_low_rank_updates_lie_where_their_weight_lies():
    """Kind: on a GPU the updates of a domain stay in the memory of the processor, and the first product fails."""
    update = LowRank(torch.empty(6, 4, device="meta"), 2)
    assert {each.device.type for each in update.parameters()} == {"meta"}


def test_students_are_taught_measured_and_gone_on_with(tmp_path, monkeypatch):
    """From trials to the figures of the page, on a tiny model."""
    backbone = write_backbone(tmp_path / "backbone")
    small = {"STUDENT": backbone, "HELD_OUT": 10, "CHOICE": 8, "POOL_SIZE": 42, "TUNING_SIZE": 20, "FACTORS": (1.0,)}
    small |= {"BATCH_SIZES": {20: 8}, "TUNING_SEEDS": (0,), "TUNED": ("dense", "gated-2-of-4"), "TOKENS": 16}
    for name, value in small.items():
        monkeypatch.setattr(many, name, value)
        if hasattr(students_summary, name):
            monkeypatch.setattr(students_summary, name, value)
    (tmp_path / "tweeteval-emotion").mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {i} {'wxyz'[i % 4] * 3}", "label": i % 4} for i in range(16)]
        pd.DataFrame(rows).to_parquet(tmp_path / "tweeteval-emotion" / f"{split}.parquet")
    pd.DataFrame({"text": [f"a tweet {i}" for i in range(60)]}).to_parquet(tmp_path / "tweets-unlabelled.parquet")
    results = tmp_path / "results"
    results.mkdir()
    answers = np.random.default_rng(0).dirichlet(np.ones(4), size=42).astype(np.float16)
    np.savez(results / "tweeteval-emotion__teacher.npz", probabilities=answers, f1_weighted=[0.8])
    study, real, folders = Study(tmp_path, tmp_path / "work", results, print), many.fit, []
    cells = [Cell(row, 20, seed) for seed in (2, 3) for row in ("dense", "dense-longer")]
    cells.append(Cell("gated-2-of-4", 20, 2))

    def killed(ready, folder, **how):
        done = real(ready, folder, **how)
        folders.append(folder)
        if len(folders) == 3:  # the first student, after two trials
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(many, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        study.run(cells)
    (left,) = (tmp_path / "work" / ".unfinished").iterdir()
    assert left.name == cells[0].name and list((left / "checkpoints").iterdir())
    monkeypatch.setattr(
        many, "fit", lambda ready, folder, **how: (folders.append(folder), real(ready, folder, **how))[1]
    )
    study.run(cells)
    assert folders[3] == folders[2] and not list((tmp_path / "work" / ".unfinished").iterdir())
    history = [read_json(study.path(cell)) for cell in cells]
    assert [each["row"] for each in history[:2]] == ["dense", "dense-longer"] and history[1]["epochs"] == 3
    told = many_texts(results)
    assert [(row["row"], row["seeds"]) for row in told["rows"]] == [
        ("dense", 2),
        ("dense-longer", 2),
        ("gated-2-of-4", 1),
    ]
    assert not any(each["pays"] for each in told["verdicts"]) and len(told["machines"]) == 1  # by one seed
    held_out = answers[:10].astype(float)
    top = np.bincount(held_out.argmax(axis=1)).argmax()
    assert told["teacher"]["top"] == top and told["teacher"]["share"] == (held_out.argmax(axis=1) == top).mean()
    rarer = held_out.argmax(axis=1) != top
    kept = [np.load(study.path(Cell(row, 20, 2)).with_suffix(".npz"))["kl"] for row in ("dense", "gated-2-of-4")]
    gained = (kept[0].astype(float) - kept[1].astype(float))[rarer].mean()
    assert told["elsewhere"]["rows"]["gated-2-of-4"]["difference"] == pytest.approx(gained)
    page = shown(many=told)
    assert f"On the {rarer.sum()} held-out tweets that the teacher does not call {NOTHING['label_names'][top]}" in page
    assert "| 20 | gated-2-of-4 | 1 |" in page and "; 1 seed)" in page
    assert [path.stem for path in study.work.glob("*.parquet")] == ["tweeteval-emotion__texts"]
    monkeypatch.setitem(many.BATCH_SIZES, 20, 4)
    with pytest.raises(ConfigError, match=r"was made with .*'batch_size': 8.*remove it"):
        study.run(cells)
    pd.DataFrame({"text": [f"another {i}" for i in range(42)]}).to_parquet(next(study.work.glob("*.parquet")))
    with pytest.raises(ConfigError, match="the texts are not those of"):
        study.run(cells)


def test_the_picture_shows_gains_of_two_sizes_or_is_not_drawn(tmp_path):
    path, gained = tmp_path / "gain.png", {"difference": 0.002, "interval": [-0.001, 0.003], "seeds": 3}
    rows = [{"row": "dense", "size": size, "less": {}} for size in (3_000, 20_000)]
    one = {"row": "plain-1-of-8", "size": 3_000, "less": {"dense": gained}}
    assert not gain_picture([*rows, one], path) and not path.exists()
    assert gain_picture([*rows, one, one | {"size": 20_000}], path) and path.stat().st_size > 5000


def test_work_is_done_once_by_whoever_comes_first(tmp_path):
    study = Study(tmp_path, tmp_path / "work", tmp_path, print)
    made = []
    with study.alone(tmp_path / "x.json") as free, study.alone(tmp_path / "x.json") as second:
        assert free and not second
    study.all_of([tmp_path / "x.json"], lambda path: (made.append(path), path.write_text("{}")))
    study.all_of([tmp_path / "x.json"], lambda path: made.append(path))
    assert made == [tmp_path / "x.json"]


def test_routers_that_read_texts_send_all_tokens_of_a_text_to_the_same_experts():
    model = sparse("bert")
    route_texts(model)
    ids = torch.randint(3, 90, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:], mask[2, 3:] = 0, 0
    with torch.no_grad():
        routing = model(input_ids=ids, attention_mask=mask).routing
        for text in range(3):
            logits, real = routing[text].router_logits[0], int(mask[text].sum())
            assert torch.equal(logits, logits[:1].expand_as(logits))
            alone = model(input_ids=ids[text : text + 1, :real], attention_mask=mask[text : text + 1, :real]).routing
            assert torch.allclose(alone.router_logits[0], logits, atol=1e-5)
    assert not torch.allclose(routing[0].router_logits[0][0], routing[1].router_logits[0][0])


def of_run(seed):
    cost, machine = {"gflops_per_text": 1.0}, {"gpu": None, "processor": "CPU"}
    return {"seed": seed, "test": {"accuracy": 0.5}, "cost": cost, "hardware": machine}


def test_domains_are_written_as_data_sets(tmp_path):
    names = [*LEFT_OUT, *ADDED, "books"]
    rows = [{"text": f"{name} {number}", "label": "positive", "domain": name} for name in names for number in range(2)]
    for split in ("train", "validation", "test"):
        (tmp_path / "fdu-mtl").mkdir(exist_ok=True)
        pd.DataFrame(rows).to_parquet(tmp_path / "fdu-mtl" / f"{split}.parquet")
    write_domains(tmp_path, tmp_path / "out", tmp_path / "results")
    places = read_json(tmp_path / "results" / "domains" / "test-domains.json")
    assert places == [row["domain"] for row in rows]
    labels = np.zeros(len(rows), dtype=int)
    wrong = np.isin(places, LEFT_OUT).astype(int)  # the dense model, and only there
    runs = {  # the seeds that both have are compared, whatever others there are
        "full": [Stored({"seed": 0}, labels, labels), Stored({"seed": 2}, labels, wrong)],
        "moe-gated": [Stored({"seed": 1}, labels, wrong), Stored({"seed": 2}, labels, labels)],
    }
    cells = {("fdu-mtl-of-twelve", MODEL, name, "default"): each for name, each in runs.items()}
    found = left_out(SimpleNamespace(cells=cells), places)
    assert found["texts"] == 2 * len(LEFT_OUT) and found["difference"]["difference"] == 1 and found["seeds"] == 1
    assert found["pays"] is None, "one seed of experts that lead decides nothing"
    cells[("fdu-mtl-of-twelve", MODEL, "moe-gated", "default")] = runs["full"]
    assert left_out(SimpleNamespace(cells=cells), places)["pays"] is False
    assert left_out(SimpleNamespace(cells=cells), []) is None  # whose texts are whose is not known
    assert left_out(SimpleNamespace(cells={}), places) is None
    by_domain = {name: np.full(2, number % 2) for number, name in enumerate(names)}
    labels = np.concatenate(list(by_domain.values()))  # in another order than the sorted names
    dense = labels ^ (np.arange(len(rows)) < 2)  # wrong about the first domain
    cells = {("fdu-mtl", MODEL, "full", "default"): [Stored(of_run(0), labels, dense)]} | {
        (f"fdu-mtl-{name}", MODEL, "full", "default"): [Stored(of_run(0), own, own)] for name, own in by_domain.items()
    }
    found = {row["title"]: row for row in domains(SimpleNamespace(cells=cells), places)}
    alone = found["a dense model of each domain"]
    assert (
        alone["accuracy"] == 1 and alone["less"]["difference"] == pytest.approx(1 / len(names)) and alone["seeds"] == 1
    )
    cells["fdu-mtl-books", MODEL, "full", "default"] = [Stored(of_run(1), labels[:2], labels[:2])]
    assert "a dense model of each domain" not in {row["title"] for row in domains(SimpleNamespace(cells=cells), places)}

    def domains_of(name, split):
        return set(pd.read_parquet(tmp_path / "out" / name / f"{split}.parquet")["domain"])

    assert domains_of("fdu-mtl-of-eight", "train") == {"books"}
    assert domains_of("fdu-mtl-of-twelve", "train") == {"books", *ADDED}
    assert domains_of("fdu-mtl-of-eight", "test") == set(names)
    assert domains_of("fdu-mtl-mr", "test") == {"mr"}


def test_learning_rates_are_tried_until_the_best_is_between_two_others():
    def loss_with_best_at(best):
        return lambda factor: abs(math.log(factor / best))

    tried = added_domains.tried_until_inside
    assert sorted(tried(loss_with_best_at(1))) == pytest.approx([1 / 3, 1, 3])
    assert sorted(tried(loss_with_best_at(9))) == pytest.approx([1 / 3, 1, 3, 9, 27])
    assert sorted(tried(loss_with_best_at(1 / 9))) == pytest.approx([1 / 27, 1 / 9, 1 / 3, 1, 3])
    assert len(tried(loss_with_best_at(1e9))) == 7
    assert len(tried(lambda factor: math.inf if factor > 1 else 1 / factor)) == 3


@pytest.mark.slow
def test_domains_are_added_measured_and_shown(tmp_path, monkeypatch):
    """The whole study on a tiny model, its rivals too, to the figures that the page shows."""
    for module in (added_domains, added_rivals):
        monkeypatch.setattr(module, "BACKBONE", write_backbone(tmp_path / "backbone"))
        monkeypatch.setattr(module, "EPOCHS", 1)
    for module in (added_domains, added_steps):
        monkeypatch.setattr(module, "SETS", ("tweeteval-emotion",))
    small = {"SET_TEXTS": 40, "SET_TRAIN": 60, "LAYERS": 1, "FACTORS": (1.0, 3.0), "TRIED": 2, "TIMED_TEXTS": 16}
    for name, value in small.items():
        monkeypatch.setattr(added_domains, name, value)
    names = [*added_domains.OLD, *ADDED, *LEFT_OUT]
    for data in ("fdu-mtl", "tweeteval-emotion"):
        (tmp_path / data).mkdir()
    for split, count in (("train", 24), ("validation", 22), ("test", 12)):
        rows = [
            {"text": f"{name} {i} was {word}", "label": label, "domain": name}
            for name in names
            for i in range(count)
            for word, label in [[("awful", "negative"), ("lovely", "positive")][i % 2]]
        ]
        pd.DataFrame(rows).to_parquet(tmp_path / "fdu-mtl" / f"{split}.parquet")
        rows = [{"text": f"a tweet {i} {'wxyz'[i % 4] * 3}", "label": i % 4} for i in range(3 * count)]
        pd.DataFrame(rows).to_parquet(tmp_path / "tweeteval-emotion" / f"{split}.parquet")
    told = (tmp_path, tmp_path / "work", tmp_path / "results", print)
    with pytest.raises(ConfigError, match="run seed 0 first"):
        added_domains.Study(*told, 1).run()
    for seed in (0, 1):
        study = added_domains.Study(*told, seed)
        study.run()
    added_rivals.run_rivals(study)
    found = added_steps.added_domains(tmp_path / "results" / "domains")
    assert found["seeds"] == 2 and [row["name"] for row in found["domains"]] == [*ADDED, "tweeteval-emotion"]
    assert [row["added"] for row in found["steps"][:4]] == [", ".join(ADDED[:step]) for step in (1, 2, 3, 4)]
    assert len(found["steps"]) == 16 and len(found["sets"]) == 2 and len(found["in_turn"]) == 8 and found["pooled"]
    known = [record["domains"]["mr"]["experts"]["accuracy"] for record in _records(tmp_path)]
    assert found["domains"][0]["experts"]["score"] == pytest.approx(np.mean(known))
    first = next(row for row in found["steps"] if (row["kind"], row["added"]) == ("experts", "mr"))
    assert first["known"] == pytest.approx(np.mean(known))
    page = shown(added=found)
    assert len(found["of_seeds"]) == 2
    assert (
        "2 seeds, each with its own base" in page
        and "| whole model, trained on each in turn (seed 1) | toys, sports |" in page
    )
    chosen = tmp_path / "results" / "domains" / "added-rates.json"
    rates = chosen.read_text(encoding="utf-8")
    write_json(chosen, json.loads(rates) | {"chosen": {"lora": 81.0, "experts": 81.0}})
    with pytest.raises(ConfigError, match="seed 0 has other rates than"):
        added_steps.added_domains(tmp_path / "results" / "domains")
    chosen.write_text(rates, encoding="utf-8")
    (tmp_path / "work" / "base-of-eight-s0" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match="was made from other weights"):
        added_domains.Study(*told, 0)
    (tmp_path / "work" / "base-of-eight-s0" / "run.json").unlink()
    with pytest.raises(ConfigError, match="was made from a base that is not in"):
        added_domains.Study(*told, 0)
    shutil.rmtree(tmp_path / "work" / "added-s0")
    with pytest.raises(ConfigError, match="was chosen with a base that is not in"):
        added_domains.Study(*told, 0)


def _records(folder):
    return [read_json(path) for path in sorted((folder / "results" / "domains").glob("added__s*.json"))]


@pytest.mark.slow
def test_one_trunk_answers_each_task_among_its_own_classes(tmp_path, monkeypatch):
    """The whole study on a tiny model, to the figures that the page shows."""
    monkeypatch.setattr(one_trunk, "BACKBONE", write_backbone(tmp_path / "backbone"))
    monkeypatch.setattr(one_trunk, "EPOCHS", 1)
    monkeypatch.setattr(one_trunk, "LIMITS", {"train": 60, "validation": 20, "test": 40})
    monkeypatch.setattr(one_trunk, "TIMED_TEXTS", 16)
    tasks = {"fdu-mtl": ["bad", "good"], "tweeteval-emotion": [0, 1, 2, 3], "sst5": [0, 1, 2, 3, 4]}
    for task, labels in tasks.items():
        (tmp_path / task).mkdir()
        for split in ("train", "validation", "test"):
            rows = [{"text": f"{task} {split} {i}", "label": labels[i % len(labels)]} for i in range(80)]
            if task == "fdu-mtl":
                rows = [row | {"domain": "books"} for row in rows] + [
                    {"text": f"a film {i}", "label": "good", "domain": "mr"} for i in range(80)
                ]
            pd.DataFrame(rows).to_parquet(tmp_path / task / f"{split}.parquet")
    study = one_trunk.Study(tmp_path, tmp_path / "work", tmp_path / "results", print)
    assert one_trunk.one_trunk(tmp_path / "results") == {}
    study.run()
    assert not list((tmp_path / "work" / "data").glob("*-*/test.parquet"))
    together = pd.read_parquet(tmp_path / "work" / "data" / "four-tasks" / "train.parquet")
    assert together["label"].str.partition(": ")[0].value_counts().to_dict() == dict.fromkeys(one_trunk.TASKS, 60)
    assert not together["text"].str.startswith("a film").any() and together["label"].nunique() == 14
    engine = study.engine("four-tasks-gated", "four-tasks", "gated")
    found = one_trunk.of_task(engine, engine.predict_proba(["a text"]), "sst5")
    assert found.shape == (1, 5) and found.sum() == pytest.approx(1)
    told = one_trunk.one_trunk(tmp_path / "results")
    assert [row["texts"] for row in told["rows"]] == [40] * 4
    stars = told["rows"][3]
    for trunk in stars["trunks"].values():
        assert trunk["difference"]["mean_a"] == pytest.approx(trunk["f1_weighted"])
        assert trunk["difference"]["mean_b"] == pytest.approx(stars["alone"])
    page = shown(trunk=told)
    assert "| sst5 | 40 |" in page and "All four answers to a text" in page and "\nBy the rule, " in page
    for name in ("four-tasks-gated", "cost"):
        (tmp_path / "results" / "one-trunk" / f"{name}.json").unlink()
    half = one_trunk.one_trunk(tmp_path / "results")
    assert half["experts"] is None and list(half["rows"][0]["trunks"]) == ["dense"] and half["fit"] == []
    page = shown(trunk=half)
    assert "not decided yet: the trunk with experts is missing." in page and "| trunk with experts" not in page
    shutil.rmtree(tmp_path / "work" / "sst5-alone")
    with pytest.raises(ConfigError, match="sst5-alone is gone, and sst5-alone is measured"):
        study.engine("sst5-alone", "sst5", "dense")
    monkeypatch.setattr(one_trunk, "EPOCHS", 2)
    with pytest.raises(ConfigError, match="has the settings"):
        study.run()
    monkeypatch.setattr(one_trunk, "LIMITS", {"train": 70})
    with pytest.raises(ConfigError, match="was written with the limits"):
        one_trunk.Study(tmp_path, tmp_path / "work", tmp_path / "results", print)


def test_a_trunk_is_built_if_it_holds_every_task_in_less_than_half_the_time():
    def decided(dense, gated, ratio, lead=-0.01):
        rows = [
            {"trunks": {kind: {"difference": {"difference": each}} for kind, each in (("dense", a), ("gated", b))}}
            for a, b in ((0.02, 0.0), (dense, gated))
        ]
        cost = {"dense": {"ratio": ratio}, "gated": {"ratio": 2.5}}
        found = one_trunk.verdict({"rows": rows, "cost": cost, "experts": {"interval": [lead, 0.02]}})
        return found["fit"], found["says"].removeprefix("by the rule, the feature is ")[:40]

    assert decided(-0.01, -0.011, 4.0) == (["dense"], "built, on the dense trunk: it holds F1 o")
    assert decided(-0.02, 0.0, 4.0) == (["gated"], "not built: only the trunk with experts i")
    assert decided(0.0, 0.0, 4.0, 0.001) == (["dense", "gated"], "experts lead on this seed, so seeds 1 an")
    assert decided(0.0, 0.0, 4.0)[1].startswith("built, on the dense trunk")
    assert decided(0.015, -0.02, 1.9) == ([], "not built: no trunk both holds F1 on eve")
    assert decided(-0.02, -0.02, 4.0) == ([], "not built: no trunk stays within a point")
