"""The page of a run in gradio: what is asked on the left, the answer on the right, a slider for the layer.

Answers are made one at a time, those who wait stand in a queue; what an answer is made of lies with the person who asked
(gradio's session state), the model keeps nothing. The page asks no other machine for anything: no analytics, no fonts from
elsewhere, no share link, and a Content-Security-Policy that forbids the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import numpy as np
from markupsafe import escape
from starlette.middleware import Middleware

from momafuse.data.codecs import Codec, decodes
from momafuse.errors import UserError
from momafuse.generation.grammar import MIXED
from momafuse.generation.sampling import Sampling
from momafuse.interface import Model
from momafuse.reports.pages import TYPES
from momafuse.tokens.vocabulary import TEXT
from momafuse.web.answer import Answer, answer, prompt_of
from momafuse.web.page import page

T = TypeVar("T")
MOST = 128  # tokens of an answer unless asked otherwise
KEPT = 3600  # seconds that uploads and answers lie on the machine
LARGEST = "64mb"  # of an upload
# gradio whitens a chosen radio button under the mouse
STYLE = "input[type=radio]:checked { background-color: var(--checkbox-background-color-selected) !important }"
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)


def serve(found: Any, host: str, port: int) -> Any:
    """Starts the server of these blocks in threads of its own and returns its address. Raises UserError for a port in use."""
    middleware = [Middleware(_Policy)]
    try:
        _, address, _ = found.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, share=False, quiet=True, ssr_mode=False, pwa=False,
            mcp_server=False, enable_monitoring=False, max_file_size=LARGEST, footer_links=[], theme=_theme(), css=STYLE,
            app_kwargs={"middleware": middleware},
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"port={port}: cannot be served on {host} (in use?); set another, e.g. port={port + 1}") from error
    return address


def blocks(model: Model, name: str) -> Any:
    """gr.Blocks; `name` is what the page calls the run."""
    v, text, lm = model.vocabulary, model.lm.tokenizer, model.lm.model
    drops = [m.name for m in v.modalities if m.frame]

    def make(layer: float, prompt: str, *asked: Any, progress: Any = gr.Progress()) -> tuple[Answer, str]:  # noqa: B008
        files = dict(zip(drops, asked, strict=False))
        found = _said(lambda: _answer(model, prompt, files, asked[len(drops) :], progress))
        return found, show(found, layer)

    def show(found: Answer | None, layer: float) -> str:
        return "" if found is None else page(found, int(layer) - 1, v, text)

    with gr.Blocks(title=f"momafuse: {name}", analytics_enabled=False, delete_cache=(KEPT, KEPT), fill_width=True) as found:
        gr.Markdown(f"### {name}")
        state = gr.State(None, time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                asked = _questions(model)
                button = gr.Button("Make", variant="primary")
            with gr.Column(scale=2, min_width=320):
                layers = lm.config.n_layers
                layer = gr.Slider(1, max(layers, 2), layers, step=1, label="Layer", visible=lm.routes and layers > 1)
                shown = gr.HTML(min_height=200, apply_default_css=False)
        gr.on([button.click, asked[0].submit], make, [layer, *asked], [state, shown], api_name="make", concurrency_limit=1)
        layer.change(show, [state, layer], shown, api_name="show", show_progress="hidden", trigger_mode="always_last")
    return found


def _questions(model: Model) -> list[Any]:
    """The components of what is asked: prompt, a file of each modality, then those of `_answer`, in its order."""
    v, length = model.vocabulary, model.lm.length
    framed = [m.name for m in v.modalities if m.frame]
    where = f"; <{framed[0]}> in it says where the {framed[0]} stands, else it stands before the text" if framed else ""
    prompt = gr.Textbox(label="Prompt", lines=3, placeholder="a red apple:", info=f"Text to go on with{where}.")
    drops = [_drop(name, model.lm.codecs[name]) for name in framed]
    shown = [name for name in framed if decodes(model.lm.codecs[name])]
    made = [TEXT, *shown, *([MIXED] if shown == framed else [])]
    wanted = gr.Radio(
        made,
        value=MIXED if framed and MIXED in made else TEXT,
        label="What to make",
        info="mixed: text and items until the document ends",
    )
    most = gr.Slider(1, length, min(MOST, length), step=1, label="Tokens at most", info="a picture takes all its codes")
    with gr.Accordion("Sampling", open=False):
        sampling = [
            gr.Slider(0, 2, 1, step=0.05, label="Temperature", info="0: always the most likely token"),
            gr.Slider(0.05, 1, 1, step=0.05, label="top_p"),
            gr.Slider(1, 8, 1, step=0.25, label="Guidance", info="of items: how far from what would come without the prompt"),
            gr.Number(0, precision=0, label="Seed"),
        ]
    return [prompt, *drops, wanted, most, *sampling]


def _drop(name: str, codec: Codec) -> Any:
    """Where a file of this modality is dropped, with a look at it where a browser has one and an item can be made to tell."""
    suffix, _ = ("", b"") if not decodes(codec) else codec.file(codec.decode(np.zeros(codec.block or 1, np.int64)))
    kind, label = TYPES.get(suffix, ""), f"Drop {name}"  # a bare name might be one of gradio's own words, and translated
    if kind.startswith("image"):
        picture = gr.Image(label=label, sources=["upload", "clipboard"], height=180, buttons=["fullscreen"])
        picture.preprocess = _as_it_was_dropped  # a subclass would make gradio write a stub beside this file
        return picture
    if kind.startswith("audio"):
        return gr.Audio(label=label, type="filepath", sources=["upload"], editable=False, buttons=[])
    return gr.File(label=label, type="filepath")


def _as_it_was_dropped(payload: Any) -> str | None:
    """The path of the file: whether it is a picture is for the codec to say, in one line."""
    return None if payload is None else str(payload.path)


def _answer(model: Model, prompt: str, files: dict[str, str | None], asked: Sequence[Any], progress: Any) -> Answer:
    """`files`: the path of what was dropped, by modality."""
    wanted, most, temperature, top_p, guidance, seed = asked
    data = {name: Path(path).read_bytes() for name, path in files.items() if path}
    m = next((m for m in model.vocabulary.modalities if m.name == wanted), None)
    room = None if m is not None and m.block else int(most)
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress((done, room), unit="tokens")

    sampling = Sampling(temperature=temperature, top_p=top_p, guidance=guidance, seed=int(seed or 0))
    return answer(model, prompt_of(model, prompt, data), wanted, sampling, room, tick)


def _said(work: Callable[[], T]) -> T:
    """A person's mistake as a line on the page."""
    try:
        return work()
    except UserError as error:
        line = " ".join(str(error).split())
        raise gr.Error(str(escape(line)), print_exception=False, title="") from error


def _theme() -> Any:
    """Of fonts that every machine has: named ones would be looked for on the network."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class _Policy:
    """ASGI: says to the browser that the page may ask no other machine."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)
