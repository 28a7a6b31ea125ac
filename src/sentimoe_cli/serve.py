"""`sentimoe serve`: classifiers over HTTP, for the clients of other programs."""

from __future__ import annotations

import os
import re
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentimoe_ready import ready_models
from sentimoe_settings import ConfigError, ServeConfig

from .messages import Mistake, say
from .options import Backend, MaxDisagreement, NoVerify, Precision, TrustRemoteCode, with_options
from .places import check_model

if TYPE_CHECKING:
    from sentimoe.service import ServedModel

NAME = re.compile(r"[\w.-]+", re.ASCII)
PANELS = ("Network", "Limits", "Batching")
TOKEN = "SENTIMOE_TOKEN"
KERNELS = 128  # a service sees ever new sizes of batches; more would be memory that grows for half an hour


@with_options(ServeConfig.fields(), PANELS)
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Folders, ready models or hub ids; NAME=MODEL calls one otherwise. [the ready models]"),
    ] = None,
    precision: Precision = "auto",
    backend: Backend = "torch",
    max_disagreement: MaxDisagreement = None,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    **given: Any,
) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C; docs/how-to/serve.md shows the requests.

    The first model answers where a request names none. Speaks /v1/predict, and the dialects of
    text-embeddings-inference (/predict), Hugging Face's InferenceClient (/models/NAME) and vLLM (/classify).
    """
    config = ServeConfig(**{name: value for name, value in given.items() if value is not None})
    named = _named(models or list(ready_models()))
    token = _token(config.token_file)
    missing = [name for name in ("fastapi", "uvicorn", "httptools", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the service needs {' and '.join(missing)}: pip install 'sentimoe[serve]'")
    told: dict[str, Any] = {"backend": backend, "trust_remote_code": trust_remote_code, "verify": not no_verify}
    with _listening(config) as listening:  # a port that is taken shows before models are loaded
        served = _loaded(named, precision, max_disagreement, told)
        host, port = listening.getsockname()[:2]
        if token is None and host not in ("127.0.0.1", "::1"):
            say(
                f"warning: everybody who reaches {host} may ask: there is no token; give one in {TOKEN} or --token-file"
            )
        say(f"{', '.join(named)} at http://{host}:{port}")
        _serve(served, config, token, listening)


def _loaded(
    named: dict[str, str], precision: str, max_disagreement: float | None, told: dict[str, Any]
) -> list[ServedModel]:
    """The models, each of which has answered once. told: further settings of `from_pretrained`. Raises ConfigError."""
    from sentimoe.inference import is_compressed, keep_few_kernels
    from sentimoe.model_folder import find_folder
    from sentimoe.service import load_served

    from .certificates import certificate_for
    from .many import warn_of_dials
    from .show import prepare_process

    prepare_process()
    keep_few_kernels(KERNELS)
    folders = {name: find_folder(model) for name, model in named.items()}
    if max_disagreement is not None and not any(map(is_compressed, folders.values())):
        raise ConfigError("--max-disagreement is for compressed models, and none of these is one; leave it out")
    served = []
    for name, folder in folders.items():
        tolerance = max_disagreement if is_compressed(folder) else None
        certificate_for(str(folder), tolerance, precision, "windows")
        model = load_served(name, folder, precision=precision, max_disagreement=tolerance, **told)
        if model.threshold is not None:
            dials = {"num_experts_per_tok": None, "max_disagreement": tolerance, "long_texts": "windows"}
            warn_of_dials(str(folder), dials)
        model.engine.logits(model.engine.windows(["a first text, so that the service answers at once"]))
        served.append(model)
    return served


def _serve(served: list[ServedModel], config: ServeConfig, token: str | None, listening: socket.socket) -> None:
    """Answer until a signal, which then ends the process as signals do."""
    import gc

    import uvicorn

    from sentimoe.service import create_service, server_settings

    gc.freeze()  # models and libraries are no garbage, and to look through them takes a third of a second each time
    app = create_service(served, config, token)
    uvicorn.Server(server_settings(app, config)).run(sockets=[listening])


def _named(given: list[str]) -> dict[str, str]:
    """The models by name. Raises Mistake for what is no model, a name that no address can hold, and repeats."""
    named: dict[str, str] = {}
    for each in given:
        name, equals, model = each.partition("=")
        if not equals or Path(each).is_dir():
            name, model = Path(each).resolve().name if Path(each).is_dir() else each.rpartition("/")[2], each
        check_model(model)
        if not NAME.fullmatch(name):
            raise Mistake(
                f"{name!r} cannot stand in an address; name the model: NAME={model}, of letters, digits, . _ -"
            )
        if name in named:
            raise Mistake(f"two models are called {name}; name one of them otherwise: OTHER={model}")
        named[name] = model
    return named


def _token(file: str | None) -> str | None:
    """The token of a file, else of the environment. Raises Mistake for an empty one."""
    token = os.environ.get(TOKEN)
    if file is not None:
        if not Path(file).is_file():
            raise Mistake(f"--token-file {file}: no such file; write the token into it, on one line")
        token = Path(file).read_text(encoding="utf-8")
    if token is not None and not re.fullmatch(r"[\x21-\x7e]{8,}", token := token.strip()):
        raise Mistake("the token must be one line of 8 or more printable characters without blanks; give a longer one")
    return token


def _listening(config: ServeConfig) -> socket.socket:
    """A socket that is bound before models are loaded. Raises ConfigError for a port that is taken."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((config.host, config.port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"port {config.port} of {config.host} cannot be used ({error.strerror}); try --port 0"
        ) from error
    return bound
