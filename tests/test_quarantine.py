"""Finding the row that kills its process, and a predictor that travels to another process."""

import pickle
import random

import numpy as np
import pandas as pd
import pytest
from backbone import train_classifier
from command import invoke

from sentimoe.batch import Cluster, Predictor
from sentimoe.batch.quarantine import DEATHS, Attempts, Piece, pieces
from sentimoe.errors import ConfigError


def read(rows, deadly, others=()):
    """What becomes of a part. deadly: rows that kill. others: at which tries a process is killed for another reason."""
    attempts, tries = Attempts(), 0
    while True:
        tries += 1
        plan, answered = pieces(rows, attempts.begin(0).deaths), []
        for number, piece in enumerate(plan):
            if piece.rejected:
                continue
            attempts.reading(0, piece)
            if any(piece.start <= row < piece.stop for row in deadly) or (tries in others and number == len(plan) // 2):
                break
            answered += range(piece.start, piece.stop)
        else:
            attempts.end(0)
            return answered, [piece.start for piece in plan if piece.rejected], tries


@pytest.mark.parametrize("rows", [1, 5, 128, 129, 16_384])
def test_only_the_deadly_row_is_given_up_after_three_deaths(rows):
    deadly = [rows // 2]
    answered, rejected, tries = read(rows, deadly)
    assert rejected == deadly and tries == DEATHS + 1
    assert answered == [row for row in range(rows) if row not in deadly]


def test_several_deadly_rows_are_found_one_after_the_other():
    deadly = sorted(random.Random(0).sample(range(16_384), 4))
    answered, rejected, _ = read(16_384, deadly)
    assert rejected == deadly and answered == sorted(set(range(16_384)) - set(deadly))


def test_deaths_for_other_reasons_cost_no_row():
    answered, rejected, tries = read(16_384, [], others=(1, 2))
    assert not rejected and answered == list(range(16_384)) and tries == 3


def test_pieces_cover_a_part_once_and_a_new_part_has_no_past():
    found = pieces(1000, [Piece(0, 1000)])
    assert [piece.start for piece in found[1:]] == [piece.stop for piece in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, 1000)
    attempts = Attempts()
    attempts.begin(3)
    attempts.reading(3, Piece(0, 7))
    attempts.end(3)
    assert attempts.begin(3) == ([], 0)
    assert pieces(0, []) == [Piece(0, 0)]


def test_deaths_at_no_row_are_counted_and_cost_none():
    """Kinds: a part that does not fit into memory, tried for ever; a row blamed for what came after it was read."""
    attempts = Attempts()
    assert attempts.begin(0) == ([], 0) and attempts.begin(0) == ([], 1)  # died before a row was read
    attempts.reading(0, Piece(0, 9))
    attempts.reading(0, None)
    assert attempts.begin(0) == ([], 2)  # and after the last one
    attempts.reading(0, Piece(0, 9))
    assert attempts.begin(0) == ([Piece(0, 9)], 2)
    attempts.end(0)
    assert attempts.begin(0) == ([], 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_classifier(tmp_path_factory.mktemp("quarantine"))


def test_a_predictor_travels_as_its_settings(model):
    own = {"max_characters": 20, "all_answers": True, "probabilities": True}
    sent = Predictor(model, text_column="review", precision="float32", **own)
    written = pickle.dumps(sent)
    assert len(written) < 2000  # no weights
    there = pickle.loads(written)
    frame = pd.DataFrame({"review": ["the lovely thing", " ", "the awful thing, and more than twenty characters"]})
    pd.testing.assert_frame_equal(there(frame), sent(frame))
    assert (
        there(frame)["reason"].tolist()[2] == "too long"
        and "prob_negative" in there(frame)
        and there.hashes() == sent.hashes()
    )


def test_rows_that_are_not_to_be_read_get_the_reason(model):
    found = Predictor(model, precision="float32").labelled(pd.DataFrame({"text": ["a", "b"]}), "process died")
    assert found["reason"].tolist() == ["process died"] * 2 and found["label"].isna().all()


def test_missing_labels_of_a_mapping_are_none(model):
    found = Predictor(model, precision="float32")({"text": np.array(["the lovely thing", ""])})
    assert found["label"].tolist()[1] is None and found["reason"].tolist() == [None, "blank"]
    assert isinstance(found["label"][0], str)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"address": "ray://10.0.0.1:1"}, "--ray-address auto"),
        ({"actors": 0}, "at least 1"),
        ({"gpus": 2}, "from 0 to 1"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(cluster, words):
    with pytest.raises(ConfigError, match=words):
        Cluster(**cluster)


def test_no_more_actors_than_there_is_room_for():
    assert Cluster()._actors({"CPU": 2.0}) == 2 and Cluster()._actors({"CPU": 64.0}) == 64
    assert Cluster(gpus=0.5)._actors({"CPU": 16.0, "GPU": 2.0}) == 4
    with pytest.raises(ConfigError, match=r"2 processors and 0 GPUs: room for 2 actors .* not for 3"):
        Cluster(actors=3)._actors({"CPU": 2.0})
    with pytest.raises(ConfigError, match="room for 0 actors"):
        Cluster(gpus=1)._actors({"CPU": 2.0})


def test_options_of_ray_need_the_engine_and_files(model, tmp_path):
    pd.DataFrame({"text": ["a"]}).to_csv(tmp_path / "in.csv")
    told = ["predict", "--model", str(model), "--input", str(tmp_path / "in.csv")]
    done = invoke(*told, "--output", str(tmp_path / "out"), "--ray-actors", "2")
    assert done.exit_code == 2 and "--ray-actors is for --engine ray" in done.error
    done = invoke(*told, "--engine", "ray")
    assert done.exit_code == 2 and "--engine ray is for files" in done.error


def test_the_same_bytes_on_ray(model, tmp_path):
    pytest.importorskip("ray")
    texts = [f"the {word} thing {number}" for number in range(300) for word in ("lovely", "awful")]
    pd.DataFrame({"text": [*texts, " "], "n": range(601)}).to_csv(tmp_path / "in.csv", index=False)
    told = ["predict", "--model", str(model), "--input", str(tmp_path / "in.csv"), "--precision", "float32"]
    on_ray = invoke(*told, "--output", str(tmp_path / "there"), "--engine", "ray", "--ray-actors", "1")
    assert on_ray.exit_code == 0, on_ray.output
    assert invoke(*told, "--output", str(tmp_path / "here")).exit_code == 0
    here, there = (pd.read_csv(tmp_path / name / "part-00000.csv") for name in ("here", "there"))
    assert here.drop(columns="score").equals(there.drop(columns="score"))
    assert np.allclose(here["score"], there["score"], atol=1e-5, equal_nan=True)
    done = invoke(*told, "--output", str(tmp_path / "there"))
    assert done.exit_code == 2 and 'engine was "ray", and now is "local"' in done.error
