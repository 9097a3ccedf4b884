"""The page as a person sees it, in a headless Chromium; and what the browser asks for meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from momafuse.web.app import blocks, serve
from tests.web.browser import Browser, missing, until
from tests.web.conftest import Untrained, free_port
from tests.web.test_answer import drawing

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
TYPED = "a bird {{1+1}} ${1+1} <b>x</b> \u20ac"
PROMPT, FILE, LEFT = "textarea", "input[type=file]", "\ue012"
PRESS = "[...document.querySelectorAll('button')].find(button => button.textContent.trim() === 'Make').click()"
WORDS = "return [...document.querySelectorAll('.answer .words span:not(.special)')].map(word => word.textContent).join('')"
SHOWN = "return [...document.querySelectorAll('.answer img')].map(image => [image.complete, image.naturalWidth])"
SAID = "return [...document.querySelectorAll('[class*=toast]')].map(toast => toast.textContent).join('')"
OWN = ("blob:", "data:", "chrome:", "chrome-untrusted:", "about:")  # of the browser itself


@pytest.fixture(scope="module")
def address(untrained: Untrained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = blocks(untrained("moma_4t4i"), "runs/x")
        yield serve(page, "127.0.0.1", free_port())
        page.close()


def test_a_person_asks_looks_and_errs(address: str, tmp_path: Path) -> None:
    picture = tmp_path / "bird.png"
    picture.write_bytes(drawing())
    with Browser(tmp_path / "profile") as browser:
        browser.open(address)
        until(lambda: browser.there(PROMPT), 60, "the page")
        browser.type(PROMPT, TYPED)
        browser.type(FILE, str(picture))
        until(lambda: browser.there("img[src*='/file=']"), 60, "the picture that was dropped")
        browser.click("input[type=radio][value=image]")
        browser.script(PRESS)
        until(lambda: browser.there(".answer"), 120, "an answer")
        assert browser.script(WORDS).replace("·", "") == TYPED
        assert browser.script(SHOWN) == [[True, 64], [True, 256]] * 2
        assert "Layer 2 of 2" in browser.text(".answer")

        browser.type("input[type=range][max='2'][min='1']", LEFT)
        until(lambda: "Layer 1 of 2" in browser.text(".answer"), 60, "the other layer")
        assert browser.script(WORDS).replace("·", "") == TYPED

        browser.type(PROMPT, "<image> <image>")
        browser.script(PRESS)
        until(lambda: "prompt: <image> says where the image stands" in browser.script(SAID), 60, "a complaint")
        requested = browser.requested()
        assert address in requested
        assert not [url for url in requested if not url.startswith((address, *OWN))]
        assert not [line for line in browser.complaints() if "Content Security Policy" in line]
