"""The server of `sentimoe explore`: what it answers, and whom."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backbone import write_backbone
from transformers import AutoTokenizer
from typer.testing import CliRunner

import sentimoe_cli
from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.errors import ConfigError
from sentimoe.explain import knocked_out
from sentimoe_cli.models import model_name

fastapi = pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402

from sentimoe.pages import MAX_BYTES, MAX_CHARACTERS, create_app  # noqa: E402

TEXT = "a great thing <b>&"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("explore")
    backbone = write_backbone(root / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.model_max_length = 64
    for name in ("dense", "experts"):
        model = load_classifier(backbone, ["negative", "positive"])
        if name == "experts":
            model = upcycle(model, MoEConfig(init_noise=0.5, num_experts_per_tok=2))
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def classifiers(folders):
    told = {"precision": "float32", "long_texts": "truncate"}
    return {name: SentimentClassifier.from_pretrained(folders / name, **told) for name in ("experts", "dense")}


@pytest.fixture(scope="module")
def client(classifiers):
    return TestClient(create_app(classifiers), base_url="http://127.0.0.1")


def test_what_the_models_are(client):
    experts, dense = client.get("/api/models").json()
    keys = ("name", "layers", "experts", "experts_per_token")
    assert tuple(experts[key] for key in keys) == ("experts", [0, 1], 4, 2)
    assert dense["layers"] == [] and dense["labels"] == ["negative", "positive"]


def test_several_people_at_once_get_the_answers_of_one(client, classifiers):
    """Attribution hooks the model that it reads: it has a copy of its own, and one reader at a time."""
    pytest.importorskip("captum")
    texts = [TEXT, "bad", "a fine and great thing that was bad", "dull " * 9]
    asked = [(way, text) for text in texts for way in ("attribution", "answer")]

    def ask(question):
        found = client.post(f"/api/{question[0]}", json={"text": question[1], "model": "experts"})
        assert found.status_code == 200, found.text
        return {key: value for key, value in found.json().items() if key != "milliseconds"}

    alone = [ask(question) for question in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, asked * 4))
    assert together == alone * 4
    assert not classifiers["experts"].model.get_input_embeddings()._forward_hooks


def test_an_answer_is_that_of_the_engine(client, classifiers):
    found = client.post("/api/answer", json={"text": TEXT, "model": "experts"}).json()
    expected = classifiers["experts"].predict_proba([TEXT])[0]
    assert found["probabilities"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert "".join(piece["text"] for piece in found["pieces"]) == TEXT
    tokens = [piece for piece in found["pieces"] if piece["experts"]]
    assert len(tokens) == 7 and all(len(piece["experts"]) == 2 for piece in tokens)  # two MoE layers
    dense = client.post("/api/answer", json={"text": TEXT, "model": "dense"}).json()
    assert dense["probabilities"] == pytest.approx(classifiers["dense"].predict_proba([TEXT])[0].tolist(), abs=1e-6)


def test_an_expert_switched_off_reads_nothing(client, classifiers):
    closed = [[0, 1], [1, 3]]
    found = client.post("/api/answer", json={"text": TEXT, "model": "experts", "closed": closed}).json()
    with knocked_out(classifiers["experts"].engine, [(0, 1), (1, 3)]):
        expected = classifiers["experts"].predict_proba([TEXT])[0]
    assert found["probabilities"] == pytest.approx(expected.tolist(), abs=1e-6)
    for piece in found["pieces"]:
        if piece["experts"]:
            assert 1 not in piece["experts"][0] and 3 not in piece["experts"][1]


def test_attribution_covers_the_text(client):
    pytest.importorskip("captum")
    found = client.post("/api/attribution", json={"text": TEXT, "model": "experts"}).json()
    assert "".join(piece["text"] for piece in found["pieces"]) == TEXT and found["label"] in ("negative", "positive")
    assert any(piece["score"] for piece in found["pieces"])


def test_the_page_tells_where_the_model_contradicts_the_colours(client, monkeypatch):
    """Kind: "furious" painted as against the label, with no word that the model is less sure without it."""
    captum = pytest.importorskip("captum.attr")
    asked = {"json": {"text": "great", "model": "experts"}}
    assert client.post("/api/attribution", **asked).json()["doubts"] == []
    right = captum.LayerIntegratedGradients.attribute
    monkeypatch.setattr(captum.LayerIntegratedGradients, "attribute", lambda *given, **how: -right(*given, **how))
    found = client.post("/api/attribution", **asked).json()
    (score,) = [piece["score"] for piece in found["pieces"]]
    colour = "red" if score < 0 else "green"
    assert any("great" in line and f"is {colour}, but without it" in line for line in found["doubts"])


def test_models_have_their_real_names(folders, monkeypatch):
    """Kind: a model called "model" or "", as its folder or the current one is."""
    record = {"config": {"model": "backbones/all-MiniLM-L6-v2", "method": "moe-gated"}}
    (folders / "experts" / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(folders / "experts")
    assert model_name(Path(".")) == "experts (all-MiniLM-L6-v2, moe-gated)" and model_name(folders / "dense") == "dense"


def test_attribution_explains_the_answer_that_is_shown(client):
    """With experts switched off the label may be another one; so may its explanation."""
    pytest.importorskip("captum")
    labels = client.get("/api/models").json()[0]["labels"]
    for closed in ([], [[0, 0], [1, 2]], [[0, 1], [0, 2], [1, 0], [1, 1]]):
        question = {"text": TEXT, "model": "experts", "closed": closed}
        probabilities = client.post("/api/answer", json=question).json()["probabilities"]
        found = client.post("/api/attribution", json=question).json()
        assert found["label"] == labels[probabilities.index(max(probabilities))]


@pytest.mark.parametrize("model", ["experts", "dense"])
def test_a_long_text_is_cut_in_every_answer_and_the_page_says_so(folders, model):
    """Kind: the label of the whole text, coloured by the words of its beginning. `serve` reads windows elsewhere."""
    pytest.importorskip("captum")
    whole = SentimentClassifier.from_pretrained(folders / model, precision="float32")
    whole.model.classifier.weight.data.normal_(std=2.0)
    client = TestClient(create_app({model: whole}), base_url="http://127.0.0.1")
    rest = " ".join(f"word{number}" for number in range(300))
    for beginning in ("a great thing", "bad", "the end"):
        text = f"{beginning} {'the ' * 60}{rest}"
        answer = client.post("/api/answer", json={"text": text, "model": model}).json()
        cut = whole.engine.logits(whole.engine.windows([text], "truncate"))[0][0]
        assert answer["cut_at"] == 64
        assert answer["probabilities"].index(max(answer["probabilities"])) == cut.argmax()
        found = client.post("/api/attribution", json={"text": text, "model": model}).json()
        assert found["label"] == whole.label_names[cut.argmax()]
    short = client.post("/api/answer", json={"text": "bad", "model": model}).json()
    assert short["cut_at"] is None and whole.tokenizer._tokenizer.truncation is None  # which threads would share


@pytest.mark.parametrize(
    ("question", "status", "reason"),
    [
        ({"text": "  ", "model": "experts"}, 422, "blank"),
        ({"text": "x", "model": "other"}, 404, "there is no model 'other'"),
        ({"text": "x", "model": "experts", "closed": [[0, 0], [0, 1], [0, 2]]}, 400, "2 of them must read each token"),
        (
            {"text": "x", "model": "experts", "closed": [[7, 0]]},
            400,
            "layer 7 of this model has no experts; layers with experts: 0, 1",
        ),
        ({"text": "x" * (MAX_CHARACTERS + 1), "model": "experts"}, 422, "at most"),
    ],
)
def test_mistakes_are_told(client, question, status, reason):
    response = client.post("/api/answer", json=question)
    assert response.status_code == status and reason in str(response.json()["detail"])


def test_a_string_that_is_no_text_is_refused_and_not_sent_back(client):
    response = client.post("/api/answer", content=rb'{"text": "\ud800", "model": "experts"}')
    assert response.status_code == 422 and "body" in response.json()["detail"]


def test_only_this_machine_under_its_own_name(classifiers):
    """A page elsewhere whose name was made to point here is turned away."""
    stranger = TestClient(create_app(classifiers), base_url="http://evil.example")
    assert stranger.get("/").status_code == 400


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/", "/static/page.js", "/static/page.css"):
        assert "http" not in client.get(path).text.replace("<!doctype html>", "")


def test_an_export_is_refused():
    with pytest.raises(ConfigError, match="give the run folder"):
        create_app({"x": SentimentClassifier()})


def test_a_taken_port_is_named(folders):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(sentimoe_cli.app, ["explore", str(folders / "dense"), "--port", str(port)])
    assert done.exit_code == 1 and f"port {port} of 127.0.0.1 cannot be used" in str(done.exception)


@pytest.mark.parametrize("way", ["answer", "attribution"])
@pytest.mark.parametrize("model", ["dense", "experts"])
def test_a_text_without_a_token_has_no_label(client, way, model):
    """Kind: NaN taken for an answer. The page called it by the first label, the argmax of NaN."""
    if way == "attribution":
        pytest.importorskip("captum")
    found = client.post(f"/api/{way}", json={"text": "\u200b", "model": model})
    assert found.status_code == 422 and "no token" in found.json()["detail"]


@pytest.mark.parametrize("length", [None, b"2", b"500000000"])
def test_a_body_without_end_is_refused_while_it_comes(classifiers, length):
    """Kind: memory without a bound. 500 MB were read, whatever the header said, and took 2.6 GB."""
    chunk, sent, answer = b"x" * 65_536, [], []

    async def receive():
        sent.append(len(chunk))
        assert sum(sent) < 2 * MAX_BYTES, "the server reads on"
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message):
        answer.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    headers += [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "method": "POST", "path": "/api/answer", "raw_path": b"/api/answer", "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80), "client": None}
    asyncio.run(create_app(classifiers)(scope, receive, send))
    assert answer[0]["status"] == 413 and (b"connection", b"close") in answer[0]["headers"]
    assert b"send less" in b"".join(message.get("body", b"") for message in answer)
    assert sum(sent) <= MAX_BYTES + len(chunk)


def test_a_body_up_to_the_limit_is_read(client):
    padded = json.dumps({"text": "a great thing", "model": "dense"}).ljust(MAX_BYTES)
    told = {"Content-Type": "application/json"}
    assert client.post("/api/answer", content=padded, headers=told).status_code == 200
    assert client.post("/api/answer", content=padded + " ", headers=told).status_code == 413
