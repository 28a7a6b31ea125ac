"""Everything that decides a training run; written to the run folder as it is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..config import check_rules, check_types, known_fields
from ..inference import PRECISIONS
from ..upcycle import HEADS

WITHOUT_EFFECT = (
    "save_minutes",
    "save_steps",
    "trust_remote_code",
    "verify",
)  # on the result: they may change while a run is stopped


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    model: an embedded backbone, a folder or a hub id. data: a preset, a folder or a file. method: see METHODS.
    method_settings: settings of the method, such as `num_experts`.
    head: "mean" (pooling over real tokens) or "native" (the architecture's own).
    max_length: tokens per text in training, special tokens included; longer texts are truncated in training.
    learning_rate: peak rate; None: 1e-4 up to 512 hidden units, 3e-5 above, times the scale of the method.
    learning_rate_factor: multiplies that default, and only it.
    router_learning_rate, gate_learning_rate: rates of routers and of the experts' gate projections; None: the same.
    warmup: share of the steps. patience: epochs without a better `metric` on validation before stopping.
    load_in_4bit: for language models: keep frozen weights in 4 bits where CUDA is there, in bfloat16 otherwise; methods
        `lora`, and `moe-plain` and `moe-gated`, which then train experts, routers and head alone.
    teacher: folder of a run with the same labels to distil from, or several, whose mean answer is learnt, see
        `Distillation`; `moe-split` divides the FFNs of the first one, which must be dense, and `model` is not read.
    more_train: a file of more labelled texts, for training alone; what stands in the data set already is left out.
    unlabelled: more texts, without labels, to learn on from the teacher: a preset (its train texts) or a file.
    distillation_weight, distillation_temperature: share of the teacher's answers, how much they are softened.
    distillation_hidden_weight: weight of the hidden states of one dense teacher of the same backbone; None: 1 for
        `moe-split`, whose layers were the teacher's, else 0.
    distillation_token_dropout: share of the tokens that a teacher which runs along and its student both do not read.
    dropout: probability of every dropout of the backbone and its head that is not 0; None: its own. At 0 a student
        follows its teacher more closely. LoRA's is the setting `lora_dropout`.
    merge: add LoRA updates to the weights after training (else, and with load_in_4bit, the folder holds the adapter and
        its base).
    trust_remote_code: run the Python code that `model` or a teacher brings along; without it such a model is refused.
    verify: compare the folders of `model` and teachers with their manifests, where they have one.
    save_minutes, save_steps: how often a checkpoint is written, besides one after every epoch; a run that was stopped
        goes on from the last one. They do not change the result.
    class_weights: weigh classes by inverse frequency. train_limit: use that many training texts (None: all).
    """

    model: str = "all-MiniLM-L6-v2"
    data: str = "tweets"
    method: str = "moe-gated"
    text_column: str | None = None
    label_column: str | None = None
    method_settings: dict[str, Any] = field(default_factory=dict)
    head: str = "mean"
    epochs: int = 3
    batch_size: int = 32
    max_length: int = 256
    learning_rate: float | None = None
    learning_rate_factor: float = 1.0
    router_learning_rate: float | None = None
    gate_learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int = 2
    load_in_4bit: bool = False
    teacher: str | list[str] | None = None
    more_train: str | None = None
    unlabelled: str | None = None
    distillation_weight: float = 0.5
    distillation_temperature: float = 2.0
    distillation_hidden_weight: float | None = None
    distillation_token_dropout: float = 0.0
    dropout: float | None = None
    metric: str = "f1_weighted"
    class_weights: bool = False
    train_limit: int | None = None
    merge: bool = True
    precision: str = "auto"
    save_minutes: float = 10.0
    save_steps: int | None = None
    seed: int = 0
    trust_remote_code: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        rules = (
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("max_length", self.max_length >= 8, "8 or more tokens"),
            ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "above 0"),
            ("learning_rate_factor", self.learning_rate_factor > 0, "above 0"),
            *((f"{group}_learning_rate", rate >= 0, "0 or more") for group, rate in self.rates.items()),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("seed", 0 <= self.seed < 2**32, "0 or more and below 2**32"),
            ("warmup", 0 <= self.warmup < 1, "a share of the steps, 0 or more and below 1"),
            ("patience", self.patience >= 1, "1 or more epochs"),
            ("precision", self.precision in PRECISIONS, f"one of {PRECISIONS}"),
            ("head", self.head in HEADS, f"one of {HEADS}"),
            ("metric", self.metric in ("f1_weighted", "f1_macro", "accuracy"), "f1_weighted, f1_macro or accuracy"),
            ("unlabelled", self.unlabelled is None or self.teacher is not None, "None without a teacher"),
            (
                "class_weights",
                not self.class_weights or self.teacher is None,
                "off with a teacher, whose loss has none",
            ),
            ("distillation_weight", 0 <= self.distillation_weight <= 1, "between 0 and 1"),
            ("distillation_temperature", self.distillation_temperature > 0, "above 0"),
            (
                "distillation_hidden_weight",
                self.distillation_hidden_weight is None or self.distillation_hidden_weight >= 0,
                "0 or more",
            ),
            ("distillation_token_dropout", 0 <= self.distillation_token_dropout < 1, "0 or more and below 1"),
            ("dropout", self.dropout is None or 0 <= self.dropout < 1, "0 or more and below 1"),
            ("save_minutes", self.save_minutes > 0, "above 0"),
            ("save_steps", self.save_steps is None or self.save_steps >= 1, "1 or more, or None"),
            ("train_limit", self.train_limit is None or self.train_limit >= 2, "2 or more texts"),
        )
        check_rules(self, rules)

    @property
    def rates(self) -> dict[str, float]:
        """The rates of parameter groups ("router", "gate") that differ from the common one."""
        rates = {"router": self.router_learning_rate, "gate": self.gate_learning_rate}
        return {group: rate for group, rate in rates.items() if rate is not None}

    @property
    def loading(self) -> dict[str, bool]:
        """How the model and the teachers are loaded."""
        return {"trust_remote_code": self.trust_remote_code, "verify": self.verify}

    @property
    def teachers(self) -> list[str]:
        """The folders of the teachers, none, one or several."""
        return [] if self.teacher is None else [self.teacher] if isinstance(self.teacher, str) else list(self.teacher)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Build from a mapping such as a YAML file. Raises ConfigError for a key that does not exist."""
        return cls(**known_fields(cls, values))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return dataclasses.asdict(self)
