"""Everything that decides a training run; written to the run folder as it is."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from .base import Names, PathText, Settings, panel, settings
from .errors import ConfigError
from .methods import check_settings

Precision = Literal["auto", "bfloat16", "float32"]
PRECISIONS = get_args(Precision)
# no effect on the result: they may change while a run is stopped
WITHOUT_EFFECT = (
    "save_minutes",
    "save_steps",
    "ddp_timeout",
    "trust_remote_code",
    "verify",
    "delimiter",
    "encoding",
    "strict",
)

in_data, in_model, in_training = panel("Data"), panel("Model"), panel("Training")
in_distillation, in_process = panel("Distillation"), panel("Process")


@settings
class TrainConfig(Settings):
    """One training run.

    Raises:
        ConfigError: a value is outside what is allowed.
    """

    model: Annotated[str, PathText] = in_model("all-MiniLM-L6-v2")
    """Backbone: an embedded one, a folder or a hub id."""
    data: Annotated[str, PathText] = in_data("tweets")
    """Labelled texts: a preset (tweets, imdb, tweeteval-emotion, sst5), a folder, a file or a hub id."""
    method: str = in_model("full")
    """What is trained: full, bitfit, lora, p-tuning, moe-plain, moe-gated, moe-split or moe-lora."""
    text_column: str | None = in_data(None, shown="text")
    """Column of the texts."""
    label_column: str | None = in_data(None, shown="label")
    """Column of the labels."""
    delimiter: str | None = in_data(None, shown="detected")
    """Character between the columns of a CSV file."""
    encoding: str | None = in_data(None, shown="UTF-8, or detected")
    """Encoding of a text file, such as cp1252."""
    strict: bool = in_data(False)
    """Refuse data in which a row lacks its text or its label; otherwise such rows are counted and left out."""
    ordinal: Annotated[tuple[str, ...] | None, Names] = in_data(
        None, shown="numbers by size; other labels have no order"
    )
    """Labels from lowest to highest, with commas; scores then count how far off an answer is."""
    method_settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the method, such as `num_experts`; see `METHOD_SETTINGS`."""
    head: Literal["mean", "native"] = in_model("mean")
    """Head: mean (pooling over real tokens) or native (the model's own)."""
    head_init: Literal["logistic-regression", "random"] | None = in_model(None, shown="by number of texts")
    """Start of a new mean head: logistic-regression on the backbone's embeddings (few texts), or random."""
    epochs: int | None = in_training(None, ge=1, shown="3, up to 20 for few texts")
    """Passes over the training texts."""
    batch_size: int | None = in_training(None, ge=1, shown="32, 16 for few texts")
    """Texts per step, all processes together."""
    gradient_accumulation_steps: int = in_process(1, ge=1)
    """Parts in which each process reads its texts of a step: more take less memory. Experts are asked twice then."""
    gradient_checkpointing: bool = in_process(False)
    """Compute activations again instead of keeping them: less memory, about a third more time."""
    max_length: int = in_training(256, ge=8)
    """Tokens per text in training, special tokens included; the rest is cut."""
    learning_rate: float | None = in_training(None, gt=0, shown="by model and method")
    """Peak learning rate. The default is 1e-4 up to 512 hidden units and 3e-5 above, times the scale of the method."""
    learning_rate_factor: float = in_training(1.0, gt=0)
    """Multiplies the default learning rate, and only it."""
    router_learning_rate: float | None = in_training(None, ge=0, shown="the same")
    """Learning rate of the routers."""
    gate_learning_rate: float | None = in_training(None, ge=0, shown="the same")
    """Learning rate of the first projections of gated experts, gate and up together."""
    weight_decay: float = in_training(0.01, ge=0)
    """Weight decay of AdamW."""
    warmup: float = in_training(0.1, ge=0, lt=1)
    """Share of the steps during which the rate rises."""
    patience: int | None = in_training(None, ge=0, shown="2, 0 for few texts")
    """Epochs without a better validation score before training stops; 0: all run, and the last one counts."""
    load_in_4bit: bool = in_model(False)
    """Keep the frozen weights of a language model in 4 bits (CUDA) or bfloat16; for lora, moe-plain and moe-gated."""
    teacher: Annotated[str | list[str] | None, PathText] = in_distillation(None)
    """Run folder to learn from (repeatable: their mean answer counts). moe-split divides the FFNs of the first one."""
    more_train: Annotated[str | None, PathText] = in_data(None)
    """File of more labelled texts, for training alone; texts that the data set has already are left out."""
    unlabelled: Annotated[str | None, PathText] = in_distillation(None)
    """Texts without labels to learn on from the teacher: a preset or a file."""
    distillation_weight: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = in_distillation(
        "auto", shown="1 for moe-split, else 0.5"
    )
    """Share of the teacher's answers in the loss."""
    distillation_temperature: float = in_distillation(2.0, gt=0)
    """How much these answers are softened."""
    distillation_hidden_weight: float | None = in_distillation(None, ge=0, shown="1 for moe-split, else 0")
    """Weight of the hidden states of one dense teacher of the same backbone."""
    distillation_token_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = in_distillation(
        "auto", shown="0.2 for moe-split, else 0"
    )
    """Share of the tokens that student and teacher both leave out; needs hidden states."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] | None = in_training(
        "auto", shown="0 for a moe-split student, else the model's own"
    )
    """Probability of every dropout of the model (null in YAML: its own)."""
    metric: Literal["f1_weighted", "f1_macro", "accuracy"] = in_training("f1_weighted")
    """Validation score that chooses the best epoch: f1_weighted, f1_macro or accuracy."""
    class_weights: bool = in_training(False)
    """Weigh classes by inverse frequency."""
    train_limit: int | None = in_data(None, ge=2)
    """Use only that many training texts."""
    calibrate: bool = in_training(True)
    """Divide the logits by the temperature under which the labels of validation are likeliest."""
    eval_limit: int | None = in_data(None, ge=2)
    """Use only that many validation texts, and as many test texts."""
    merge: bool = in_training(True)
    """Add LoRA updates to the weights after training; otherwise the folder holds the adapter and its base."""
    precision: Precision = in_process("auto")
    """Number format: auto, bfloat16 or float32."""
    save_minutes: float = in_process(10.0, gt=0)
    """Minutes between checkpoints, from which a stopped run continues."""
    save_steps: int | None = in_process(None, ge=1)
    """Steps between checkpoints, in addition."""
    ddp_timeout: int = in_process(600, ge=1)
    """Seconds that one of several processes waits for another before it stops."""
    seed: int = in_training(0, ge=0, lt=2**32)
    """Seed of everything random."""
    trust_remote_code: bool = in_process(False)
    """Run the Python code that the model or a teacher brings along; otherwise such a model is refused."""
    verify: bool = in_process(True)
    """Compare the folders of the model and of teachers with their manifests."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "method_settings", check_settings(self.method, self.method_settings))
        if self.unlabelled is not None and self.teacher is None:
            raise ConfigError(f"unlabelled={self.unlabelled!r} is not allowed; it must be None without a teacher")
        if self.class_weights and self.teacher is not None:
            raise ConfigError("class_weights=True is not allowed; it must be off with a teacher, whose loss has none")

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
