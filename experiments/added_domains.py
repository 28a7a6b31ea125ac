"""Domains added to a classifier one by one (fdu-mtl): old texts, new texts, routing, size and time after each step.

Two kinds of update on the same trunk under the same router; beside them, fine-tuning of the whole model on each domain
in turn. The top of a domain depends on the base alone, so each is trained once and serves both orders; only the router
is fitted anew. All tops that may answer a test text answer it once, and each step is put together from these answers.
Legend: B texts, C labels, D hidden.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from sentimoe import SentimentClassifier
from sentimoe.data import SentimentDataset, load_dataset
from sentimoe.domains.add import Recipe
from sentimoe.domains.router import Fitted, fit_router
from sentimoe.domains.states import Trunk
from sentimoe.domains.top import trained_domain, with_labels_of
from sentimoe.domains.updates import KINDS
from sentimoe.evaluation import interleaved, paired_bootstrap, ratio, throughput
from sentimoe.inference import Engine, RoutedClassifier, compute_dtype
from sentimoe.inference.routed import Domain, routed
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json
from sentimoe.training import TrainConfig, dataset_of, finished, fit, prepare

OLD = ("apparel", "baby", "books", "dvd", "electronics", "health", "kitchen", "magazines")
NEW = ("mr", "software", "sports", "toys")
ORDERS = (NEW, NEW[::-1])
FAR = "emotion"  # tweets with four other labels
PER_DOMAIN, FAR_TEXTS, MAX_MOVED = 200, 400, 0.05
SEQUENTIAL_EPOCHS, LAYERS, TIMED_TEXTS = 1, 2, 256


class Study:
    """work: holds `base-of-eight` and the data of single domains, and keeps what was trained."""

    def __init__(self, data_root: Path, work: Path, results: Path, progress: Callable[[str], None]):
        self.data_root, self.work, self.results, self.progress = data_root, work, results, progress
        self.base = work / "base-of-eight"
        self.kept = work / "added"
        self.kept.mkdir(parents=True, exist_ok=True)
        classifier = SentimentClassifier.from_pretrained(self.base, long_texts="truncate")
        self.model, self.tokenizer = classifier.model, classifier.tokenizer
        self.dtype = compute_dtype("auto", self.model.device)
        self.cut = self.model.config.get_text_config().num_hidden_layers - LAYERS
        self.trunk = Trunk(self.model, self.tokenizer, self.cut, "auto")

    def run(self) -> None:
        """Do what is left, and write the results."""
        record: dict[str, Any] = {"versions": versions(), "hardware": hardware(), "base": "fdu-mtl-of-eight"}
        record |= {"max_moved": MAX_MOVED, "layers": LAYERS, "old_texts": len(OLD) * PER_DOMAIN}
        tops = {kind: {name: self._top(name, kind) for name in NEW} for kind in KINDS}
        tops["lora"][FAR] = self._top(FAR, "lora")
        found = self._answers(tops)
        record["domains"] = {name: self._of_domain(name, found) for name in (*NEW, FAR)}
        record["rows"] = [row for kind in KINDS for order in ORDERS for row in self._steps(kind, order, found)]
        record["far"] = self._far(found)
        record["difference"] = self._difference(found)
        record["speed"] = self._speed(tops["lora"])
        record["sequential"] = []
        self._write(record)
        for row in self._sequential(ORDERS[0]):
            record["sequential"].append(row)
            self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        (self.results / "domains").mkdir(parents=True, exist_ok=True)
        write_json(self.results / "domains" / "added.json", record)

    def _data(self, name: str) -> SentimentDataset:
        folder = "tweeteval-emotion" if name == FAR else f"data/fdu-mtl-{name}"
        return with_labels_of(load_dataset(str((self.data_root if name == FAR else self.work) / folder)), self.model)

    def _test(self, name: str) -> tuple[list[str], np.ndarray]:
        """Test texts of a domain and their labels."""
        if name not in OLD:
            split = self._data(name).splits["test"].sample(FAR_TEXTS)
            return split.texts, np.array(split.labels)
        frame = pd.read_parquet(self.work / "data" / f"fdu-mtl-{name}" / "test.parquet")
        frame = frame.sample(PER_DOMAIN, random_state=0)
        names = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]
        return frame["text"].tolist(), np.array([names.index(label) for label in frame["label"]])

    def _vectors(self, name: str) -> np.ndarray:
        """Pooled states of the training texts; of 2,000 of the base."""
        path = self.kept / f"vectors-{name}.npy"
        if not path.exists():
            if name == "base":
                frame = pd.read_parquet(self.work / "data" / "fdu-mtl-of-eight" / "train.parquet")
                texts = frame["text"].sample(2000, random_state=0).tolist()
            else:
                texts = self._data(name).splits["train"].texts
            np.save(path, self.trunk.read(texts).pooled)
        return np.load(path)

    def _top(self, name: str, kind: str) -> Domain:
        """The trained top of a domain; its router is fitted later."""
        path = self.kept / f"{name}-{kind}"
        weight = np.zeros(self.model.config.get_text_config().hidden_size, dtype=np.float32)
        dataset = self._data(name)
        if not path.with_suffix(".json").exists():
            started = time.monotonic()
            read = {split: self.trunk.read(dataset.splits[split].texts, True) for split in ("train", "validation")}
            seconds = {"reading": round(time.monotonic() - started, 1)}
            started = time.monotonic()
            nothing = Fitted(weight, 0.0, 0.0, 0.0)
            recipe = Recipe()
            domain = trained_domain(
                self.model, name, dataset, read, self.cut, nothing,
                kind=kind, epochs=recipe.epochs, rate=recipe.learning_rate, seed=recipe.seed, dtype=self.dtype,
            )  # fmt: skip
            seconds["training"] = round(time.monotonic() - started, 1)
            save_file(
                {key: each.contiguous() for key, each in domain.updates.items()}, path.with_suffix(".safetensors")
            )
            size = path.with_suffix(".safetensors").stat().st_size
            write_json(path.with_suffix(".json"), {"seconds": seconds, "megabytes": round(size / 1e6, 3)})
            self.progress(f"{name}, {kind}: trained in {seconds['training']} s, {size / 1e6:.2f} MB")
        updates = load_file(path.with_suffix(".safetensors"))
        return Domain(name, list(dataset.label_names), dataset.label_type, self.cut, weight, 0.0, updates)

    def _answers(self, tops: Mapping[str, Mapping[str, Domain]]) -> dict[str, Any]:
        """Pooled states and labels of all test texts, and what each top says of them; by domain."""
        path = self.kept / "answers.npz"
        if path.exists():
            return dict(np.load(path))
        found: dict[str, Any] = {}
        together = {
            kind: RoutedClassifier(self.model, list(each.values()), self.dtype).tops for kind, each in tops.items()
        }
        for name in (*OLD, *NEW, FAR):
            texts, found[f"labels {name}"] = self._test(name)
            read = self.trunk.read(texts, states=True)
            found[f"pooled {name}"] = read.pooled
            for kind, domains in tops.items():
                for top, network in zip(domains, together[kind][1:], strict=True):
                    if top == name or FAR not in (top, name):
                        found[f"{kind} {top} {name}"] = self._asked(network, read.states)
            found[f"base {name}"] = self._asked(together["lora"][0], read.states)
            self.progress(f"{name}: test texts are answered")
        np.savez(path, **found)
        return found

    @torch.inference_mode()
    def _asked(self, top: Any, states: Sequence[torch.Tensor]) -> np.ndarray:
        """The label that a top gives each text, `[B]`."""
        labels = []
        for start in range(0, len(states), 32):
            part = list(states[start : start + 32])
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(each)) for each in part], batch_first=True).long()
            _, logits = top(torch.nn.utils.rnn.pad_sequence(part, batch_first=True), mask)
            labels.append(logits.float().argmax(dim=1).numpy())
        return np.concatenate(labels)

    def _routers(self, order: Sequence[str]) -> dict[str, Fitted]:
        """Of domains that are added in this order."""
        old, fitted = [self._vectors("base")], {}
        for name in order:
            vectors = self._vectors(name)
            fitted[name] = fit_router(old, vectors, MAX_MOVED)
            old.append(vectors)
        return fitted

    def _steps(self, kind: str, order: Sequence[str], found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """After each added domain: accuracy on old and added domains, routed and with the domain known, and routing."""
        routers, rows = self._routers(order), []
        for step in range(len(order) + 1):
            added = list(order[:step])
            row: dict[str, Any] = {"kind": kind, "order": list(order), "added": added, "domains": {}}
            old_right, old_moved = [], []
            for name in (*OLD, *order):
                labels, base = found[f"labels {name}"], found[f"base {name}"]
                said = np.stack([base, *(found[f"{kind} {top} {name}"] for top in added)])
                scores = [found[f"pooled {name}"] @ routers[top].weight + routers[top].bias for top in added]
                going = routed(np.stack(scores, axis=1)) if added else np.zeros(len(labels), dtype=int)
                right = said[going, np.arange(len(labels))] == labels
                if name in OLD:
                    old_right.append(right)
                    old_moved.append(going > 0)
                    continue
                row["domains"][name] = {"accuracy": float(right.mean())}
                if name in added:
                    own = added.index(name) + 1
                    row["domains"][name] |= {
                        "known": float((said[own] == labels).mean()),
                        "found": float((going == own).mean()),
                    }
            row["old"] = {
                "accuracy": float(np.concatenate(old_right).mean()),
                "moved": float(np.concatenate(old_moved).mean()),
            }
            rows.append(row)
        return rows

    def _of_domain(self, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """Size, time and accuracy of each kind where the domain is known."""
        labels = found[f"labels {name}"]
        row: dict[str, Any] = {} if name == FAR else {"base": float((found[f"base {name}"] == labels).mean())}
        for kind in ("lora",) if name == FAR else KINDS:
            known = read_json(self.kept / f"{name}-{kind}.json")
            row[kind] = known | {"accuracy": float((found[f"{kind} {name} {name}"] == labels).mean())}
        return row | {"texts": len(labels)}

    def _far(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Tweets with other labels, added to the base alone."""
        fitted = fit_router([self._vectors("base")], self._vectors(FAR), MAX_MOVED)
        taken = {name: found[f"pooled {name}"] @ fitted.weight + fitted.bias > 0 for name in (*OLD, FAR)}
        return {
            "found": float(taken[FAR].mean()),
            "moved": float(np.concatenate([taken[name] for name in OLD]).mean()),
            "routed": float(((found[f"lora {FAR} {FAR}"] == found[f"labels {FAR}"]) & taken[FAR]).mean()),
        }

    def _difference(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracy of experts minus that of LoRA on the four domains, each known, with a 95% interval."""
        labels = np.concatenate([found[f"labels {name}"] for name in NEW])
        one, other = (np.concatenate([found[f"{kind} {name} {name}"] for name in NEW]) for kind in ("experts", "lora"))
        return paired_bootstrap(labels, one, other, metric="accuracy")

    def _speed(self, tops: Mapping[str, Domain]) -> dict[str, Any]:
        """Mixed batches of five tops against the base, in turns."""
        path = self.kept / "speed.json"
        if path.exists():
            return read_json(path)
        routers = self._routers(NEW)
        domains = [replace(tops[name], weight=routers[name].weight, bias=routers[name].bias) for name in NEW]
        texts = [text for name in (*OLD[:4], *NEW) for text in self._test(name)[0][: TIMED_TEXTS // 8]]
        base = Engine(self.model, self.tokenizer, long_texts="truncate")
        mixed = base.with_model(RoutedClassifier(self.model, domains, self.dtype))
        seconds = interleaved({"base": lambda: base.predict(texts), "mixed": lambda: mixed.predict(texts)}, rounds=5)
        rates = {name: throughput(each, len(texts)) for name, each in seconds.items()}
        found = {"ratio": ratio(seconds["mixed"], seconds["base"]), "texts": len(texts), "tops": len(domains) + 1}
        write_json(path, rates | found)
        return rates | found

    def _sequential(self, order: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The whole model trained on each domain in turn: accuracy on old and added domains."""
        model = str(self.base)
        for step, name in enumerate(order, start=1):
            path = self.kept / f"sequential-{step}-{name}.json"
            folder = self.kept / f"sequential-{step}-{name}"
            if not path.exists():
                config = TrainConfig(
                    model=model, head="native", method="full", data=str(self.work / "data" / f"fdu-mtl-{name}"),
                    epochs=SEQUENTIAL_EPOCHS, max_length=128,
                )  # fmt: skip
                ready = prepare(config, dataset_of(config).with_label_order(["negative", "positive"]))
                started = time.monotonic()
                with tempfile.TemporaryDirectory() as place:
                    fit(ready, Path(place))
                row: dict[str, Any] = {"added": list(order[:step]), "seconds": round(time.monotonic() - started, 1)}
                engine = Engine(finished(ready), ready.tokenizer, long_texts="truncate")
                right = {}
                for each in (*OLD, *order[:step]):
                    texts, labels = self._test(each)
                    names = [self.model.config.id2label[label] for label in labels]
                    said = engine.predict_proba(texts).argmax(axis=1)
                    right[each] = np.array([engine.label_names[label] for label in said]) == names
                row["old"] = {"accuracy": float(np.concatenate([right[each] for each in OLD]).mean())}
                row["domains"] = {each: {"accuracy": float(right[each].mean())} for each in order[:step]}
                finished(ready).save_pretrained(str(folder))
                ready.tokenizer.save_pretrained(str(folder))
                write_json(path, row)
                self.progress(f"in turn, {name}: old texts {row['old']['accuracy']:.4f}")
            yield read_json(path)
            model = str(folder)
