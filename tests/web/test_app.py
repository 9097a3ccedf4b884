"""The page over HTTP, with gradio's own client: answers, layers, two people at once, mistakes."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from momafuse.errors import UserError
from momafuse.generation.sampling import Sampling
from momafuse.interface import Model
from momafuse.web.answer import answer, prompt_of
from momafuse.web.app import blocks, serve
from momafuse.web.page import page
from tests.web.conftest import Untrained, free_port
from tests.web.test_answer import drawing

SETTINGS = {"temperature": 1.0, "top_p": 0.9, "guidance": 1.5, "seed": 7}


@pytest.fixture(scope="module")
def model(untrained: Untrained) -> Model:
    return untrained("mod_moma_4t4i")


@pytest.fixture(scope="module")
def address(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page_of_run = blocks(model, "runs/x")
        yield serve(page_of_run, "127.0.0.1", free_port())
        page_of_run.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(drawing())
    return path


def ask(client: Client, prompt: str, file: Path | None, make: str, most: int = 12, layer: int = 2) -> str:
    asked = [layer, prompt, None if file is None else handle_file(file), make, most, *SETTINGS.values()]
    return str(client.predict(*asked, api_name="/make"))


def expected(model: Model, prompt: str, file: Path | None, make: str, most: int | None = 12, layer: int = 2) -> str:
    files = {} if file is None else {"image": file.read_bytes()}
    found = answer(model, prompt_of(model, prompt, files), make, Sampling(**SETTINGS), most)
    return page(found, layer - 1, model.vocabulary, model.lm.tokenizer)


def test_it_answers_and_shows_another_layer(address: str, model: Model, picture: Path) -> None:
    client = Client(address, verbose=False)
    assert client.predict(1, api_name="/show") == ""
    for prompt, file, make, most in (
        ("a bird", None, "text", 12),
        ("what?", picture, "text", 12),
        ("a", picture, "image", None),
    ):
        assert ask(client, prompt, file, make) == expected(model, prompt, file, make, most)
    assert client.predict(1, api_name="/show") == expected(model, "a", picture, "image", None, layer=1)


def test_people_at_once_get_what_each_gets_alone(address: str, model: Model, picture: Path) -> None:
    asked = [
        ("a bird", None, "text", 30),
        ("a tree", picture, "mixed", 30),
        ("a bird", picture, "text", 30),
        ("", None, "text", 9),
    ]
    clients = [Client(address, verbose=False) for _ in asked]
    with ThreadPoolExecutor(len(asked)) as people:
        found = list(people.map(lambda pair: ask(pair[0], *pair[1]), zip(clients, asked, strict=True)))
        layers = list(people.map(lambda client: client.predict(1, api_name="/show"), clients))
    assert found == [expected(model, *words) for words in asked]
    assert layers == [expected(model, *words, layer=1) for words in asked]


def test_the_model_keeps_nothing_between_answers_made_in_threads(model: Model) -> None:
    """Even without the queue: the same generator, used by several threads."""
    asked = [(f"a bird {n}", None, "mixed", 16) for n in range(4)]
    alone = [expected(model, *words) for words in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        assert list(threads.map(lambda words: expected(model, *words), asked)) == alone


def test_a_mistake_is_one_line(address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_text("no picture")
    client = Client(address, verbose=False)
    for prompt, file, line in (
        ("a bird " * 400, None, "tokens, and this run&#39;s sequences 256; shorten it"),
        ("a <image>", None, "prompt: &lt;image&gt; says where the image stands"),
        ("", tmp_path / "a.png", "image: no picture format; drop another file"),
    ):
        with pytest.raises(AppError) as caught:
            ask(client, prompt, file, "text")
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_no_file_of_the_machine_is_given_away(address: str, tmp_path: Path) -> None:
    """A picture must be uploaded; a path on the server is refused."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(drawing())
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    body = {"data": [2, "", file, "text", 4, *SETTINGS.values()]}
    asked = urllib.request.Request(
        f"{address}gradio_api/call/make", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/make/{event}") as reply:
        assert "event: error" in reply.read().decode()


def test_the_page_names_no_other_machine_and_asks_for_no_analytics(address: str) -> None:
    with urllib.request.urlopen(address) as reply:
        policy, html = reply.headers["content-security-policy"], reply.read().decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert '"analytics_enabled":false' in html
    loaded = re.findall(r'(?:src|href)="(https?:[^"]+)"', html)
    assert not [url for url in loaded if not url.startswith(address)]
    assert "fonts.g" not in html


def test_a_port_in_use_is_one_line(model: Model, address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=rf"port={port}: cannot be served on 127\.0\.0\.1 \(in use\?\); set another"):
        serve(blocks(model, "runs/x"), "127.0.0.1", port)
