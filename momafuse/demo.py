"""`python -m momafuse.demo run=runs/x`: a page on this machine that answers, and shows which expert took each token."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from momafuse.config.compose import Job, import_plugins
from momafuse.config.demo import DemoConfig, check
from momafuse.config.entry import entry_point, write
from momafuse.errors import UserError


@entry_point(
    "demo",
    help="A page at http://127.0.0.1:7860: type a prompt, drop a picture, get text and pictures, and see which expert took "
    "each token. A run with routers needs the auxiliary ones of +experiment=aux_routers. Ctrl-C ends it.",
    schema=DemoConfig,
    check=check,
)
def main(job: Job[DemoConfig]) -> None:
    c = job.config
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("gradio is not installed; pip install 'momafuse[demo]'") from error
    from momafuse.interface import Model  # after composing: a misspelt key should not wait for torch
    from momafuse.web.app import blocks, serve

    import_plugins(c.plugins)
    model = Model.load(c.run, c.device)
    address = serve(blocks(model, str(Path(c.run).expanduser())), c.host, c.port)
    write(f"{address}\n")
    with contextlib.suppress(KeyboardInterrupt):  # how it is ended
        threading.Event().wait()


if __name__ == "__main__":
    main()
