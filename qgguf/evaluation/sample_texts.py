"""Generated texts in many languages for measurements: repeatable, all different, few with equal beginnings. Pure."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """The words of a language, and how they form sentences.

    tokens  mean tokens per word, its space included, of Qwen3's tokenizer
    joint   text between words
    stop    text at the end of a sentence
    """

    words: tuple[str, ...]
    tokens: float
    joint: str = " "
    stop: str = "."


LANGUAGES = {
    "english": Language(
        tuple(
            "harbour winter database people engineer island connect bridge frozen quickly password morning grandmother "
            "between thousand river measured against vaccine interest teaches without garden orchestra lighthouse "
            "penalty comet borrowed the every other its because nobody after railway insurance library question "
            "yesterday copper signal market slowly opened refused under twelve photographs migration server table "
            "soil depth noise aeroplane soup lentils violin repaired pump final match desert camera villagers".split()
        ),
        1.15,
    ),
    "german": Language(
        tuple(
            "Schlüssel Fußmatte Haus früher gestern Übung täglich Wörterbuch zwischen Straße Bahnhof schließt öffnet "
            "Geschwindigkeit Kühlschrank natürlich Gärtner weil niemand über Brücke größer Nachbarin Verspätung "
            "Rechnung bezahlen müssen Datenbank Verbindung nächste Woche außerdem Käse Frühstück hören".split()
        ),
        2.3,
    ),
    "french": Language(
        tuple(
            "été dernier traversé à pied montagne forêt où déjà château élève français garçon hôpital bientôt "
            "peut-être réseau données bibliothèque ouverte jusqu’à minuit naïve cœur œuvre sûr août "
            "voilà lumière pêcheur derrière équipe préféré goût répondre plusieurs".split()
        ),
        1.95,
    ),
    "spanish": Language(
        tuple(
            "dónde billete tren nocturno mañana corazón pingüino español niño ventana contraseña después canción árbol "
            "montaña servidor búsqueda rápido lluvia también ciudad pequeña análisis música público razón según "
            "jardín último teléfono océano".split()
        ),
        1.7,
    ),
    "polish": Language(
        tuple(
            "zażółć gęślą jaźń źródło chrząszcz brzmi trzcinie książka dziękuję późno światło wieś żółw miłość kolej "
            "ćwiczenie pięć łódź rzeka ogród sąsiad zapytanie odpowiedź baza danych szybki tydzień".split()
        ),
        2.85,
    ),
    "russian": Language(
        tuple(
            "булочная чай ещё мягких французских съешь утро поезд вокзал библиотека открыта сегодня вечером данные "
            "запрос ответ северный ветер мост через реку учитель объясняет вопрос зима снег город письмо".split()
        ),
        2.55,
    ),
    "arabic": Language(
        tuple(
            "المكتبة مفتوحة اليوم القاهرة متحف جديد سنوات طويلة العمل السؤال الجواب قاعدة البيانات مدينة البحر كتاب "
            "صباح الخير الطريق المطر بعد الحديقة القطار يصل متأخرا".split()
        ),
        1.85,
    ),
    "hindi": Language(
        tuple(
            "हिन्दी प्रश्न उत्तर दस्तावेज़ तीसरे पृष्ठ पुस्तकालय खुला शाम बारिश बाज़ार नदी पुल शिक्षक समझाता विज्ञान "
            "गाड़ी समय पर पहुँची बगीचा रोशनी सर्दी".split()
        ),
        5.7,
    ),
    "korean": Language(
        tuple(
            "한글은 도서관이 오늘 저녁까지 열려 있습니다 데이터베이스에 어떻게 연결하나요 비밀번호를 잊어버렸어요 "
            "겨울 바다 기차가 늦게 도착했다 선생님께서 설명하신 질문과 대답 서울의 밤하늘 빵집 이웃".split()
        ),
        2.85,
    ),
    "japanese": Language(
        tuple(
            "東京 図書館は 何時まで 開いて いますか データベース 接続 方法を 教えて ください 冬の 海 電車が "
            "遅れて 到着した 先生は 質問に 答えた 山の 上の 灯台 昨日 隣の 猫が 歩いた".split()
        ),
        2.25,
        "",
        "。",
    ),
    "chinese": Language(
        tuple(
            "请问 图书馆 的 开放 时间 几点 周末 也 开门 吗 数据库 如何 连接 冬天 港口 结冰 老师 回答 学生 问题 "
            "火车 晚点 到达 山上 灯塔 昨天 邻居 猫 走过 因为 下雨".split()
        ),
        1.2,
        "",
        "。",
    ),
    "code": Language(
        tuple(
            "def return None self.index += 1 for row in rows: if not found: SELECT COUNT(*) FROM orders WHERE total >= "
            "99.5 import numpy json.dumps(value) raise ValueError while True: x[i] = y[j] const let => {} #include "
            "<stdio.h> printf() 0xFF ~mask && || lambda async await break".split()
        ),
        1.65,
        " ",
        ";\n",
    ),
}

_SIGNS = ("😉", "👍🏽", "🇯🇵", "(1 + 1 = 2)", "é", "한", "42 %", "½", "https://example.org/a?q=é", "–", "№ 7")
_QUESTIONS = ("how", "why does", "where is", "can", "what", "which", "who", "when did")

SHORTEST, LONGEST = 14, 138
"""Range of the token count that a document aims at. Nearly all documents have 10 to 150 tokens in the end."""


def documents(seed: int = 0, languages: Sequence[str] = tuple(LANGUAGES)) -> Iterator[str]:
    """Generate texts of 10 to 150 tokens (of Qwen3's tokenizer) without end, all different.

    >>> import itertools
    >>> first, second = itertools.islice(documents(seed=1), 2)
    >>> first == second, first == next(documents(seed=1))
    (False, True)
    """
    rng = random.Random(f"documents {seed}")
    return _different(lambda: _document(rng, LANGUAGES[rng.choice(languages)]))


def queries(seed: int = 0) -> Iterator[str]:
    """Generate English questions of 3 to 9 words without end, all different."""
    rng = random.Random(f"queries {seed}")
    words = LANGUAGES["english"].words

    def query() -> str:
        return f"{rng.choice(_QUESTIONS)} {' '.join(rng.choices(words, k=rng.randint(2, 7)))}?"

    return _different(query)


def short_texts(seed: int = 0) -> Iterator[str]:
    """Generate texts of 3 to 10 words without end, all different, each in one language."""
    rng = random.Random(f"short texts {seed}")
    spaced = [language.words for language in LANGUAGES.values() if language.joint == " "]
    return _different(lambda: " ".join(rng.choices(rng.choice(spaced), k=rng.randint(3, 10))))


def _different(make: Callable[[], str]) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        text = make()
        if text not in seen:
            seen.add(text)
            yield text


def _document(rng: random.Random, language: Language) -> str:
    """Join sentences up to a random length; some get an emoji, a number or a word of another script."""
    target_words = rng.uniform(SHORTEST, LONGEST) / language.tokens
    sentences: list[str] = []
    n_words = 0
    while n_words < target_words:
        n = max(3, round(min(rng.randint(5, 12), target_words - n_words)))
        words = rng.choices(language.words, k=n)
        if n > 4 and rng.random() < 0.2:
            words[rng.randrange(1, n)] = rng.choice(_SIGNS)
        sentence = language.joint.join(words)
        sentences.append(sentence[:1].upper() + sentence[1:] + language.stop)
        n_words += n + 1
    return language.joint.join(sentences).strip()
