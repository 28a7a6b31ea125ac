"""The first hour of someone with a spreadsheet: every step is one command, and no row of the file is edited by hand.

The reviews are invented: 300 rows as Excel exports them (a semicolon, cp1252, empty cells), then 400 new ones.
"""

import json
import logging
import random

import pandas as pd
import pytest
from backbone import write_backbone
from command import invoke

PRODUCTS = ("kettle", "lamp", "café table", "headphones")
SAID = {
    1: ("Broke on the first day", "Awful, I want my money back", "It never worked – not once"),
    2: ("Rather disappointing", "Weak and far too loud", "I expected more for the price"),
    3: ("It is all right", "Does the job, nothing more", "Average in every way"),
    4: ("Good value", "I’m pleased with it", "Works well and looks nice"),
    5: ("Absolutely wonderful", "Perfect, I love it", "The best one I’ve ever owned"),
}
TINY = ("--method", "full", "--epochs", 8, "--learning-rate", 5e-3, "--batch-size", 16, "--max-length", 32, "--quiet")


def write_reviews(path, count: int, seed: int, wrong_for: str | None = None) -> pd.DataFrame:
    """Reviews of products with stars; some cells are empty, and those of one product have stars at random."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        stars, product = rng.choice(list(SAID)), rng.choice(PRODUCTS)
        text = f"{rng.choice(SAID[stars])}. {product.capitalize()}, order {seed}{number:04d}."
        rows.append((text, str(rng.choice(list(SAID)) if product == wrong_for else stars), product))
    for row in rng.sample(range(count), 12):
        rows[row] = ("", *rows[row][1:]) if row % 2 else (rows[row][0], "", rows[row][2])
    frame = pd.DataFrame(rows, columns=["Review Text", "Stars", "Product"])
    frame.to_csv(path, index=False, sep=";", encoding="cp1252")
    return frame


@pytest.fixture(scope="module")
def hour(tmp_path_factory):
    """The two files, the first step, `train`, and what it logged."""
    folder = tmp_path_factory.mktemp("hour")
    model = write_backbone(folder / "tiny")
    write_reviews(folder / "reviews.csv", 300, seed=1)
    write_reviews(folder / "more.csv", 400, seed=2, wrong_for="lamp")
    said, log = [], logging.Handler()
    log.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("sentimoe").addHandler(log)
    done = invoke("train", "--data", folder / "reviews.csv", "--model", model, *TINY, "--output", folder / "mine")
    logging.getLogger("sentimoe").removeHandler(log)
    assert done.exit_code == 0, done.stderr
    return folder, done, said


def test_the_file_is_trained_on_as_it_is(hour):
    _, done, said = hour
    (skipped,) = [line for line in said if "12 of 300 rows" in line]
    assert "without a text" in skipped and "without a label" in skipped
    assert "TF-IDF and logistic regression on the same test" in done.stderr and "--unlabelled" in " ".join(said)
    assert "within one class" in done.stdout and "expected calibration error" in " ".join(done.stdout.split())


def test_new_reviews_are_scored_whole_by_product_and_by_distance(hour):
    folder, *_ = hour
    done = invoke("evaluate", folder / "mine", "--data", folder / "more.csv", "--by", "Product", "--json")
    found = json.loads(done.stdout)
    assert all(set(found["ordinal"]) < set(row["intervals"]) for row in (found, *found["groups"]))
    assert found["n"] == 388 and found["n_seen"] == 0 and 0 <= found["ordinal"]["mae"] < 1.5
    low, high = found["intervals"]["mae"]
    assert low < found["ordinal"]["mae"] < high < low + 0.5
    assert found["most_frequent"]["accuracy"] < found["accuracy"]
    assert {row["group"] for row in found["groups"] if row["worse"]} == {"lamp"}
    again = invoke("evaluate", folder / "mine", "--data", folder / "reviews.csv", "--json")
    assert 0 < json.loads(again.stdout)["n_seen"] < 288 and "has seen" in again.stderr


def test_columns_are_those_of_the_training(hour):
    """Kind: `no column "text"`, for a model that was trained on a file with just these columns."""
    folder, *_ = hour
    named = {"Review Text": "Opinion", "Stars": "Verdict"}
    for name in ("reviews", "more"):
        frame = pd.read_csv(folder / f"{name}.csv", sep=";", encoding="cp1252", dtype=str).rename(columns=named)
        frame.assign(text="another column").to_csv(folder / f"{name}-named.csv", index=False)
    columns = ("--text-column", "Opinion", "--label-column", "Verdict")
    told = (
        "train",
        "--data",
        folder / "reviews-named.csv",
        "--model",
        folder / "tiny",
        *TINY,
        "--output",
        folder / "named",
    )
    assert invoke(*told, *columns).exit_code == 0
    new = folder / "more-named.csv"
    found = json.loads(invoke("evaluate", folder / "named", "--data", new, "--json").stdout)
    assert found["n"] == 388 and found["accuracy"] > 0.6
    for output in ("named.jsonl", "named.xlsx"):
        done = invoke("predict", "--model", folder / "named", "--input", new, "--output", folder / output)
        assert done.exit_code == 0, done.stderr
    answers = pd.read_json(folder / "named.jsonl", lines=True)
    assert (
        answers["label"].notna().sum() == answers["Opinion"].fillna("").ne("").sum() > 380
        and answers["label"].nunique() == 5
    )
    done = invoke("compare", folder / "named", folder / "named.jsonl", "--data", new)
    assert done.exit_code == 0 and "no difference is shown (a - b: weighted F1 +0.0000" in done.stdout, done.stderr


def test_files_of_answers_are_compared(hour):
    folder, *_ = hour
    asked = ("predict", "--model", folder / "mine", "--input", folder / "more.csv", "--all-answers")
    assert invoke(*asked, "--output", folder / "a.csv").exit_code == 0
    other = pd.read_csv(folder / "a.csv")
    other.assign(label=3).drop(columns="Review Text").to_csv(folder / "b.csv", index=False)
    done = invoke("compare", folder / "a.csv", folder / "b.csv", "--data", folder / "more.csv", "--json")
    found = json.loads(done.stdout)
    assert found["n"] == 388 and found["accuracy"]["distinguishable"] and "no column of texts" in done.stderr
    alone = json.loads(invoke("evaluate", folder / "mine", "--data", folder / "more.csv", "--json").stdout)
    assert found["accuracy"]["mean_a"] == pytest.approx(alone["accuracy"])
    other[::-1].to_csv(folder / "c.csv", index=False)
    refused = invoke("compare", folder / "a.csv", folder / "c.csv", "--data", folder / "more.csv")
    assert "row 1: another text than in the data" in refused.error
    itself = invoke("compare", folder / "a.csv", folder / "more.csv", "--data", folder / "more.csv")
    assert "is the labelled data" in itself.error
    other[:10].to_csv(folder / "d.csv", index=False)
    assert (
        "has 10 rows and the data 400"
        in invoke(*("compare", folder / "a.csv", folder / "d.csv"), "--data", folder / "more.csv").error
    )


def test_doubtful_reviews_are_left_to_a_person_and_stars_stay_numbers(hour):
    folder, *_ = hour
    write_reviews(folder / "third.csv", 300, seed=3)
    told = ("evaluate", folder / "mine", "--data", folder / "third.csv", "--target-accuracy", 0.8, "--save")
    saved = invoke(*told)
    assert saved.exit_code == 0 and "cross-fitted estimate" in saved.stdout and "saved" in saved.stdout, saved.stderr
    asked = ("predict", "--model", folder / "mine", "--input", folder / "more.csv")
    done = invoke(*asked, "--output", folder / "out.jsonl", "--doubtful", folder / "queue.csv")
    assert done.exit_code == 0 and "are doubtful" in done.stderr, done.stderr
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 400 and {type(row["guess"]) for row in rows if row["Review Text"]} == {int}
    doubtful = [row for row in rows if row["reason"] == "doubtful"]
    assert len(pd.read_csv(folder / "queue.csv")) == len(doubtful) and all(row["label"] is None for row in doubtful)


def test_two_models_are_compared_and_labels_are_checked(hour):
    folder, *_ = hour
    tiny = [*TINY[:3], 1, *TINY[4:]]
    told = ("train", "--data", folder / "reviews.csv", "--model", folder / "tiny", *tiny, "--output", folder / "other")
    assert invoke(*told).exit_code == 0
    done = invoke("compare", folder / "mine", folder / "other", "--data", folder / "more.csv")
    assert done.exit_code == 0 and "where the answers differ" in done.stdout, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "mean distance (lower is better)" in line]
    assert " to " in row  # its paired interval
    done = invoke("suspects", "--data", folder / "more.csv", "--output", folder / "check.csv")
    assert done.exit_code == 0, done.stderr
    found = pd.read_csv(folder / "check.csv")
    frame = pd.read_csv(folder / "more.csv", sep=";", encoding="cp1252")
    of_lamps = frame["Product"].iloc[found["row"][:20] - 1].eq("lamp").mean()
    assert of_lamps > 0.7 > 0.5 > frame["Product"].eq("lamp").mean()  # whose stars are random
