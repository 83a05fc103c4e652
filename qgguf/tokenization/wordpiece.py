"""WordPiece: a text to the ids of a BERT vocabulary, as the Hugging Face tokenizers compute them.

llama.cpp's ids differ for every Korean text (it does not decompose syllables), for the vowel signs of Indic scripts
(it drops them), for words of more than 100 characters and for much punctuation.

source  BertNormalizer, BertPreTokenizer and WordPiece of huggingface/tokenizers
"""

import re
import unicodedata
from collections.abc import Sequence

from qgguf.tokenization.unicode_tables import BERT_ALONE, BERT_MARKS, BERT_REMOVED

# A GGUF writes this character before a token that starts a word; the other tokens continue a word.
WORD_START = "\u2581"
MAX_WORD_CHARACTERS = 100
MAX_CACHED_WORDS = 1 << 17

_REMOVED = re.compile(f"[{BERT_REMOVED}]+")
_MARKS = re.compile(f"[{BERT_MARKS}]+")
_WORDS = re.compile(rf"[{BERT_ALONE}]|[^\s{BERT_ALONE}]+")
# Capitals that are newer than Python 3.10's Unicode, but whose small letters are old enough to be in a vocabulary.
_NEWER_CAPITALS = {0xA7CB: "\u0264", 0xA7DC: "\u019b"}


def words_of(text: str, lowercase: bool, strip_accents: bool) -> list[str]:
    """Return the normalised words that WordPiece splits; each punctuation mark and each ideograph is one word.

    >>> words_of("Été, 東京!", lowercase=True, strip_accents=True)
    ['ete', ',', '東', '京', '!']
    """
    if not text.isascii():
        if strip_accents:
            text = _MARKS.sub("", unicodedata.normalize("NFD", text))
        if lowercase:
            # str.lower() would make another letter of a sigma at the end of a word.
            text = text.replace("Σ", "σ").translate(_NEWER_CAPITALS)
    return _WORDS.findall(_REMOVED.sub("", text.lower() if lowercase else text))


class WordPiece:
    """Ids of texts, without [CLS] and [SEP]; a special token's name in a text is plain text.

    tokens         the vocabulary as a GGUF stores it: id -> text, with "▁" before those that start a word
    unknown_id     id of [UNK]
    lowercase      the model is uncased
    strip_accents  accents are dropped
    """

    def __init__(
        self, tokens: Sequence[str], unknown_id: int, lowercase: bool = True, strip_accents: bool = True
    ) -> None:
        self._lowercase, self._strip_accents = lowercase, strip_accents
        self._unknown = (unknown_id,)
        self._starts = {token[1:]: number for number, token in enumerate(tokens) if token.startswith(WORD_START)}
        self._continues = {token: number for number, token in enumerate(tokens) if not token.startswith(WORD_START)}
        self._longest = max(map(len, tokens))
        self._cache: dict[str, tuple[int, ...]] = {}

    def ids(self, text: str) -> list[int]:
        """Return the ids of the text's words, in order."""
        ids: list[int] = []
        cache = self._cache
        for word in words_of(text, self._lowercase, self._strip_accents):
            known = cache.get(word)
            if known is None:
                if len(cache) >= MAX_CACHED_WORDS:
                    cache.clear()
                known = cache[word] = self._cut(word)
            ids += known
        return ids

    def _cut(self, word: str) -> tuple[int, ...]:
        """Return the longest token that starts the word, then the longest that continues it, ...; or [UNK]."""
        if len(word) > MAX_WORD_CHARACTERS:
            return self._unknown
        ids, start, tokens = [], 0, self._starts
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                if (number := tokens.get(word[start:end])) is not None:
                    break
            else:
                return self._unknown
            ids.append(number)
            start, tokens = end, self._continues
        return tuple(ids)
