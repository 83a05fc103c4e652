"""Nothing grows with the texts seen: resident memory stays flat over distinct texts of all kinds."""

import base64
import random
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qgguf import Embedder
from tests.support.texts import GOLDEN

# Of one tenth of a run against another. What the allocator keeps of a large text comes and goes.
ALLOWED_BYTES = 12 << 20


def long_words(chance: random.Random) -> str:
    return chance.randbytes(chance.choice((200, 2_000) * 20 + (250_000,))).hex()


def base64_blobs(chance: random.Random) -> str:
    return base64.b64encode(chance.randbytes(chance.choice((60, 3_000)))).decode()


def short_sentences(chance: random.Random) -> str:
    return " ".join(f"word{chance.randrange(10**9)}" for _ in range(chance.randrange(1, 12)))


def any_letters(chance: random.Random) -> str:
    codes = (chance.randrange(0x20, 0x30000) for _ in range(chance.randrange(1, 60)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF)


def scripts(chance: random.Random) -> str:
    return f"{chance.choice([*GOLDEN.values()])} é 한 😉 {chance.randrange(10**9)}"


def minified_code(chance: random.Random) -> str:
    return "".join(f"function f{chance.randrange(10**9)}(a,b){{return a+b}}" for _ in range(chance.randrange(1, 20)))


def long_documents(chance: random.Random) -> str:
    return "\n".join(short_sentences(chance) for _ in range(100))


KINDS = [long_words, base64_blobs, short_sentences, any_letters, scripts, minified_code, long_documents]


def distinct_texts(n_texts: int, kinds: list) -> Iterator[str]:
    chance = random.Random(7)
    for number in range(n_texts):
        yield kinds[number % len(kinds)](chance)


def resident_of_tenths(model: Embedder, n_texts: int, kinds: list, n_calls: int) -> list[int]:
    """Embed distinct texts; return the resident bytes after each tenth of the calls."""
    process, texts = psutil.Process(), distinct_texts(n_texts, kinds)
    per_call, resident = n_texts // n_calls, []
    for call in range(1, n_calls + 1):
        prompt = f"prompt {call} é: " if call % 3 == 0 else None
        model.encode([next(texts) for _ in range(per_call)], prompt=prompt)
        if call * 10 % n_calls < 10:
            resident.append(process.memory_info().rss)
    return resident


def test_memory_is_flat_over_long_unbroken_words(minilm_q8: Path):
    """New words of 100,000 letters leave nothing behind."""
    with Embedder(minilm_q8, max_tokens=64) as model:
        process, chance = psutil.Process(), random.Random(1)
        resident = []
        for _ in range(30):
            model.encode(chance.randbytes(50_000).hex())
            resident.append(process.memory_info().rss)
    assert resident[-1] - min(resident[5:10]) < 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["minilm_q8", "small_qwen3"])
def test_memory_is_flat_over_many_texts(fixture: str, request: pytest.FixtureRequest):
    """100,000 distinct texts of all kinds: the last tenths need no more memory than the second and third."""
    started = time.perf_counter()
    # Few tokens, because what may grow depends on the texts that are tokenised, not on what is computed of them.
    with Embedder(request.getfixturevalue(fixture), max_tokens=32) as model:
        resident = resident_of_tenths(model, 100_000, KINDS, 1_000)
    shown = ", ".join(f"{size / 1e6:.0f}" for size in resident)
    print(f"\n{Path(fixture).name}: resident after each tenth, MB: {shown}; {time.perf_counter() - started:.0f} s")
    assert max(resident[-3:]) - max(resident[1:3]) < ALLOWED_BYTES
