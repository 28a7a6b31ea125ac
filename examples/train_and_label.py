"""Train a classifier on a CSV file and label another file.

    python examples/train_and_label.py reviews.csv new.csv labelled.csv --text review --label stars

The first file needs a column of texts and a column of labels, the second one a column of texts.
"""

import argparse

import pandas as pd

from sentimoe import SentimentClassifier

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("labelled", help="CSV file to train on")
parser.add_argument("unlabelled", help="CSV file to label")
parser.add_argument("output", help="CSV file to write")
parser.add_argument("--text", default="text", help="column of the texts")
parser.add_argument("--label", default="label", help="column of the labels")
parser.add_argument("--model", default="all-MiniLM-L6-v2", help="short name, folder or hub id")
parser.add_argument("--method", default="full", help="full: dense; moe-gated: with experts")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--max-length", type=int, default=256, help="tokens of each text that training reads")
arguments = parser.parse_args()

known = pd.read_csv(arguments.labelled)
classifier = SentimentClassifier(
    model=arguments.model, method=arguments.method, epochs=arguments.epochs, max_length=arguments.max_length
)
classifier.fit(known[arguments.text], known[arguments.label])
classifier.save_pretrained("my-classifier")

new = pd.read_csv(arguments.unlabelled)
new["predicted"] = classifier.predict(new[arguments.text])
new["score"] = classifier.predict_proba(new[arguments.text]).max(axis=1)
new.to_csv(arguments.output, index=False)
print(new["predicted"].value_counts().to_string())
