"""A local page on which models speak: python -m zhgpt.page RUN[:N] [RUN[:N]]

One model, or two side by side: two runs, or two checkpoints of one (RUN:N is checkpoint N). Only
this machine can open the page, and it asks nothing of any other. Needs gradio, which training does
not.
"""

import argparse
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zhgpt import machine
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.generate import SETTINGS, Speaker, require_settings, speaker
from zhgpt.phrases import WEB
from zhgpt.report import printable
from zhgpt.sampling import Continuation

GRADIO = "6.31.0"  # what the tests ran with
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The browser is told to ask nobody but this server. Inline: gradio's own page has such scripts.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'"


def named(name: str) -> tuple[Path, int | None]:
    """RUN or RUN:N; a folder whose own name ends so is a folder."""
    folder, colon, number = name.rpartition(":")
    if colon and number.isdecimal() and not Path(name).exists():
        return Path(folder), int(number)
    return Path(name), None


def require_free(host: str, port: int) -> None:
    """InputError unless a server can listen there; before models are loaded, which takes time."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--host {host} --port {port}: no page can be served there ({reason}).\n"
            "Choose another port: --port N (0: any that is free)."
        ) from None


def gradio() -> Any:
    """The library, told to report nothing; InputError where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # here: no other command needs it
    except ImportError:
        raise InputError(
            f"the page needs gradio, which is not installed: pip install gradio=={GRADIO}\n"
            "In the terminal, python -m zhgpt.generate does without."
        ) from None
    return gradio


def speak(speakers: Sequence[Speaker], prompt: str, *values: float) -> Iterator[list[str]]:
    """The texts so far of all models, after each piece of any of them; `values` as SETTINGS."""
    kinds = [kind for kind, _ in SETTINGS.values()]
    given = {n: kind(v or 0) for n, kind, v in zip(SETTINGS, kinds, values, strict=True)}
    texts, spoken = [prompt] * len(speakers), []
    for one in speakers:
        one.require(prompt)
        settings = replace(one.settings, **given)
        require_settings(settings)
        spoken.append(Continuation(one.model, one.tokenizer, prompt, settings, settings.seed))
    for pieces in zip_longest(*spoken, fillvalue=""):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        yield [printable(text) for text in texts]
    yield [printable(f"{t}\n[{one.ended}]") for t, one in zip(texts, spoken, strict=True)]


def blocks(speakers: Sequence[Speaker]) -> tuple[Any, Any]:
    """The page as gradio has it, and its words in the browser's language."""
    gr = gradio()
    words = gr.I18n(**json.loads((WEB / "page.json").read_text(encoding="utf-8")))
    first = speakers[0].settings
    positions = max(one.model.config.n_positions for one in speakers)

    def answer(prompt: str, *values: float) -> Iterator[Any]:
        try:
            for texts in speak(speakers, prompt, *values):
                yield texts if len(texts) > 1 else texts[0]
        except InputError as error:
            # The message is read as HTML, and it quotes the prompt.
            raise gr.Error(escape(printable(str(error))), print_exception=False) from None

    with gr.Blocks(title="zhgpt", analytics_enabled=False) as made:
        prompt = gr.Textbox(label=words("prompt"), info=words("prompt_hint"), elem_id="prompt")
        with gr.Row():
            begin = gr.Button(words("speak"), variant="primary", elem_id="speak")
            stop = gr.Button(words("stop"), elem_id="stop")
        with gr.Accordion(words("settings"), open=False):
            numbers = [_number(gr, name, words, first, positions) for name in SETTINGS]
        with gr.Row():
            texts = [_text(gr, one) for one in speakers]
        asked = {"fn": answer, "inputs": [prompt, *numbers], "outputs": texts}
        events = [
            when(**asked, show_progress="minimal", api_visibility="private")
            for when in (begin.click, prompt.submit)
        ]
        stop.click(None, cancels=events)
    return made.queue(), words


def _text(gr: Any, one: Speaker) -> Any:
    with gr.Column(min_width=320):  # below the other on a phone
        name = printable(str(one.found))
        return gr.Textbox(label=name, lines=8, max_lines=40, elem_classes="text")


def _number(gr: Any, name: str, words: Any, settings: Any, positions: int) -> Any:
    ends = {"max_new_tokens": positions, "temperature": 2, "top_k": 200, "top_p": 1}
    ends |= {"repetition_penalty": 2}
    begins = {"max_new_tokens": 1, "repetition_penalty": 1, "top_p": 0.01}
    value, step = getattr(settings, name), 1 if SETTINGS[name][0] is int else 0.01
    if name == "seed":
        return gr.Number(value, label=words(name), precision=0, minimum=0)
    value = min(value, positions) if name == "max_new_tokens" else value
    most = max(ends[name], value)
    return gr.Slider(begins.get(name, 0), most, value, step=step, label=words(name))


class _Alone:
    """Tells the browser, with every answer, to ask nobody but this server."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", _POLICY.encode())
                message = message | {"headers": [*message.get("headers", []), header]}
            await send(message)

        await self.app(scope, receive, with_policy)


def serve(speakers: Sequence[Speaker], host: str, port: int) -> tuple[Any, str]:
    """Starts the page's server in threads of its own; what `close`s it, and its address."""
    gr = gradio()
    made, words = blocks(speakers)
    # Names of fonts that systems have: a GoogleFont would be asked for at Google.
    fonts = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    from starlette.middleware import Middleware  # gradio's own dependency

    try:
        _, address, _ = made.launch(
            server_name=host,
            server_port=port or None,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            ssr_mode=False,
            theme=theme,
            css="label > span { overflow-wrap: anywhere }",
            i18n=words,
            app_kwargs={"middleware": [Middleware(_Alone)]},
        )
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error}") from None
    return made, address


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.page", description=__doc__)
    parser.add_argument("run", nargs="+", help="a run's or model's folder; RUN:N: its checkpoint N")
    parser.add_argument(
        "--host", default=LOOPBACK[0], help="address to listen at, default loopback"
    )
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    options = parser.parse_args(argv)
    if len(options.run) > 2:
        raise InputError(f"{len(options.run)} models were named; one or two stand side by side.")
    gradio()
    require_free(options.host, options.port)
    machine.prepare()
    speakers = [speaker(*named(name), _say) for name in options.run]
    if options.host not in LOOPBACK:
        _say(f"--host {options.host}: whoever reaches this address can use the page; no password.")
    server, address = serve(speakers, options.host, options.port)
    print(f"{address}  (Ctrl-C ends)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.close(verbose=False)
    return FINISHED


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
