"""Texts for the golden vectors and the token tests: languages and scripts, code, emoji, marks, and the edges."""

import unicodedata

LANGUAGES = {
    "english": "The harbour froze so hard that winter that people walked to the island and back.",
    "german": "Der Schlüssel liegt unter der Fußmatte, falls du früher als ich nach Hause kommst.",
    "french": "L’été dernier, nous avons traversé les Cévennes à pied, sans croiser âme qui vive.",
    "spanish": "¿Dónde se puede comprar un billete para el tren nocturno a Cádiz?",
    "portuguese": "A previsão do tempo anuncia chuva forte e ventania no litoral amanhã à tarde.",
    "polish": "Zażółć gęślą jaźń – to zdanie zawiera wszystkie polskie znaki diakrytyczne.",
    "czech": "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "turkish": "Işıklı bir İstanbul akşamında, ıhlamur kokusu bütün sokağa yayılmıştı.",
    "vietnamese": "Phở là món ăn truyền thống nổi tiếng của Việt Nam, thường dùng vào buổi sáng.",
    "russian": "Съешь же ещё этих мягких французских булок да выпей чаю.",
    "ukrainian": "Щоранку ґазда їздив на ярмарок продавати гарбузи й мед.",
    "greek": "Ο Οδυσσέας ταξίδεψε δέκα χρόνια ώσπου να φτάσει στην Ιθάκη, στο σπίτι του.",
    "armenian": "Արարատ լեռը երևում է մայրաքաղաքից պարզ եղանակին։",
    "georgian": "ვეფხისტყაოსანი შოთა რუსთაველის პოემაა.",
    "hebrew": "הספרייה פתוחה בימי ראשון עד חמישי, משמונה בבוקר עד שבע בערב.",
    "arabic": "افتُتح المتحف الجديد في القاهرة بعد سنوات طويلة من العمل.",
    "persian": "کتاب‌خانه‌ها در شهر شیراز می‌توانند تا نیمه‌شب باز باشند.",
    "urdu": "بارش کے بعد بازار میں آموں کی خوشبو پھیل گئی۔",
    "hindi": "हिन्दी में पूछे गए प्रश्न का उत्तर दस्तावेज़ के तीसरे पृष्ठ पर है।",
    "bengali": "বর্ষাকালে পদ্মা নদীর দুই কূল ভেসে যায়।",
    "tamil": "யாதும் ஊரே யாவரும் கேளிர் என்று புலவர் பாடினார்.",
    "telugu": "గోదావరి నది మీద కొత్త వంతెన కట్టారు.",
    "sinhala": "කොළඹ වරාය ආසියාවේ කාර්යබහුලම වරායන්ගෙන් එකකි.",
    "thai": "รถไฟขบวนสุดท้ายไปเชียงใหม่ออกจากสถานีเวลาสี่ทุ่ม",
    "lao": "ແມ່ນ້ຳຂອງໄຫຼຜ່ານປະເທດລາວ.",
    "khmer": "ប្រាសាទអង្គរវត្តស្ថិតនៅខេត្តសៀមរាប។",
    "burmese": "မန္တလေးမြို့သည် မြန်မာနိုင်ငံ၏ ဒုတိယအကြီးဆုံးမြို့ဖြစ်သည်။",
    "tibetan": "བོད་ཀྱི་ཡི་གེ་ནི་ཐོན་མི་སམྦྷོ་ཊས་བཟོས།",
    "amharic": "ቡና ከኢትዮጵያ ወደ ዓለም ሁሉ ተሰራጨ።",
    "swahili": "Mlima Kilimanjaro ndio mlima mrefu kuliko yote barani Afrika.",
    "yoruba": "Ẹ kú àárọ̀, ṣé dáadáa ni ẹ jí?",
    "chinese": "请问图书馆的开放时间是几点？周末也开门吗？",
    "chinese_traditional": "臺北的夜市以小吃聞名，尤其是臭豆腐與珍珠奶茶。",
    "japanese": "東京タワーは1958年に完成した、高さ333メートルの電波塔です。",
    "korean": "한글은 세종대왕이 1443년에 창제한 문자이다.",
    "indonesian": "Pendaki gunung harus membawa cukup air minum dan jaket tebal.",
    "hungarian": "Árvíztűrő tükörfúrógép – a magyar ékezetes betűk próbája.",
    "finnish": "Hääyöaie kuulostaa oudolta, mutta on aivan oikea suomen sana.",
    "icelandic": "Kæmi ný öxi hér, ykist þjófum nú bæði víl og ádrepa.",
}

CODE = {
    "python": "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)  # fails on []\n",
    "c": '#include <stdio.h>\nint main(void) {\n\tprintf("%d\\n", 0xFF & ~3);\n\treturn 0;\n}\n',
    "sql": "SELECT name, COUNT(*) FROM orders WHERE total >= 99.5 GROUP BY name HAVING COUNT(*) > 2;",
    "json": '{"id": 17, "tags": ["a", "b"], "price": 1.5e-3, "ok": null}',
    "html": '<p class="x">1 &lt; 2 &amp;&amp; 3 &gt; 2</p>\r\n<!-- end -->',
}

SIGNS = {
    "emoji": "Great work 👍🏽 — the family 👨‍👩‍👧‍👦 flew 🇯🇵 ✈️ home 😉",
    "combining": unicodedata.normalize("NFD", "Crème brûlée à São Tomé, Ångström và Việt Nam, 한국어"),
    "zalgo": "t\u0338\u0301\u0323e\u0308\u0304x\u0337\u0330t\u0334",
    "mixed_directions": "The word שלום means peace, and سلام does too (1 + 1 = 2).",
    "maths": "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε; ∑ᵢ₌₁ⁿ i² = n(n+1)(2n+1)⁄6",
    "full_width": "ＡＢＣ１２３、ﾃｽﾄ、㍿㌔",
    "invisible": "zero\u200bwidth, soft\u00adhyphen, no\u00a0break, \ufeffmark, thin\u2009space",
    "contractions": "I'm sure they'll say we've DON'T'd it, isn't it? 'Tis O'Brien's.",
    "capitals": "ΟΔΥΣΣΕΥΣ ΣΤΗΝ ΙΘΑΚΗ, İSTANBUL, GROẞ, ǄUNGLA, ⅣⅩ, ᲗᲑᲘᲚᲘᲡᲘ, ÀÉÎÕÜ",
    "numbers": "3.14159 ½ Ⅷ ١٢٣ १२३ 1,000,000 0x1F 10⁻⁹",
    "url": "https://example.org/a%20b?q=é&n=1#top user.name+tag@example.co.uk",
}

EDGES = {
    "empty": "",
    "spaces": "     ",
    "whitespace": " \t \n\r\n \u3000 ",
    "one_letter": "a",
    "one_ideograph": "猫",
    "newlines": "\n\n\nfirst\n\n\n\nsecond\r\n\r\n",
    "nul": "before\x00after",
    "long_word": "pneumonoultramicroscopicsilicovolcanoconiosis" * 5,
}


def long_text(n_sentences: int) -> str:
    """Sentences of many languages in turn, numbered, so that no two long texts share their end."""
    sentences = list(LANGUAGES.values())
    return "\n".join(f"{number}. {sentences[number % len(sentences)]}" for number in range(n_sentences))


LONG = {"over_256_tokens": long_text(16), "thousands_of_tokens": long_text(120)}

GOLDEN = {**LANGUAGES, **CODE, **SIGNS, **EDGES, **LONG}

QUERIES = {
    "query_english": "What is the capital of China?",
    "query_korean": "한글은 누가 만들었나요?",
    "query_code": "python mean of a list",
    "query_empty": "",
    "query_lower": "how deep did the harbour freeze",
}

# Texts that name control tokens. Hugging Face parses them; to us a document that mentions one is text.
CONTROL = [
    "<|endoftext|>",
    "The end token is <|endoftext|>, and a turn starts with <|im_start|>user.",
    "<|im_end|><|im_end|>",
    "<|fim_prefix|>def f():<|fim_suffix|>",
    "[CLS] not a start [SEP] nor an end [MASK] [PAD] [UNK]",
]

# Tokens of the same vocabulary that a text may name.
USER_DEFINED = ["<think>why</think>", "<tool_call>\n{}\n</tool_call>", "x<think>\u0338", "< think ></think", "<thinké"]

_WHO = [
    "The night nurse", "My grandmother", "A retired sea captain", "The youngest engineer", "Our new neighbour",
    "The museum guide", "A tired bus driver", "The orchestra's cellist", "Nobody in the village", "The tax inspector",
    "A stray dog", "The software team", "An old friend of mine", "The mayor's assistant", "The chess champion",
    "A group of tourists", "The bakery next door", "The lighthouse keeper", "A visiting professor", "The goalkeeper",
]  # fmt: skip
_DID = [
    "forgot to lock the back door before the storm.",
    "sold forty loaves of rye bread on a Monday morning.",
    "explained how vaccines teach the immune system to recognise a virus.",
    "refused to pay the parking fine and wrote a letter instead.",
    "found a bug in the database migration that had deleted two tables.",
    "walked along the frozen river until the sun went down.",
    "believes that interest rates will fall again next year.",
    "learned to play the violin at the age of fifty-three.",
    "repaired the broken water pump with a piece of garden hose.",
    "complained about the noise of the aeroplanes at night.",
    "won the final match in extra time after a penalty.",
    "photographed a comet above the desert with a borrowed camera.",
    "cooked a soup of lentils, cumin and preserved lemon.",
    "reads the same crime novel every summer by the lake.",
    "measured the temperature of the soil at six different depths.",
]
# 300 English sentences, as many as the published losses of quantisation were measured on.
ENGLISH = [f"{who} {did}" for who in _WHO for did in _DID]
