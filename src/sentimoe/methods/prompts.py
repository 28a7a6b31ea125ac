"""How a text is put to a language model that was not trained for the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"  # where the text goes in a rendered template


@dataclass(frozen=True)
class Prompt:
    """A question about a kind of text ("Tweet"), whose answers are the label names."""

    question: str = "Which label fits the text?"
    kind: str = "Text"

    def around(self, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[str, str]:
        """What stands before and after the text, special tokens written out.

        An instruct model's own chat template is used; a base model gets a form whose next word is the answer.
        """
        choices = f"{self.question} Choose one of: {', '.join(words)}."
        if tokenizer.chat_template:
            message = f"{choices} Answer with nothing but these words.\n\n{self.kind}:\n{PLACE}"
            whole = tokenizer.apply_chat_template(
                [{"role": "user", "content": message}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # Qwen 3; other templates do not read it
            )
        else:
            whole = f"{tokenizer.bos_token or ''}{choices}\n\n{self.kind}:\n{PLACE}\n\nAnswer:"
        before, _, after = str(whole).partition(PLACE)
        return before, after


PROMPTS = {
    "imdb": Prompt("What is the sentiment of the movie review?", "Review"),
    "tweeteval-emotion": Prompt("Which emotion does the tweet express?", "Tweet"),
    "sst5": Prompt("What is the sentiment of the sentence from a movie review?", "Sentence"),
    "tweets": Prompt("What is the sentiment of the tweet?", "Tweet"),
}
