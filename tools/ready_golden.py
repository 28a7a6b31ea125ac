"""Write what the ready models answer to 50 texts of ours into tests/fixtures/ready.json, for a test to compare with.

python tools/ready_golden.py
"""

from pathlib import Path

from sentimoe import SentimentClassifier
from sentimoe.records import read_json, write_json
from sentimoe_ready import ready_models

GOLDEN = Path(__file__).parents[1] / "tests" / "fixtures" / "ready.json"


def main() -> None:
    """Read the texts that stand there, and write them again with the answers of every model."""
    texts, models = read_json(GOLDEN)["texts"], {}
    for name in ready_models():
        classifier = SentimentClassifier.from_pretrained(name, precision="float32")
        rows = [[round(float(each), 5) for each in row] for row in classifier.predict_proba(texts)]
        models[name] = {"classes": classifier.classes_.tolist(), "probabilities": rows}
    write_json(GOLDEN, {"texts": texts, "models": models})


if __name__ == "__main__":
    main()
