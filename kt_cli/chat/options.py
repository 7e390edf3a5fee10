"""What `kt chat` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli.opts import opt, parse_count

SAMPLING = "Sampling"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    prompt: str | None = opt(help="Ask this and leave; a pipe is added to it", metavar="[PROMPT]")
    url: str | None = opt("--url", help="Address of the server", metavar="URL")
    api_key: str | None = opt(
        "--api-key", help="Key of the server (or KT_API_KEY)", secret=True, metavar="KEY"
    )
    model: str | None = opt(
        "-m", "--model", help="Model, where the server has several", metavar="NAME"
    )
    system: str | None = opt("-s", "--system", help="System prompt", metavar="TEXT")
    file: tuple[str, ...] | None = opt(
        "-f",
        "--file",
        help="Text file that goes with the first message, repeatable",
        metavar="FILE",
    )
    resume: bool = opt("-c", "--continue", help="Go on with the last conversation", default=False)
    no_save: bool = opt("--no-save", help="Do not save the conversation", default=False)
    temperature: float | None = opt(
        "-t",
        "--temperature",
        help="0 always takes the likeliest token",
        metavar="NUMBER",
        low=0,
        high=2,
        panel=SAMPLING,
    )
    top_p: float | None = opt(
        "--top-p",
        help="Share of probability to choose from",
        metavar="NUMBER",
        low=0,
        high=1,
        panel=SAMPLING,
    )
    max_tokens: int | None = opt(
        "--max-tokens",
        help="Longest answer, tokens",
        parse=parse_count,
        low=1,
        metavar="TOKENS",
        panel=SAMPLING,
    )
