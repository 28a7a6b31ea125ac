"""`sentimoe serve`: answers of `predict` in four dialects, and what is refused before any work."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from backbone import labelled_texts, write_backbone
from command import invoke

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.errors import ConfigError
from sentimoe.model_folder import load_tokenizer
from sentimoe_settings import ServeConfig

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
import jsonschema
import service_schemas as schemas
import uvicorn
from fastapi.testclient import TestClient
from stub_service import LABELS, StubEngine

from sentimoe.service import ServedModel, create_service, load_served

TEXTS = ["a great thing", "bad", "the " * 300 + "end", "a fine thing that was broken, and dull"]
BASE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Classifiers with large weights: dense, with experts, and dense with a threshold."""
    root = tmp_path_factory.mktemp("serve")
    backbone = write_backbone(root / "backbone")
    tokenizer = load_tokenizer(backbone)
    tokenizer.model_max_length = 64
    for name in ("dense", "experts", "careful"):
        model = load_classifier(backbone, ["negative", "neutral", "positive"])
        model.classifier.weight.data.normal_(std=2.0)
        if name == "experts":
            model = upcycle(model, MoEConfig(init_noise=0.5, num_experts_per_tok=2))
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    stored = {"value": 0.99, "target_accuracy": 0.9, "accuracy": 0.9, "coverage": 0.5, "lower_bound": 0.8, "n": 1000}
    (root / "careful" / "threshold.json").write_text(json.dumps(stored | {"estimated": False}))
    return root


@pytest.fixture(scope="module")
def served(folders):
    return [load_served(name, folders / name, precision="float32") for name in ("experts", "dense", "careful")]


@pytest.fixture(scope="module")
def client(served):
    with TestClient(create_service(served, ServeConfig()), base_url=BASE) as client:
        yield client


def over_a_stub(config=None, token=None, **stub):
    app = create_service([ServedModel("stub", StubEngine(**stub), LABELS)], config or ServeConfig(), token)
    return TestClient(app, base_url=BASE)


@pytest.fixture(scope="module")
def stub():
    with over_a_stub() as client:
        yield client


def probabilities(found, labels=LABELS):
    """`[B, C]` of rows of {"label", "score"}."""
    return np.array([[{each["label"]: each["score"] for each in row}[label] for label in labels] for row in found])


# ---------------------------------------------------------------------------------------------- answers


def test_every_dialect_gives_the_answers_of_the_classifier(client, served):
    """Also of a text of several windows. Kind: labels and scores in different orders."""
    for model in served:
        expected = model.classifier.predict_proba(TEXTS)
        asked = {"texts": TEXTS, "models": [model.name], "probabilities": True}
        rows = client.post("/v1/predict", json=asked).json()["results"][model.name]
        found = [[row["probabilities"][label] for label in LABELS] for row in rows]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        nested = client.post(f"/models/{model.name}/predict", json={"inputs": [[text] for text in TEXTS]}).json()
        np.testing.assert_allclose(probabilities(nested), expected, atol=1e-5)
        listed = client.post(f"/models/{model.name}", json={"inputs": TEXTS}).json()
        np.testing.assert_allclose(probabilities(listed), expected, atol=1e-5)
        data = client.post("/classify", json={"model": model.name, "input": TEXTS}).json()["data"]
        np.testing.assert_allclose([each["probs"] for each in data], expected, atol=1e-5)
        best = [LABELS[index] for index in expected.argmax(axis=1)]
        for labels in ([row[0]["label"] for row in nested], [each["label"] for each in data]):
            assert labels == best
        assert all(row[0]["score"] > row[1]["score"] > row[2]["score"] for row in [*nested, *listed])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_answers_do_not_depend_on_who_asks_at_the_same_time(folders, precision):
    """In float32 to 1e-5; in bfloat16 to 0.05, as far as `predict` itself moves with the composition of a batch."""
    model = load_served("dense", folders / "dense", precision=precision)
    texts = [
        f"the {word} thing {'and more ' * (i % 9)}number {i}" for i in range(16) for word in ("great", "bad", "dull")
    ]
    expected = model.classifier.predict_proba(texts)
    with TestClient(create_service([model], ServeConfig(batch_tokens=300)), base_url=BASE) as client:

        def ask(row):
            return client.post("/predict", json={"inputs": texts[row]}).json()

        with ThreadPoolExecutor(16) as pool:
            found = probabilities(list(pool.map(ask, range(len(texts)))))
    np.testing.assert_allclose(found, expected, atol=1e-5 if precision == "float32" else 0.05)


def test_our_dialect_says_what_predict_says(client, served, folders):
    """label, score, reason and guess of `sentimoe predict`, and what else is asked for."""
    texts = [*TEXTS, "", "lovely"]
    asked = {"texts": texts, "models": ["experts", "careful"], "probabilities": True, "routing": True, "exits": True}
    results = client.post("/v1/predict", json=asked | {"truncate": True}).json()["results"]
    assert list(results) == ["experts", "careful"]
    for name, rows in results.items():
        told = ("--model", folders / name, "--precision", "float32", "--long-texts", "truncate")
        lines = invoke("predict", *told, text="\n".join(texts) + "\n").stdout.splitlines()
        for row, line in zip(rows, map(json.loads, lines), strict=True):
            for key in ("label", "reason", "guess", "truncated"):
                assert row.get(key) == line.get(key), (name, key)
            assert row["score"] == pytest.approx(line["score"], abs=1e-5)
    assert results["careful"][0]["reason"] == "doubtful" and results["careful"][4]["reason"] == "blank"
    routing = results["experts"][1]["routing"]
    assert routing["layers"] == [0, 1] and [len(each["experts"]) for each in routing["tokens"]] == [2, 2, 2]
    assert [TEXTS[1][each["start"] : each["end"]] for each in routing["tokens"]] == ["", "bad", ""]
    assert results["careful"][1]["routing"] is None and results["careful"][1]["layers"] is None


def test_a_label_that_is_a_number_stays_one():
    model = ServedModel("stars", StubEngine(), [1, 2, 3])
    with TestClient(create_service([model], ServeConfig()), base_url=BASE) as client:
        row = client.post("/v1/predict", json={"texts": "x", "probabilities": True}).json()["results"]["stars"][0]
        assert row["label"] in (1, 2, 3) and set(row["probabilities"]) == {"1", "2", "3"}
        assert client.post("/models/stars", json={"inputs": "x"}).json()[0][0]["label"] == str(row["label"])


def test_raw_scores_are_logits(client, served):
    with np.errstate(all="raise"):
        asked = {"inputs": [["bad"]], "raw_scores": True}
        raw = probabilities(client.post("/models/dense/predict", json=asked).json())[0]
    expected = served[1].classifier.predict_proba(["bad"])[0]
    np.testing.assert_allclose(np.exp(raw) / np.exp(raw).sum(), expected, atol=1e-5)
    assert raw.sum() != pytest.approx(1, abs=1e-3)
    for function, values in (("none", raw), ("sigmoid", 1 / (1 + np.exp(-raw))), ("softmax", expected)):
        asked = {"inputs": "bad", "parameters": {"function_to_apply": function}}
        found = probabilities(client.post("/models/dense", json=asked).json())[0]
        np.testing.assert_allclose(found, values, atol=1e-5)
    asked = {"model": "dense", "input": "bad", "use_activation": False}
    np.testing.assert_allclose(client.post("/classify", json=asked).json()["data"][0]["probs"], raw, atol=1e-5)


def test_long_texts_are_read_whole_or_cut(client, served):
    whole, cut = (
        probabilities([client.post("/predict", json={"inputs": TEXTS[2], "truncate": each}).json()])[0]
        for each in (False, True)
    )
    engine = served[0].engine
    assert not np.allclose(whole, cut, atol=1e-4)
    windows = engine.windows([TEXTS[2]], "truncate")
    np.testing.assert_allclose(cut, engine.window_probabilities(windows)[0], atol=1e-5)


# --------------------------------------------------------------------------- text-embeddings-inference


def test_tei_replies_follow_its_schema(stub):
    single, batch = (stub.post("/predict", json={"inputs": each}) for each in ("one", [["one"], ["two"]]))
    jsonschema.validate(single.json(), schemas.TEI_PREDICTIONS)
    jsonschema.validate(batch.json(), schemas.TEI_BATCH)
    assert batch.json()[0] == single.json() == stub.post("/predict", json={"inputs": ["one"]}).json()
    jsonschema.validate(stub.get("/info").json(), schemas.TEI_INFO)
    assert stub.get("/models/stub/info").json()["model_id"] == "stub" and stub.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("inputs", "status", "kind", "reason"),
    [
        (["one", "two"], 422, "Tokenizer", "is a pair of texts"),
        ([["one", "two"], ["three"]], 422, "Tokenizer", "is a pair of texts"),
        (["one", "two", "three"], 422, "Tokenizer", "3 strings is no batch"),
        ([["one"], []], 422, "Tokenizer", "is a list of one string"),
        (["one", ["two"]], 422, "Tokenizer", "valid string"),
        (5, 422, "Tokenizer", "valid string"),
        ([], 400, "Empty", "cannot be empty"),
        ("  ", 400, "Empty", "blank"),
        ([["one"], [""]], 400, "Empty", "text 1 of `inputs` is blank"),
        ([["x"]] * 257, 413, "Validation", "may hold 256"),
        ("x" * 20_001, 413, "Validation", "20000"),
        ("broken", 424, "Backend", "see the log"),
        ("nan", 424, "Backend", "no answer"),
    ],
)
def test_tei_errors_are_its_own(stub, inputs, status, kind, reason):
    response = stub.post("/predict", json={"inputs": inputs})
    assert response.status_code == status and reason in response.json()["error"], response.text
    jsonschema.validate(response.json(), schemas.TEI_ERROR)
    assert response.json()["error_type"] == kind


def test_a_request_that_never_fits_is_not_told_to_come_again():
    """Kind: 0 texts are waiting, and at most 10 may; try again in 1 s."""
    with over_a_stub(ServeConfig(max_queue=10)) as client:
        never = client.post("/predict", json={"inputs": [["x"]] * 11})
        assert client.post("/predict", json={"inputs": [["x"]] * 10}).status_code == 200
    assert never.status_code == 413 and "send several" in never.json()["error"] and "retry-after" not in never.headers


def test_a_full_queue_is_429_with_retry_after():
    with over_a_stub(ServeConfig(max_queue=20), seconds_per_batch=0.3) as client:
        first = threading.Thread(target=client.post, args=("/predict",), kwargs={"json": {"inputs": [["x"]] * 15}})
        first.start()
        while not client.get("/metrics").text.count('queue_texts{model="stub"} 15.0'):
            pass
        full = client.post("/predict", json={"inputs": [["x"]] * 6})  # 15 + 6 texts, two requests
        first.join()
    jsonschema.validate(full.json(), schemas.TEI_ERROR)
    assert (full.status_code, full.json()["error_type"]) == (429, "Overloaded") and int(full.headers["Retry-After"]) > 0


# ------------------------------------------------------------------------------ Hugging Face and vLLM


def test_top_k_and_unknown_parameters(stub):
    asked = {"inputs": "one", "parameters": {"top_k": 2}}
    whole = stub.post("/models/stub", json={"inputs": "one"}).json()
    assert stub.post("/models/stub", json=asked).json() == [whole[0][:2]] and len(whole[0]) == 3
    for parameters in ({"top_k": 0}, {"function_to_apply": "argmax"}, {"temperature": 2}):
        refused = stub.post("/models/stub", json={"inputs": "one", "parameters": parameters})
        assert refused.status_code == 422 and next(iter(parameters)) in refused.json()["error"]
    missing = stub.post("/models/other", json={"inputs": "one"})
    assert missing.status_code == 404 and missing.json() == {"error": "there is no model of that name; there are stub"}


def test_vllm_replies_follow_its_schema(stub):
    for given in ("one two", ["one two", "three"]):
        reply = stub.post("/classify", json={"model": "stub", "input": given}).json()
        jsonschema.validate(reply, schemas.VLLM_REPLY)
        assert [each["index"] for each in reply["data"]] == list(range(len(reply["data"])))
    assert reply["usage"]["prompt_tokens"] == 3 and reply["model"] == "stub"
    for given, status in (({"input": [1, 2]}, 400), ({"model": "x", "input": "one"}, 404), ({"input": ""}, 400)):
        refused = stub.post("/classify", json=given)
        assert refused.status_code == status == refused.json()["error"]["code"]
        jsonschema.validate(refused.json(), schemas.VLLM_ERROR)
    jsonschema.validate(stub.get("/v1/models").json(), schemas.OPENAI_MODELS)


# ---------------------------------------------------------------------------------------------- limits


def test_bodies_are_refused_while_they_come(stub):
    """Kind: a length that is believed, or read to the end before it is refused."""
    read = []

    def parts():
        for _ in range(50):
            read.append(1)
            yield b" " * 100_000

    response = stub.post("/predict", content=parts(), headers={"content-type": "application/json"})
    assert response.status_code == 413 and response.json()["error_type"] == "Validation"
    said = stub.post("/v1/predict", content=b"{}", headers={"content-length": "2000000"})
    assert said.status_code == 413 and "longer than 1000000 bytes" in said.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 422),
        (b'{"texts": "x", "models": ' + b"[" * 17 + b"]" * 17 + b"}", 422),
        (b'{"texts": "' + b"[" * 1000 + b'"}', 200),
        (b'{"texts": "\\"' + b"{" * 1000 + b'\\\\"}', 200),
        ('{"texts": "x"}'.encode("utf-16"), 422),
        (b'{"texts": "\\ud800"}', 422),
        (b'{"texts": ' + b"9" * 5000 + b"}", 422),
        (b'{"texts": "x", "probabilities": NaN}', 422),
        (b'{"texts": "x"', 422),
        (b"\xff", 422),
        (b"", 422),
    ],
)
def test_odd_bodies_are_refused_with_a_reason(stub, body, status):
    response = stub.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert status == 200 or isinstance(response.json()["detail"], str)


def test_only_under_its_own_names_and_from_no_other_page(stub):
    """Kind: a page elsewhere whose name was made to point here, or that posts from a browser."""
    asked = {"json": {"inputs": "x"}}
    stranger = stub.post("/predict", headers={"host": "evil.example"}, **asked)
    assert stranger.status_code == 403 and "--allow-host" in stranger.json()["error"]
    for path in ("/health", "/metrics"):
        assert stub.get(path, headers={"host": "10.0.0.7:8080"}).status_code == 200
    assert stub.get("/info", headers={"host": "10.0.0.7:8080"}).status_code == 403
    for host in ("localhost:8080", "[::1]:8080", "LOCALHOST"):
        assert stub.get("/info", headers={"host": host}).status_code == 200
    for origin, status in (
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://127.0.0.1", 200),
    ):
        assert stub.post("/predict", headers={"origin": origin}, **asked).status_code == status
    with over_a_stub(ServeConfig(allow_host=("models.internal",))) as client:
        assert client.get("/info", headers={"host": "models.internal:80"}).status_code == 200
    with over_a_stub(ServeConfig(allow_host=("*",))) as client:
        assert client.get("/info", headers={"host": "anything"}).status_code == 200


def test_a_token_is_wanted_of_everybody_but_health_probes():
    with over_a_stub(token="secret-token") as client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/"):
            refused = client.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").status_code == 200
        for told, status in (("Bearer secret-token", 200), ("Bearer secret-toke", 401), ("Basic secret-token", 401)):
            assert client.get("/v1/models", headers={"authorization": told}).status_code == status


def test_several_models_in_one_call_hold_their_own_limits(stub):
    unknown = stub.post("/v1/predict", json={"texts": "x", "models": ["stub", "other"]})
    assert unknown.status_code == 404 and "there are stub" in unknown.json()["detail"]
    assert stub.post("/v1/predict", json={"texts": "x", "colour": 1}).status_code == 422
    twice = stub.post("/v1/predict", json={"texts": "x", "models": ["stub", "stub"]}).json()
    assert list(twice["results"]) == ["stub"]


# ------------------------------------------------------------------------------------------- operation


def test_metrics_count_what_was_answered(folders):
    models = [
        ServedModel("stub", StubEngine(layers=True), LABELS, threshold=0.99),
        load_served("dense", folders / "dense", precision="float32"),
    ]
    with TestClient(create_service(models, ServeConfig()), base_url=BASE) as client:
        client.post("/v1/predict", json={"texts": ["one two", "one", ""]})
        client.post("/models/stub", json={"inputs": "one"})  # gets its label: the dialect knows no threshold
        client.post("/models/dense", json={"inputs": "one"})
        client.post("/predict", json={"inputs": ["a", "b"]})
        told = client.get("/metrics").text
    for line in (
        'sentimoe_requests_total{dialect="sentimoe",status="200"} 1.0',
        'sentimoe_requests_total{dialect="tei",status="422"} 1.0',
        'sentimoe_texts_total{model="stub"} 4.0',
        'sentimoe_tokens_total{model="stub"} 4.0',
        'sentimoe_tokens_total{model="dense"} 3.0',
        'sentimoe_exits_total{layers="3",model="stub"} 1.0',
        'sentimoe_exits_total{layers="2",model="stub"} 2.0',
        'sentimoe_abstentions_total{model="stub",reason="blank"} 1.0',
        'sentimoe_abstentions_total{model="stub",reason="doubtful"} 2.0',
        'sentimoe_batch_texts_sum{model="stub"} 3.0',
        'sentimoe_queue_texts{model="stub"} 0.0',
        'sentimoe_request_seconds_count{dialect="huggingface"} 2.0',
    ):
        assert line in told, line


def test_the_log_holds_no_text(stub, caplog):
    """A text in the body, the address, a header or an error of the model stays out of it."""
    secret = "pomegranate"
    with caplog.at_level(logging.INFO, "sentimoe.service"):
        stub.post("/predict", json={"inputs": f"{secret} broken"}, headers={"x-request-id": f"{secret} {secret}"})
        stub.post(f"/models/{secret}?q={secret}", json={"inputs": secret})
        response = stub.post("/v1/predict", json={"texts": [secret] * 3}, headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    records = [record.told for record in caplog.records if record.message == "request"]
    assert records[-1] | {"ms": 0} == {
        "id": "abc-1", "method": "POST", "route": "/v1/predict", "status": 200, "ms": 0, "texts": 3,
    }  # fmt: skip
    assert [record["status"] for record in records] == [424, 404, 200] and records[1]["route"] == "/models/{name}"
    from sentimoe.service.watching import JsonLines

    lines = [JsonLines().format(record) for record in caplog.records]
    assert all(json.loads(line)["level"] for line in lines) and secret not in "".join(lines)


def test_openapi_names_every_dialect_and_nothing_elsewhere(stub):
    told = stub.get("/openapi.json")
    paths = told.json()["paths"]
    assert {"/v1/predict", "/v1/models", "/predict", "/info", "/models/{name}", "/classify", "/health"} <= set(paths)
    assert "http" not in told.text
    assert stub.get("/docs").status_code == 404


def test_the_page_is_under_the_root(client, stub):
    assert "What do the experts do" in client.get("/").text
    answer = client.post("/api/answer", json={"text": "bad", "model": "experts"})
    assert answer.status_code == 200 and len(answer.json()["probabilities"]) == 3
    assert stub.get("/").status_code == 404  # no model of torch to show
    for wrong in (client.get("/predict"), stub.get("/predict")):  # the page takes no address of a dialect
        jsonschema.validate(wrong.json(), schemas.TEI_ERROR)
        assert wrong.status_code == 405
    assert client.get("/static/page.js").status_code == client.get("/static/../api/models").status_code == 200


def test_openvino_answers_and_is_not_looked_into(folders, client):
    """Kind: a page that stays blank, and 500 for a routing."""
    pytest.importorskip("openvino")
    compiled = load_served("compiled", folders / "experts", precision="float32", backend="openvino")
    asked = {"texts": ["a great thing"], "routing": True, "probabilities": True}
    with TestClient(create_service([compiled], ServeConfig()), base_url=BASE) as own:
        answer, about = own.post("/v1/predict", json=asked), own.get("/v1/models").json()["data"][0]
        assert own.get("/").status_code == own.get("/api/models").status_code == 404
    assert answer.status_code == 200 and about["kind"] == "experts"
    (row,) = answer.json()["results"]["compiled"]
    (same,) = client.post("/v1/predict", json=asked).json()["results"]["experts"]
    assert row["routing"] is None and same["routing"]["tokens"]
    assert row["probabilities"] == pytest.approx(same["probabilities"], abs=1e-4)


def test_repeated_names_are_refused():
    model = ServedModel("a", StubEngine(), LABELS)
    with pytest.raises(ConfigError, match="the names a are given more than once"):
        create_service([model, model], ServeConfig())


# ---------------------------------------------------------------------------------------- command line


@pytest.fixture
def started(monkeypatch):
    """The applications that would have been served, and their settings."""
    servers = []
    keep = lambda server, sockets: servers.append((server.config, sockets[0].getsockname()))  # noqa: E731
    monkeypatch.setattr(uvicorn.Server, "run", keep)
    return servers


def test_the_command_serves_folders_under_names(folders, started, monkeypatch):
    monkeypatch.setenv("SENTIMOE_TOKEN", "a-long-token")
    done = invoke("serve", folders / "dense", f"mine={folders / 'experts'}", "--port", 0, "--max-texts", 3)
    assert done.exit_code == 0, done.stderr
    ((config, (host, port)),) = started
    assert list(config.app.state.models.by_name) == ["dense", "mine"]
    assert f"http://{host}:{port}" in done.stderr and host == "127.0.0.1"
    with TestClient(config.app, base_url=BASE) as client:
        assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["dense", "dense"], "two models are called dense"),
        (["a=dense", "a=experts"], "two models are called a"),
        (["a b=dense"], "cannot stand in an address"),
        (["nowhere"], "is not a trained model"),
        (["dense", "--max-texts", "0"], "max_texts=0 is not allowed; it must be a whole number, 1 or more"),
        (["dense", "--token-file", "missing"], "no such file"),
        (["dense", "--token-file", "short"], "8 or more"),
        (["dense", "--max-disagreement", "0.01"], "is for compressed models"),
        (["dense", "--host", "256.0.0.1"], "cannot be used"),
    ],
)
def test_mistakes_on_the_command_line(folders, started, monkeypatch, arguments, reason):
    monkeypatch.chdir(folders)
    (folders / "short").write_text("abc\n")
    done = invoke("serve", *arguments)
    assert done.exit_code == 2 and reason in done.error and not started


def test_labelled_texts_are_answered_as_they_were_learnt(tmp_path):
    """A trained model, whole: the label of the training comes out of every dialect."""
    texts, labels = labelled_texts(160)
    settings = {"model": write_backbone(tmp_path / "backbone"), "epochs": 8, "learning_rate": 5e-3, "batch_size": 16}
    SentimentClassifier(method="full", max_length=32, **settings).fit(texts, labels).save_pretrained(tmp_path / "mine")
    model = load_served("mine", tmp_path / "mine")
    with TestClient(create_service([model], ServeConfig()), base_url=BASE) as client:
        found = client.post("/predict", json={"inputs": [[text] for text in texts[:20]]}).json()
        assert np.mean([row[0]["label"] == label for row, label in zip(found, labels[:20], strict=True)]) > 0.9
