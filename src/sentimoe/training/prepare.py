"""All that a run trains on, made from its config: model, tokenizer, texts and, where there is one, the teacher."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from sentimoe_settings import TrainConfig, check_trains, complete_settings

from ..data import FileFormat, SeenTexts, SentimentDataset, Split, clean_text, load_dataset, load_unlabelled
from ..errors import ConfigError
from ..inference import position_limit
from ..methods import (
    METHODS,
    adapt,
    freeze_packed,
    merge,
    round_packed,
)
from ..model_folder import check_vocabulary, missing_special_tokens
from ..model_folder import load_tokenizer as load_stored_tokenizer
from ..upcycle import backbone_path, load_classifier, reads_last_token
from .distillation import NO_LABEL, Distillation
from .kept_answers import TeacherAnswers, answers_key, kept_or_asked
from .seen_before import seen_before
from .sizes import sized
from .teachers import load_teacher, running_teacher, soft_teacher_probs
from .trainer import parameter_groups

logger = logging.getLogger(__name__)

SAMPLE = 2048  # training texts that a method which looks at texts may look at


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train. `config` is complete (no default left open); unlabelled texts have label -100.

    answers: what the teachers predict for the training texts; None without a teacher, or where one runs along. before:
    the texts that the model it starts from and its teachers saw.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    config: TrainConfig
    train: Split
    validation: Split
    distillation: Distillation | None
    before: SeenTexts
    answers: TeacherAnswers | None = None

    @property
    def teacher_probs(self) -> np.ndarray | None:
        """`[B, C]`, of the training texts."""
        return None if self.answers is None else self.answers.probs

    @property
    def seen(self) -> SeenTexts:
        """The texts of training and validation, and those before."""
        return self.before | SeenTexts.of(self.train.texts + self.validation.texts)


def dataset_of(config: TrainConfig) -> SentimentDataset:
    """The checked data set that a config names, what is scored limited to `eval_limit`. Raises DataError."""
    dataset = load_dataset(
        config.data,
        more_train=config.more_train,
        text_column=config.text_column,
        label_column=config.label_column,
        file_format=FileFormat(config.encoding, config.delimiter),
        strict=config.strict,
    )
    dataset = with_order(dataset, config)
    return dataset if config.eval_limit is None else dataset.with_eval_limit(config.eval_limit)


def with_order(dataset: SentimentDataset, config: TrainConfig) -> SentimentDataset:
    """The data set with its labels in the order that `ordinal` names. Raises ConfigError for other labels."""
    if config.ordinal is None:
        return dataset
    if sorted(config.ordinal) != sorted(dataset.label_names):
        raise ConfigError(
            f"ordinal={list(config.ordinal)} must name every label of {dataset.name} once: {list(dataset.label_names)}"
        )
    return dataset.with_label_order(config.ordinal)


def prepare(config: TrainConfig, dataset: SentimentDataset, kept: Path | None = None) -> Prepared:
    """Seed everything and build what the config asks for.

    kept: the folder of the checkpoints of a run that goes on, where the answers of its teachers may lie. Raises
    ConfigError, DataError or ConversionError.
    """
    check_trains(config.method)
    method, settings = METHODS[config.method], complete_settings(config.method, config.method_settings)
    if config.load_in_4bit and not method.freezes:
        able = ", ".join(name for name, other in METHODS.items() if other.freezes)
        raise ConfigError(
            f"load_in_4bit needs a method that leaves weights frozen: {able}; {config.method!r} trains all"
        )
    set_seed(config.seed)
    train = training_texts(dataset.splits["train"], config)
    folders = config.teachers
    config = with_recipe(config)
    hidden = config.distillation_hidden_weight or 0.0
    if folders and method.keeps_teacher:
        model, source = load_teacher(folders[0], dataset.label_names, config.loading), folders[0]
    else:
        model, source = _load(config, dataset.label_names), config.model
    virtual = settings.get("num_virtual_tokens", 0)
    tokenizer = load_tokenizer(source, model, config.max_length, virtual, config.trust_remote_code)
    teacher = None
    if hidden and folders:
        teacher = running_teacher(folders, dataset.label_names, model, tokenizer, config.loading)
    token_dropout = float(config.distillation_token_dropout)
    if token_dropout and teacher is None:
        raise ConfigError(
            "distillation_token_dropout needs a teacher that reads what is left: give one dense teacher and a "
            "distillation_hidden_weight above 0"
        )
    default = default_learning_rate(model) * method.rate_scale * config.learning_rate_factor
    rate = config.learning_rate or default
    texts = list(_batches(_shuffled(train.texts, config.seed), tokenizer)) if method.needs_texts else []
    if config.dropout is not None:
        set_dropout(model, float(config.dropout))  # before adapting: experts copy theirs from the FFN
    model = adapt(model, config.method, settings, texts)
    model.config.label_type = dataset.label_type
    model.config.ordinal = config.ordinal is not None or dataset.label_type == "int"
    if config.load_in_4bit:
        freeze_packed(model)
    parameter_groups(model, set(), config.weight_decay, config.rates)  # raises before anything is written
    if config.unlabelled is not None:
        more = load_unlabelled(
            config.unlabelled, dataset, config.text_column, FileFormat(config.encoding, config.delimiter)
        )
        train = Split(train.texts + more, train.labels + [NO_LABEL] * len(more))
    distillation = answers = None
    if folders:
        temperature = config.distillation_temperature
        distillation = Distillation(float(config.distillation_weight), temperature, hidden, teacher, token_dropout)
        if teacher is None:
            answers = _teacher_answers(config, train.texts, dataset.label_names, kept)
    validation = dataset.splits["validation"]
    complete = sized(replace(config, learning_rate=rate), len(train), len(validation))
    before = seen_before([source, *folders])  # of models that are known to be there by now
    return Prepared(model, tokenizer, complete, train, validation, distillation, before, answers)


def _teacher_answers(
    config: TrainConfig, texts: Sequence[str], label_names: Sequence[str], kept: Path | None
) -> TeacherAnswers:
    def ask() -> np.ndarray:
        how: dict[str, Any] = {"precision": config.precision, **config.loading}
        temperature, max_length = config.distillation_temperature, config.max_length
        return soft_teacher_probs(config.teachers, texts, label_names, temperature, max_length, **how)

    return kept_or_asked(kept, answers_key(config, texts, label_names), ask)


def with_recipe(config: TrainConfig) -> TrainConfig:
    """The config with numbers for what the method decides.

    A student that starts from its teacher's weights (`moe-split`) follows it closely: the teacher's answers alone, its
    hidden states, a fifth of the tokens left out, no dropout. Other students learn from labels and answers alike.
    """
    close = bool(config.teachers) and METHODS[config.method].keeps_teacher
    hidden = config.distillation_hidden_weight
    chosen: dict[str, Any] = {"distillation_hidden_weight": (1.0 if close else 0.0) if hidden is None else hidden}
    runs_along = close and chosen["distillation_hidden_weight"] > 0
    recipe = {
        "distillation_weight": 1.0 if close else 0.5,
        "distillation_token_dropout": 0.2 if runs_along else 0.0,
        "dropout": 0.0 if close else None,
    }
    chosen |= {name: value for name, value in recipe.items() if getattr(config, name) == "auto"}
    return replace(config, **chosen)


def finished(ready: Prepared) -> Any:
    """The trained model as it is used and saved: low-rank updates added to the weights, if the config says so."""
    config = ready.config
    if config.load_in_4bit:
        round_packed(ready.model)
    # adding to packed weights would round the updates away
    return merge(ready.model, config.method) if config.merge and not config.load_in_4bit else ready.model


def set_dropout(model: nn.Module, probability: float) -> None:
    """Give every dropout of a model that is above 0 this probability; its config, so what is saved, keeps its own."""
    for module in model.modules():
        name = "p" if isinstance(module, nn.Dropout) else "attention_dropout"
        if isinstance(getattr(module, name, None), float) and getattr(module, name) > 0:
            setattr(module, name, probability)


def default_learning_rate(model: PreTrainedModel) -> float:
    """1e-4 for small encoders (up to 512 hidden units), 3e-5 for larger ones."""
    return 1e-4 if model.config.get_text_config().hidden_size <= 512 else 3e-5


def _load(config: TrainConfig, label_names: Sequence[str]) -> PreTrainedModel:
    options: dict[str, Any] = {"head": config.head, **config.loading}
    if not config.load_in_4bit:
        return load_classifier(config.model, label_names, **options)
    layers = complete_settings(config.method, config.method_settings).get("layers_to_transform")
    keep = () if config.method == "lora" else layers or (-2, -1)
    return load_classifier(config.model, label_names, **options, load_in_4bit=True, keep_layers=keep)


def _shuffled(texts: Sequence[str], seed: int) -> list[str]:
    """Some of the texts in random order: files may be sorted by label, and a method may read only the first ones."""
    return [texts[index] for index in np.random.default_rng(seed).permutation(len(texts))[:SAMPLE]]


def _batches(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: int = 32
) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, len(texts), size):
        part = [clean_text(text) for text in texts[start : start + size]]
        yield dict(tokenizer(part, truncation=True, padding=True, return_tensors="pt"))


def load_tokenizer(
    name: str, model: PreTrainedModel, max_length: int, before: int = 0, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The backbone's tokenizer, limited to `max_length` tokens; where there is no padding token the end token pads.

    before: virtual tokens that stand before every text. Raises ConfigError when the model cannot read that many, and
    ModelFolderError when it has no embedding for a token.
    """
    limit = position_limit(model)
    if limit is not None and before + max_length > limit:
        given = f"max_length={max_length}" + (f" with {before} virtual tokens" if before else "")
        raise ConfigError(f"{given} is more than the {limit} tokens that {name} can read; lower it")
    tokenizer = load_stored_tokenizer(backbone_path(name), trust_remote_code=trust_remote_code)
    tokenizer.model_max_length = max_length
    if missing_special_tokens(tokenizer, model.get_input_embeddings().num_embeddings):
        tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True  # the latter is saved
    check_vocabulary(tokenizer, model, name)
    text_config, pads = model.config.get_text_config(), tokenizer.pad_token is not None
    if not pads:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # absolute positions such as GPT-2's count from the left
    if not pads or text_config.pad_token_id is None or reads_last_token(model):
        text_config.pad_token_id = tokenizer.pad_token_id  # native heads of decoders look for the last other token
    return tokenizer


def training_texts(split: Split, config: TrainConfig) -> Split:
    """The training texts that a run uses: all, or `train_limit` of them chosen by its seed.

    Logs a warning when these lack a class that the others have.
    """
    if config.train_limit is None:
        return split
    used = split.sample(config.train_limit, config.seed)
    if lost := sorted(set(split.labels) - set(used.labels)):
        logger.warning(
            "train_limit=%d leaves %d of %d classes without a training text (label indices %s); raise it to train on "
            "all classes",
            config.train_limit,
            len(lost),
            len(set(split.labels)),
            ", ".join(map(str, lost)),
        )
    return used
