"""Domains added to a classifier one by one (fdu-mtl): old texts, new texts, routing, size and time after each step.

Two kinds of update on the same trunk under the same router. The top of a domain depends on the base alone, so each is
trained once and serves all orders; only the router is fitted anew. All tops that may answer a test text answer it once,
and each step is put together from these answers. `added_rivals` has what is trained otherwise.
Legend: B texts, C labels, D hidden.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score

from sentimoe import SentimentClassifier
from sentimoe.data import SentimentDataset, Split, load_dataset
from sentimoe.domains.add import Recipe
from sentimoe.domains.old import some
from sentimoe.domains.router import Fitted, fit_router
from sentimoe.domains.states import Trunk
from sentimoe.domains.top import trained_domain, with_labels_of
from sentimoe.domains.updates import KINDS
from sentimoe.errors import ConfigError, DivergedError
from sentimoe.evaluation import interleaved, ratio, throughput
from sentimoe.inference import Engine, RoutedClassifier, compute_dtype
from sentimoe.inference.domain_folder import weights_hash
from sentimoe.inference.routed import Domain, routed
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json, written_aside
from sentimoe.training import Stop, TrainConfig, train

from .domains import write_domains

BACKBONE = "all-MiniLM-L6-v2"
OLD = ("apparel", "baby", "books", "dvd", "electronics", "health", "kitchen", "magazines")
NEW = ("mr", "software", "sports", "toys")
ORDERS = (NEW, NEW[::-1])
SETS = ("tweeteval-emotion", "tweets", "sst5")  # each with labels of its own
FACTORS = (1 / 3, 1.0, 3.0)  # of the learning rate, tried on validation with seed 0
STEP, TRIED = 3.0, 7  # while the best is at an end, one further is tried; so many at most
OLD_TEXTS, NEW_TEXTS, SET_TEXTS, SET_TRAIN = 200, 400, 1000, 4000  # texts of a domain
EPOCHS, TOKENS, MAX_MOVED, LAYERS, TIMED_TEXTS = 3, 128, 0.05, 2, 256


class Study:
    """work: keeps data, bases and tops, those of each seed in folders of their own. stop: of the training of a base."""

    def __init__(
        self, data_root: Path, work: Path, results: Path, progress: Callable[[str], None], seed: int = 0,
        stop: Stop | None = None,
    ) -> None:  # fmt: skip
        self.chosen = results / "domains" / "added-rates.json"
        if seed != 0 and not self.chosen.exists():
            raise ConfigError(f"{self.chosen} is not there; run seed 0 first, which chooses the learning rates")
        write_domains(data_root, work / "data", results)
        self.data_root, self.work, self.results, self.progress, self.seed = data_root, work, results, progress, seed
        self.base, self.kept = work / f"base-of-eight-s{seed}", work / f"added-s{seed}"
        self.kept.mkdir(parents=True, exist_ok=True)
        for name in (*NEW, *SETS):
            self._loaded(name)  # hours before it is read
        if not (self.base / "run.json").is_file():
            if (self.kept / "base.json").exists():
                raise ConfigError(f"{self.kept} was made from a base that is not in {self.base} any more; remove it")
            if seed == 0 and self.chosen.exists():
                raise ConfigError(f"{self.chosen} was chosen with a base that is not in {work}; remove it first")
            progress(f"seed {seed}: the base is trained")
            config = TrainConfig(
                model=BACKBONE, data=str(work / "data" / "fdu-mtl-of-eight"), method="full", epochs=EPOCHS,
                max_length=TOKENS, seed=seed,
            )  # fmt: skip
            train(config, self.base, resume=True, stop=stop)
        self._check_base()
        classifier = SentimentClassifier.from_pretrained(self.base, long_texts="truncate")
        self.model, self.tokenizer = classifier.model, classifier.tokenizer
        self.own = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]
        self.dtype = compute_dtype("auto", self.model.device)
        self.cut = self.model.config.get_text_config().num_hidden_layers - LAYERS
        self.trunk = Trunk(self.model, self.tokenizer, self.cut, "auto")

    def _check_base(self) -> None:
        """Raises ConfigError where what is kept was made from another base."""
        made_from, now = self.kept / "base.json", {"weights": weights_hash(self.base)}
        if made_from.exists() and read_json(made_from) != now:
            raise ConfigError(f"{self.kept} was made from other weights than those in {self.base}; remove it")
        write_json(made_from, now)

    def run(self) -> None:
        """Do what is left, and write the record of this seed."""
        rates = self.rates()
        tops = {kind: {name: self.top(name, kind, rates[kind]) for name in (*NEW, *SETS)} for kind in KINDS}
        found = self.answers(tops, rates)
        record: dict[str, Any] = {"seed": self.seed, "versions": versions(), "hardware": hardware(), "rates": rates}
        record |= read_json(self.kept / "base.json")
        record |= {"max_moved": MAX_MOVED, "layers": LAYERS, "old_texts": len(OLD) * OLD_TEXTS}
        record["domains"] = {name: self._of_domain(name, found, rates) for name in (*NEW, *SETS)}
        record["rows"] = [row for kind in KINDS for order in ORDERS for row in self.steps(kind, order, found)]
        record["sets"] = [row for kind in KINDS for row in self.steps(kind, SETS, found)]
        record["speed"] = self._speed(tops["lora"])
        stem = self.results / "domains" / f"added__s{self.seed}"
        known = {kind: np.concatenate([found[f"{kind} {name} {name}"] for name in NEW]) for kind in KINDS}
        labels = np.concatenate([found[f"labels {name}"] for name in NEW])
        save_arrays(
            stem.with_suffix(".npz"),
            {name: each == self.own[1] for name, each in known.items()} | {"labels": labels == self.own[1]},
        )
        write_json(stem.with_suffix(".json"), record)

    def data(self, name: str) -> SentimentDataset:
        """A domain of reviews, or a data set with labels of its own, of which few enough texts are read."""
        dataset = with_labels_of(self._loaded(name), self.model)
        if name not in SETS:
            return dataset
        limits = {"train": SET_TRAIN, "validation": SET_TRAIN // 8}
        splits = {split: part.sample(limits.get(split, len(part))) for split, part in dataset.splits.items()}
        return replace(dataset, splits=splits)

    def _loaded(self, name: str) -> SentimentDataset:
        path = self.data_root / name if name in SETS else self.work / "data" / f"fdu-mtl-{name}"
        return load_dataset(str(path) if path.is_dir() else name)

    def test(self, name: str) -> tuple[list[str], np.ndarray]:
        """Test texts of a domain, and the names of their labels."""
        count = OLD_TEXTS if name in OLD else SET_TEXTS if name in SETS else NEW_TEXTS
        dataset = self.data(name)
        split: Split = dataset.splits["test"].sample(count)
        return split.texts, np.array([str(dataset.label_names[label]) for label in split.labels])

    def vectors(self, name: str) -> np.ndarray:
        """Pooled states of up to 2,000 training texts; of those of the base, all domains together."""
        path = self.kept / f"vectors-{name}.npz"
        if not path.exists():
            data = load_dataset(str(self.work / "data" / "fdu-mtl-of-eight")) if name == "base" else self.data(name)
            texts = np.array(data.splits["train"].texts, dtype=object)
            save_arrays(path, {"pooled": self.trunk.read(some(texts, 0).tolist()).pooled})
        return np.load(path)["pooled"]

    def rates(self) -> dict[str, float]:
        """The factor of the learning rate of each kind: the best on the validation texts of the four domains, seed 0.

        The best one has a worse one on either side, unless as many as allowed were tried.
        Raises ConfigError where another base of seed 0 chose it.
        """
        base = read_json(self.kept / "base.json")
        if self.chosen.exists():
            found = read_json(self.chosen)
            if self.seed == 0 and found["base"] != base:
                raise ConfigError(f"{self.chosen} was chosen with another base; remove it")
            return {kind: float(factor) for kind, factor in found["chosen"].items()}
        tried = {kind: tried_until_inside(partial(self._loss, kind)) for kind in KINDS}
        chosen = {kind: min(losses, key=lambda factor: losses[factor]) for kind, losses in tried.items()}
        trials = [
            {"kind": kind, "factor": factor, "validation_loss": loss}
            for kind, losses in tried.items()
            for factor, loss in sorted(losses.items())
        ]
        told = {"trials": trials, "chosen": chosen, "base": base, "versions": versions(), "hardware": hardware()}
        write_json(self.chosen, told)
        return chosen

    def _loss(self, kind: str, factor: float) -> float:
        """Mean loss on the validation texts of the four domains; infinite where a training diverges."""
        try:
            return float(np.mean([self._trained(name, kind, factor)["validation_loss"] for name in NEW]))
        except DivergedError as error:
            self.progress(f"{kind}, {factor:.2f} times the rate: {error}")
            return math.inf

    def top(self, name: str, kind: str, factor: float) -> Domain:
        """The trained top of a domain; its router is fitted later."""
        self._trained(name, kind, factor)
        updates = load_file(f"{self._stem(name, kind, factor)}.safetensors")
        dataset, nothing = self.data(name), np.zeros(self.model.config.get_text_config().hidden_size, dtype=np.float32)
        return Domain(name, list(dataset.label_names), dataset.label_type, self.cut, nothing, 0.0, updates)

    def _stem(self, name: str, kind: str, factor: float) -> Path:
        return self.kept / f"{name}-{kind}-{factor:.2f}x"

    def _trained(self, name: str, kind: str, factor: float) -> dict[str, Any]:
        """Train a top where it is missing; its seconds, megabytes and loss on validation."""
        path = Path(f"{self._stem(name, kind, factor)}.json")
        if path.exists():
            return read_json(path)
        dataset, recipe = self.data(name), Recipe()
        read = {split: self.trunk.read(dataset.splits[split].texts, True) for split in ("train", "validation")}
        nothing = Fitted(np.zeros(self.model.config.get_text_config().hidden_size, dtype=np.float32), 0.0, 0.0, 0.0)
        started = time.monotonic()
        domain = trained_domain(
            self.model, name, dataset, read, self.cut, nothing, kind=kind, epochs=recipe.epochs,
            rate=factor * recipe.learning_rate, seed=self.seed, dtype=self.dtype,
        )  # fmt: skip
        seconds = time.monotonic() - started
        network = RoutedClassifier(self.model, [domain], self.dtype).tops[1]
        logits, held_out = asked(network, read["validation"].states), read["validation"].rows
        labels = torch.tensor([dataset.splits["validation"].labels[row] for row in held_out])
        weights = Path(f"{self._stem(name, kind, factor)}.safetensors")
        save_file({key: each.contiguous() for key, each in domain.updates.items()}, weights)
        told = {
            "hardware": hardware(),
            "training_seconds": round(seconds, 1),
            "megabytes": round(weights.stat().st_size / 1e6, 3),
        }
        told |= {"validation_loss": float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), labels))}
        write_json(path, told)
        loss = f"loss {told['validation_loss']:.4f}"
        self.progress(f"seed {self.seed}: {name}, {kind}, {factor:.2f} times the rate: {seconds:.0f} s, {loss}")
        return told

    def answers(self, tops: Mapping[str, Mapping[str, Domain]], rates: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Pooled states and labels of all test texts, and the label that each top gives them; by domain."""
        path = self.kept / f"answers-{'-'.join(f'{kind}{rate:.2f}' for kind, rate in rates.items())}.npz"
        if path.exists():
            return dict(np.load(path))
        found: dict[str, np.ndarray] = {}
        networks = {
            kind: RoutedClassifier(self.model, list(each.values()), self.dtype).tops for kind, each in tops.items()
        }
        for name in (*OLD, *NEW, *SETS):
            texts, labels = self.test(name)
            read = self.trunk.read(texts, states=True)
            found[f"labels {name}"] = labels[read.rows]
            found[f"pooled {name}"] = read.pooled
            base = networks["lora"][0]
            found[f"base {name}"] = np.array(self.own)[asked(base, read.states).argmax(axis=1)]
            for kind, domains in tops.items():
                for domain, network in zip(domains.values(), networks[kind][1:], strict=True):
                    if name in OLD or (domain.name in SETS) == (name in SETS):
                        said = np.array([str(label) for label in domain.labels])[
                            asked(network, read.states).argmax(axis=1)
                        ]
                        found[f"{kind} {domain.name} {name}"] = said
            self.progress(f"seed {self.seed}: test texts of {name} are answered")
        save_arrays(path, found)
        return found

    def _routers(self, order: Sequence[str]) -> dict[str, Fitted]:
        """Of domains that are added in this order."""
        old, fitted = [self.vectors("base")], {}
        for name in order:
            fitted[name] = fit_router(old, self.vectors(name), MAX_MOVED)
            old.append(self.vectors(name))
        return fitted

    def steps(self, kind: str, order: Sequence[str], found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """After each added domain: scores on old and added ones, routed and with the domain known, and routing."""
        routers, rows = self._routers(order), []
        for step in range(len(order) + 1):
            added = list(order[:step])
            row: dict[str, Any] = {"kind": kind, "order": list(order), "added": added, "domains": {}}
            old_labels, old_said, old_moved = [], [], []
            for name in (*OLD, *order):
                labels = found[f"labels {name}"]
                said = np.stack([found[f"base {name}"], *(found[f"{kind} {top} {name}"] for top in added)])
                scores = [found[f"pooled {name}"] @ routers[top].weight + routers[top].bias for top in added]
                going = routed(np.stack(scores, axis=1)) if added else np.zeros(len(labels), dtype=int)
                answered = said[going, np.arange(len(labels))]
                if name in OLD:
                    old_labels.append(labels)
                    old_said.append(answered)
                    old_moved.append(going > 0)
                    continue
                row["domains"][name] = score(labels, answered)
                if name in added:
                    own = added.index(name) + 1
                    known = score(labels, said[own])
                    row["domains"][name] |= {
                        "known": known["accuracy"],
                        "known_f1": known["f1_weighted"],
                        "found": float((going == own).mean()),
                    }
            row["old"] = score(np.concatenate(old_labels), np.concatenate(old_said))
            row["old"]["moved"] = float(np.concatenate(old_moved).mean())
            rows.append(row)
        return rows

    def _of_domain(self, name: str, found: Mapping[str, np.ndarray], rates: Mapping[str, float]) -> dict[str, Any]:
        """Size, time and scores of each kind where the domain is known."""
        labels = found[f"labels {name}"]
        row: dict[str, Any] = {} if name in SETS else {"base": score(labels, found[f"base {name}"])["accuracy"]}
        for kind in KINDS:
            row[kind] = self._trained(name, kind, rates[kind]) | score(labels, found[f"{kind} {name} {name}"])
        return row | {"texts": len(labels)}

    def _speed(self, tops: Mapping[str, Domain]) -> dict[str, Any]:
        """Mixed batches of five tops against the base, in turns."""
        path = self.kept / "speed.json"
        if not path.exists():
            routers = self._routers(NEW)
            domains = [replace(tops[name], weight=routers[name].weight, bias=routers[name].bias) for name in NEW]
            texts = [text for name in (*OLD[:4], *NEW) for text in self.test(name)[0][: TIMED_TEXTS // 8]]
            base = Engine(self.model, self.tokenizer, long_texts="truncate")
            mixed = base.with_model(RoutedClassifier(self.model, domains, self.dtype))
            seconds = interleaved({"base": lambda: base.predict(texts), "mixed": lambda: mixed.predict(texts)}, 5)
            rates = {name: throughput(each, len(texts)) for name, each in seconds.items()}
            found = {"ratio": ratio(seconds["mixed"], seconds["base"]), "texts": len(texts), "tops": len(domains) + 1}
            write_json(path, rates | found)
        return read_json(path)


def tried_until_inside(loss: Callable[[float], float]) -> dict[float, float]:
    """The loss of each factor that was tried: those of `FACTORS`, and further ones while the best is at an end."""
    found = {factor: loss(factor) for factor in FACTORS}
    while True:
        best = min(found, key=lambda factor: found[factor])
        if min(found) < best < max(found) or len(found) >= TRIED:
            return found
        further = best * STEP if best == max(found) else best / STEP
        found[further] = loss(further)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays, whole or not at all."""
    with written_aside(path, overwrite=True) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


@torch.inference_mode()
def asked(top: Any, states: Sequence[torch.Tensor]) -> np.ndarray:
    """The logits of a top `[B, C]`. states: `[L, D]` of each text."""
    logits, device = [], next(top.model.parameters()).device
    for start in range(0, len(states), 32):
        part = list(states[start : start + 32])
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(each)) for each in part], batch_first=True).long()
        given = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        logits.append(top(given.to(device), mask.to(device))[1].float().cpu().numpy())
    return np.concatenate(logits)


def score(labels: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Accuracy and weighted F1 of names of labels `[B]`."""
    f1 = f1_score(labels, said, average="weighted", zero_division=0)
    return {"accuracy": float((labels == said).mean()), "f1_weighted": float(f1)}
