"""Rules for the words of rows: blanks at the ends, Unicode form, British or American spelling."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finesight.config.sources import TextRules
from finesight.core.sample import Part, Text
from finesight.data.shapes.spelling import respell

_SPELLED = {"uk": "the British", "us": "the American"}


@dataclass(frozen=True)
class WordRules:
    """The recipe's rules. What they change is counted, by notice; blanks that are taken off are not."""

    settings: TextRules

    def clean(self, text: str, counts: Counter[tuple[str, str]]) -> str:
        """A text by itself under all rules."""
        text = self._changed(text, counts)
        return text.strip() if self.settings.strip else text

    def clean_parts(self, parts: Sequence[Part], counts: Counter[tuple[str, str]]) -> tuple[Part, ...]:
        """The parts of one turn under all rules; its words lose the blanks before the first and after the last of them.

        Blanks between words and a picture in their midst stay, those between a picture and the turn's first or last
        word go: `<image>\\nWhat is it?` asks the same as `What is it?` beside a picture. Texts that are empty go, too.
        """
        found = [Text(self._changed(part.text, counts)) if isinstance(part, Text) else part for part in parts]
        if self.settings.strip:
            found = _outer_stripped(_outer_stripped(found, left=True)[::-1], left=False)[::-1]
        return tuple(part for part in found if not isinstance(part, Text) or part.text)

    def _changed(self, text: str, counts: Counter[tuple[str, str]]) -> str:
        form, spelling = self.settings.unicode, self.settings.spelling
        if form != "none":
            normal = unicodedata.normalize(form, text)
            if normal != text:
                counts["words", f"texts brought to the Unicode form {form}"] += 1
            text = normal
        if spelling != "none":
            text, number = respell(text, spelling)
            if number:
                counts["words", f"words written {_SPELLED[spelling]} way"] += number
        return text


def _outer_stripped(parts: Sequence[Part], left: bool) -> list[Part]:
    """The parts with the blanks taken off the outer end of their first words."""
    found: list[Part] = []
    outer = True
    for part in parts:
        if outer and isinstance(part, Text):
            text = part.text.lstrip() if left else part.text.rstrip()
            outer = not text
            found.append(Text(text))
        else:
            found.append(part)
    return found
