"""The one error a person reads: a plain sentence and the next step."""

from __future__ import annotations


class PlainError(Exception):
    """Something an operator can understand and mend.

    sentence:  what is wrong, one sentence, no jargon, ends with a full stop.
    next_step: what to do about it; may be empty where nothing can be done.
    """

    def __init__(self, sentence: str, next_step: str = "") -> None:
        self.sentence = sentence
        self.next_step = next_step
        super().__init__(f"{sentence} {next_step}".strip())
