"""`sentimoe explore`: a local page to try a model on texts and switch its experts off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import NoVerify, TrustRemoteCode
from .places import check_model

Option = typer.Option


def explore(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, one or more; with two they can be compared.")],
    port: Annotated[int, Option(help="Port on 127.0.0.1; 0: any free one.", min=0, max=65535)] = 8765,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
) -> None:
    """Try a model on texts that you type, in a local page: probabilities, words that count, and what each expert reads.

    Open the address that is printed; stop with Ctrl-C. Only this machine can reach the page.
    """
    check_model(*folders)
    import socket
    from importlib.util import find_spec

    from sentimoe import SentimentClassifier
    from sentimoe.errors import ConfigError

    from .models import model_name
    from .show import prepare_process

    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the page needs {' and '.join(missing)}: pip install 'sentimoe[explore]'")
    import uvicorn

    from sentimoe.pages import create_app

    prepare_process()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except OSError as taken:
            raise ConfigError(f"port {port} of 127.0.0.1 cannot be used ({taken.strerror}); try --port 0") from taken
    names = [model_name(folder) for folder in folders]
    titles = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    loaded = {
        title: SentimentClassifier.from_pretrained(
            folder, long_texts="truncate", trust_remote_code=trust_remote_code, verify=not no_verify
        )
        for title, folder in zip(titles, folders, strict=True)
    }
    app = create_app(loaded)
    for classifier in loaded.values():  # the first call of a size builds kernels
        classifier.predict_proba(["a first text, so that the page answers at once"])
    # uvicorn.run would take Ctrl-C for an ordinary end, exit code 0
    uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="info")).run()
