"""`SentimentClassifier`: fit, predict, save and load in Python."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from sentimoe_settings import TrainConfig

from .data import SeenTexts, dataset_from_texts, text_chunks, values_of
from .errors import ConfigError
from .inference import Comparison, Engine, compute_dtype, export, export_compressed, is_compressed
from .loading import load
from .model_card import CARD, is_somebodys, made_from
from .model_folder import CONFIG, DOMAINS, THRESHOLD, read_object, same_weights
from .predictions import answers
from .upcycle import is_ordinal, label_type

if TYPE_CHECKING:
    from .methods import Prompt, ZeroShot

# `methods` and `training` bring peft and the Trainer: they are imported where they are used

logger = logging.getLogger(__name__)


class SentimentClassifier:
    """A text classifier with experts, or dense; an estimator of scikit-learn whose X is a column of texts.

    A fresh one takes the settings of `TrainConfig` (`model`, `method`, `epochs`, ...) and is trained with `fit`; a
    trained one is loaded with `from_pretrained`. Blank text has no answer: label None, probabilities NaN.
    `seen_texts` tells which texts it was trained on; None where that is not known.
    """

    def __init__(self, **settings: Any):
        self.config: TrainConfig | None = _config_of(settings)
        self._settings = settings
        self.model: Any = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.seen_texts: SeenTexts | None = None
        self._engine: Engine | ZeroShot | None = None
        self._folder: Path | None = None  # from which it was loaded
        self._is_own = False  # not that of an installed ready model, nor of the hub's cache
        self._loading: dict[str, Any] = {}  # and how

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        precision: str = "auto",
        long_texts: str = "windows",
        backend: str = "torch",
        num_experts_per_tok: int | None = None,
        max_disagreement: float | None = None,
        tokens_per_batch: int = 8192,
        trust_remote_code: bool = False,
        verify: bool = True,
        domain: str | None = None,
    ) -> SentimentClassifier:
        """Load a trained model, onto the GPU where there is one.

        folder: one written by `sentimoe train`, `save_pretrained`, `export` or `compress`; else the name of a ready
        model, such as "sentiment", or a hub id. precision: "auto" (bfloat16 where the processor has it), "bfloat16" or
        "float32". long_texts: "windows" or "truncate". backend: "torch" or "openvino". num_experts_per_tok: the dial
        of a model with experts; None: as it was saved. max_disagreement: the dial of a compressed model, one of its
        certified tolerances; 0: all layers read every text. tokens_per_batch: fewer take less memory.
        trust_remote_code: run the Python code that the folder brings along. verify: compare the folder with its
        manifest; False for one that was changed on purpose. domain: of a model with added domains, the only one that
        answers; "base": the model itself, without them; None: each text goes to the one that it belongs to.

        Raises ConfigError when there is no such model or it does not allow what is asked, and ModelFolderError when it
        is damaged or not trusted.
        """
        loaded = load(
            folder,
            precision=precision,
            num_experts_per_tok=num_experts_per_tok,
            max_disagreement=max_disagreement,
            trust_remote_code=trust_remote_code,
            verify=verify,
            domain=domain,
        )
        classifier = cls()
        classifier.config = None
        network: Any = loaded.network
        if isinstance(network, torch.nn.Module):
            network = classifier.model = network if backend == "openvino" else network.to(_device())
        classifier.tokenizer, classifier.seen_texts, classifier._folder = loaded.tokenizer, loaded.seen, loaded.folder
        classifier._is_own = Path(folder).is_dir()
        classifier._loading = {
            "precision": precision,
            "long_texts": long_texts,
            "tokens_per_batch": tokens_per_batch,
            "backend": backend,
            "trust_remote_code": trust_remote_code,
            "verify": verify,
        }
        classifier._engine = Engine(
            network,
            loaded.tokenizer,
            precision=precision,
            long_texts=long_texts,
            backend=backend,
            tokens_per_batch=tokens_per_batch,
        )
        return classifier

    @property
    def domains(self) -> list[str]:
        """The names in the order of `Predictions.domains`: "base" and the added domains; none: no domain was added."""
        return list(getattr(self.engine.model, "names", ())) if isinstance(self.engine, Engine) else []

    def add_domain(
        self,
        name: str,
        texts: Iterable[str],
        labels: Iterable[str | int],
        *,
        unlabelled: Iterable[str] = (),
        old_texts: Iterable[str] = (),
        old_labels: Iterable[str | int] | None = None,
        output: str | Path | None = None,
        **recipe: Any,
    ) -> dict[str, Any]:
        """Add a domain to the folder that this classifier was loaded from, and answer with it from now on.

        Texts that belong to it are answered by layers of its own, all others as before. texts, labels: of the domain; a
        tenth is held out. unlabelled: more texts of the domain, for the router. old_texts: of the kind that the model
        answers already, which are to stay where they are; old_labels: what is right for them. output: a new folder,
        which gets the model with its domains; the one that it was loaded from stays as it is. recipe: `layers`,
        `epochs`, `learning_rate`, `max_moved` and `seed`, see `sentimoe.domains.Recipe`.

        Returns the receipt. Raises ConfigError, DataError for too few texts, and NotSupportedError where more than
        `max_moved` of the old texts would go to the new domain; the folder is then as it was.
        """
        from .domains import OldTexts, Recipe, add_domain

        folder, how = self._loaded_folder("add_domain", output), ("precision", "trust_remote_code", "verify")
        old = list(values_of(old_texts, "old_texts"))
        right = None if old_labels is None else [str(label) for label in values_of(old_labels, "old_labels")]
        if right is not None and len(right) != len(old):
            raise ConfigError(f"{len(old)} old_texts but {len(right)} old_labels; give one label for each text")
        target = None if output is None else Path(output)
        receipt = add_domain(
            folder,
            name,
            dataset_from_texts(texts, labels),
            Recipe(**{name: self._loading[name] for name in how} | recipe),
            unlabelled=list(values_of(unlabelled, "unlabelled")),
            old_texts=OldTexts(old, right) if old else None,
            output=target,
        )
        self._reload(target or folder)
        return receipt

    def remove_domain(self, name: str) -> None:
        """Take an added domain away; the folder is as it was before. Raises ConfigError where there is none."""
        from .inference import remove_domain

        folder = self._loaded_folder("remove_domain")
        remove_domain(folder, name)
        self._reload(folder)

    def export(self, folder: str | Path) -> list[Comparison]:
        """Write an OpenVINO folder, with a model card, that `from_pretrained` and programs without this package run.

        Returns how it compares with the model, in each precision that this processor has; of a compressed one, whose
        networks stay as they are, nothing. Raises ConfigError when the folder is not empty or OpenVINO is not
        installed, and ConversionError when it would answer differently.
        """
        if self._folder is not None and is_compressed(self._folder):
            export_compressed(self._folder, Path(folder), self._loading["verify"])
            return []
        return export(*self._trained("export"), Path(folder), self.seen_texts, self._made_from)

    def compress(
        self, texts: Iterable[Any], folder: str | Path, *, max_disagreement: float = 0.01, **settings: Any
    ) -> dict[str, Any]:
        """Write a faster classifier whose labels are this one's, but for a certified share of further texts.

        texts: of the kind that it will read; they need no labels. settings: `labels`, `exits`, `int8`, `minutes` and
        `seed`, as `sentimoe.compression.compress` takes them. Returns the certificate and what else it says. Raises
        ConfigError, DataError where the texts are too few, and NotSupportedError where nothing faster keeps the
        promise.
        """
        from .compression import compress

        model, tokenizer = self._trained("compress")
        rows = [text for chunk in text_chunks(texts, 4096) for text in chunk]
        settings |= {"max_disagreement": max_disagreement, "seen": self.seen_texts, "card": self._made_from}
        return compress(copy.deepcopy(model).to("cpu"), tokenizer, rows, Path(folder), **settings)

    @classmethod
    def zero_shot(
        cls,
        model: str,
        label_names: Sequence[str],
        *,
        prompt: Prompt | None = None,
        precision: str = "auto",
        trust_remote_code: bool = False,
        verify: bool = True,
        **settings: Any,
    ) -> SentimentClassifier:
        """A language model (a short name, a folder or a hub id) that answers without training.

        trust_remote_code: run the Python code that the model brings along. settings: `mode` ("calibrated",
        "uncalibrated" or "generate") and `max_length`, see `ZeroShot`.
        """
        from .methods import load_zero_shot

        dtype = compute_dtype(precision, _device())
        classifier = cls()
        classifier.config = None
        options: dict[str, Any] = {
            "dtype": dtype,
            "prompt": prompt,
            "trust_remote_code": trust_remote_code,
            "verify": verify,
        }
        classifier._engine = load_zero_shot(model, label_names, **options, **settings)
        return classifier

    def fit(self, texts: Iterable[str], labels: Iterable[str | int]) -> SentimentClassifier:
        """Train on texts and labels; a tenth is held out to choose the best epoch. Returns the classifier.

        labels: strings or integers, in which form `predict` answers. What a reader of the results should know of the
        data, such as repeated texts, is logged as warnings.

        Raises DataError where more than a fifth of the texts are blank or there is a single class, ConfigError for the
        setting `more_train`.
        """
        from .training import calibrate, finished, fit, prepare, with_order

        if self.config is None:
            raise ConfigError(
                "this classifier was loaded, and fit starts from a backbone: SentimentClassifier(model=...).fit(...), "
                "where model may be a folder (with head='native' to keep its head)"
            )
        if self.config.more_train is not None:
            raise ConfigError("more_train is for `sentimoe train`; fit trains on all texts that it is given")
        dataset = with_order(dataset_from_texts(texts, labels), self.config)
        for warning in dataset.warnings:
            logger.warning(warning)
        ready = prepare(self.config, dataset)
        with tempfile.TemporaryDirectory() as folder:
            fit(ready, Path(folder))
        self.model, self.tokenizer, self.seen_texts = finished(ready), ready.tokenizer, ready.seen
        if self.config.calibrate:
            calibrate(self.model, self.tokenizer, dataset, self.config)
        self._engine = Engine(self.model, self.tokenizer, precision=ready.config.precision)
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All settings as they were given, or their defaults; none of a loaded classifier, which fit cannot train."""
        if self.config is None:
            return {}
        defaults = {name: field.get_default(call_default_factory=True) for name, field in TrainConfig.fields().items()}
        return defaults | self._settings

    def set_params(self, **settings: Any) -> SentimentClassifier:
        """Change settings for the next `fit`. Raises ConfigError."""
        self._check_fresh("set_params")
        changed = self._settings | settings
        self.config, self._settings = _config_of(changed), changed
        return self

    def score(self, texts: Iterable[Any], labels: Iterable[str | int]) -> float:
        """The accuracy on labelled texts; a blank one counts as wrong.

        Raises ConfigError for no texts, for another number of labels, and for labels in another form ("3" for 3).
        """
        found, given = self.predict(texts), list(values_of(labels, "labels"))
        if not given or len(given) != len(found):
            raise ConfigError(f"there are {len(found)} texts and {len(given)} labels; give one label for every text")
        known = self.classes_.tolist()
        names = set(map(str, known))
        if not any(label in known for label in given) and any(str(label) in names for label in given):
            raise ConfigError(f"the first label is {given[0]!r}, and the classifier answers {known}; give its labels")
        return sum(label == true for label, true in zip(found, given, strict=True)) / len(given)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # loaded already where it is asked for

        read = InputTags(two_d_array=False, string=True)
        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags(), input_tags=read)

    def __sklearn_clone__(self) -> SentimentClassifier:
        self._check_fresh("clone")
        return type(self)(**copy.deepcopy(self._settings))

    def __sklearn_is_fitted__(self) -> bool:
        return self._engine is not None

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings.items())
        return f"SentimentClassifier({settings if self.config else f'labels {self.label_names}, trained'})"

    def _check_fresh(self, name: str) -> None:
        if self.config is None:
            raise ConfigError(f"{name} is for a classifier that fit can train; this one was loaded and has no settings")

    @property
    def _made_from(self) -> dict[str, str]:
        """What the model card says of a model that was trained here."""
        return {} if self.config is None else made_from(self.config.model, self.config.method)

    def _trained(self, purpose: str) -> tuple[Any, PreTrainedTokenizerBase]:
        """The model of torch and its tokenizer. Raises ConfigError where there is none."""
        if self.model is None or self.tokenizer is None:
            reason = "call fit(texts, labels) or load a trained model first"
            if self.domains:
                reason = "it has added domains; remove them first, or take the model itself, loaded with domain='base'"
            elif self._engine is not None:
                reason = "an exported, compressed or zero-shot one has no torch model; load the one it was made from"
            raise ConfigError(f"this classifier has nothing to {purpose}: {reason}")
        return self.model, self.tokenizer

    def _loaded_folder(self, purpose: str, output: str | Path | None = None) -> Path:
        """The folder that it was loaded from. Raises ConfigError where there is none, or it is others' too."""
        if self._folder is None:
            raise ConfigError(
                f"{purpose} changes a model folder: save_pretrained(FOLDER) first, then from_pretrained(FOLDER)"
            )
        if not self._is_own and output is None:
            raise ConfigError(
                f"{purpose} would change {self._folder}, which other programs use too; copy it: "
                "save_pretrained(FOLDER), then from_pretrained(FOLDER)"
            )
        return self._folder

    def _reload(self, folder: Path) -> None:
        """Become what the folder holds now. With domains, torch runs it."""
        told = self._loading | ({"backend": "torch"} if (folder / DOMAINS).is_dir() else {})
        vars(self).update(vars(SentimentClassifier.from_pretrained(folder, **told)))

    @property
    def engine(self) -> Engine | ZeroShot:
        """What runs the model. Raises ConfigError before `fit` or `from_pretrained`."""
        if self._engine is None:
            raise ConfigError("the classifier is not trained; call fit(texts, labels) or load one with from_pretrained")
        return self._engine

    @property
    def label_names(self) -> list[str]:
        """The C class names, in the order of the columns of `predict_proba`."""
        return self.engine.label_names

    @property
    def classes_(self) -> np.ndarray:
        """The C classes in the form in which they were given to `fit`: integers where all were. In the same order.

        Names are in natural order ("2 stars" before "10 stars"); the few metrics of scikit-learn that read
        probabilities, such as log loss, expect alphabetical order.
        """
        names = self.label_names
        return np.array([int(name) for name in names] if label_type(self.engine.model.config) == "int" else names)

    @property
    def ordinal(self) -> bool:
        """Whether the classes go from lowest to highest: integers, or in the order that `ordinal` named."""
        return is_ordinal(self.engine.model.config)

    def predict_proba(self, texts: Iterable[Any]) -> np.ndarray:
        """Class probabilities `[B, C]`; a row of NaN for a blank text.

        texts: a list, tuple, one-dimensional array, Series, Arrow array, column of a data set, or iterator of strings;
        numbers and dates are read as they are written, None and NaN are blank. Raises ConfigError for what is no
        column of texts, such as one string, a table or a dict, and DataError for a value that is no text.
        """
        return self.engine.predict_proba(texts)

    def predict(self, texts: Iterable[Any]) -> np.ndarray:
        """The label of each text, `[B]`, in the form of `classes_`; None for a blank text, in an array of objects."""
        probabilities, classes = self.predict_proba(texts), self.classes_
        found = [answer["label"] for answer in answers(probabilities, classes.tolist())]
        return np.array(found, dtype=object if None in found else classes.dtype)

    def __call__(self, texts: str | Iterable[Any]) -> list[dict[str, Any]]:
        """`[{"label", "score"}]`, one for every text, as a pipeline of transformers answers; blank: None and NaN."""
        probabilities = self.predict_proba([texts] if isinstance(texts, str) else texts)
        return answers(probabilities, self.classes_.tolist())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and tokenizer as a Hugging Face folder, with a model card (README.md).

        The card and the threshold of the folder from which it was loaded go along, unless its weights have changed, or
        how many experts read a token. A threshold that was found with added domains stays.
        """
        from .methods import save_adapted

        target = Path(folder)
        save_adapted(*self._trained("save"), target, self.seen_texts, self._made_from)
        if self._folder is None or self._folder.resolve() == target.resolve() or not _same(self._folder, target):
            return
        if (self._folder / CARD).is_file() and not is_somebodys(target / CARD):
            shutil.copy(self._folder / CARD, target / CARD)
        threshold = self._folder / THRESHOLD
        if threshold.is_file() and not read_object(threshold).get("domains"):
            shutil.copy(threshold, target / THRESHOLD)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, **options: Any
    ) -> str:
        """Send the model to the Hugging Face hub as `repo_id`, with its card. Returns the address of the commit.

        It sends what `save_pretrained` writes. private: of a new repository. options: of
        `huggingface_hub.HfApi.upload_folder`, such as `commit_message`, `revision` or `create_pr`. Raises ConfigError
        before `fit` or `from_pretrained`, and what huggingface_hub raises.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options).commit_url)


def _same(folder: Path, other: Path) -> bool:
    """Whether two folders answer alike: the same weights, and as many experts for a token."""
    if not same_weights(folder, other):
        return False
    configs = [read_object(each / CONFIG) for each in (folder, other)]
    first, second = ((each.get("base_config") or each).get("moe") or each.get("moe") for each in configs)
    return first == second


def _config_of(settings: dict[str, Any]) -> TrainConfig:
    """Numbers of NumPy, which searches of scikit-learn try, become plain ones."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    return TrainConfig.from_dict(plain)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
