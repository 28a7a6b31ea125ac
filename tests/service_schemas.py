"""What the clients of other services rely on, from their published schemas, as JSON Schema.

text-embeddings-inference 1.7: docs/openapi.json (`PredictResponse`, `ErrorResponse`, `Info`). vLLM:
`ClassificationResponse`, `ErrorResponse` of its OpenAI-compatible server.
"""


def an_object(optional=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def a_list(items):
    return {"type": "array", "items": items}


TEXT, NUMBER, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
FLAG, PERHAPS_TEXT = {"type": "boolean"}, {"type": ["string", "null"]}

TEI_PREDICTIONS = a_list(an_object(score=NUMBER, label=TEXT))
TEI_BATCH = a_list(TEI_PREDICTIONS)
TEI_ERRORS = ["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
TEI_ERROR = an_object(error=TEXT, error_type={"enum": TEI_ERRORS})
TEI_LABELS = an_object(
    id2label={"type": "object", "additionalProperties": TEXT},
    label2id={"type": "object", "additionalProperties": WHOLE},
)
TEI_INFO = an_object(
    model_id=TEXT, model_dtype=TEXT, model_type=an_object(classifier=TEI_LABELS), max_concurrent_requests=WHOLE,
    max_input_length=WHOLE, max_batch_tokens=WHOLE, max_client_batch_size=WHOLE, auto_truncate=FLAG,
    tokenization_workers=WHOLE, version=TEXT, model_sha=PERHAPS_TEXT, sha=PERHAPS_TEXT, docker_label=PERHAPS_TEXT,
    max_batch_requests={"type": ["integer", "null"]},
    optional=("model_sha", "sha", "docker_label", "max_batch_requests"),
)  # fmt: skip

VLLM_USAGE = an_object(prompt_tokens=WHOLE, total_tokens=WHOLE, completion_tokens={"type": ["integer", "null"]})
VLLM_DATA = an_object(index=WHOLE, label=PERHAPS_TEXT, probs=a_list(NUMBER), num_classes=WHOLE)
VLLM_REPLY = an_object(
    id=TEXT, object={"const": "list"}, created=WHOLE, model=TEXT, data=a_list(VLLM_DATA), usage=VLLM_USAGE
)
VLLM_ERROR = an_object(error=an_object(message=TEXT, type=TEXT, param=PERHAPS_TEXT, code=WHOLE))
OPENAI_MODELS = an_object(
    object={"const": "list"},
    data=a_list(an_object(id=TEXT, object={"const": "model"}, created=WHOLE, owned_by=TEXT)),
)
