"""Generated questions with the calls they mean: what adapters and small language models are trained on.

As in MRKL (arXiv 2205.00445, calculator study) the call comes first and templates render it to language. Wordings are
in three pools, so that a table can say what was seen: openings and operator phrases of training ("seen"), training's
operator phrases in openings it never had ("carrier"), and operator phrases it never had ("operator").
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..remote.calls_mrkl import exact_text
from ..remote.exact_mrkl import Units
from ..remote.known_mrkl import Known
from ..remote.plans_mrkl import CONSTANTS, DATES, DONE, NOTHING
from ..remote.slots_mrkl import Reading, read
from .data import in_words


MODES = ("slots", "copy", "alone")
# in-line phrases and calls "verb A by B"; the first six of an operation are the narrow pool
PHRASES = {
    "+": ["{a} plus {b}", "{a} added to {b}", "the sum of {a} and {b}", "{a} and {b} together", "add {a} and {b}",
          "the total of {a} and {b}", "{a} increased by {b}", "{a} with {b} added", "{b} more than {a}", "{a} + {b}"],
    "-": ["{a} minus {b}", "{a} less {b}", "the difference of {a} and {b}", "{b} subtracted from {a}",
          "subtract {b} from {a}", "take {b} away from {a}", "{a} decreased by {b}", "{a} with {b} taken off",
          "{b} less than {a}", "{a} - {b}"],
    "*": ["{a} times {b}", "{a} multiplied by {b}", "the product of {a} and {b}", "{a} lots of {b}",
          "multiply {a} by {b}", "multiply {a} and {b}", "{a} groups of {b}", "{a} by {b} multiplied",
          "{a} taken {b} times", "{a} * {b}"],
    "/": ["{a} divided by {b}", "{a} over {b}", "the quotient of {a} and {b}", "the ratio of {a} to {b}",
          "divide {a} by {b}", "split {a} into {b} parts", "{a} shared among {b}", "{a} cut into {b} equal pieces",
          "a {b} th of {a}", "{a} / {b}"],
}  # fmt: skip
UNSEEN_PHRASES = {
    "+": ["{a} combined with {b}", "{a} raised by {b}", "tack {b} onto {a}"],
    "-": ["{a} reduced by {b}", "knock {b} off {a}", "{a} once {b} is removed"],
    "*": ["{a} scaled up {b} fold", "{b} copies of {a}", "{a} repeated {b} times"],
    "/": ["how often {b} goes into {a}", "{a} spread evenly over {b}", "{a} per {b}"],
}
NARROW_CARRIERS = ["what is {}?"]
CARRIERS = [
    "what is {}?", "{}", "calculate {}", "compute {}.", "please work out {}", "tell me {}", "how much is {}?",
    "what do you get for {}?", "can you compute {}?", "i need {}", "give me {}, please", "find {}",
    "what does {} come to?", "evaluate {}", "quick question: {}?", "what would {} be?", "could you tell me {}?",
    "the value of {}?", "do you know {}?", "help me with {}", "what is the result of {}?", "so, {}?",
]  # fmt: skip
UNSEEN_CARRIERS = [
    "my homework asks for {}", "any idea what {} makes?", "{} equals what?", "let us say someone wants {}",
    "i am curious about {}", "for the invoice i must state {}", "would you kindly determine {}",
    "a friend bet me i cannot get {}", "hey, {} is how much?", "we are looking for {}",
]  # fmt: skip
OPENINGS = ["", "", "", "please: ", "hello, ", "can you say ", "quick question: ", "i wonder, ", "so, "]
CONVERSIONS = [
    "convert {a} {u} to {v}", "how many {v} are {a} {u}?", "what is {a} {u} in {v}?", "{a} {u} in {v}",
    "change {a} {u} into {v}",
    "express {a} {u} in {v}", "turn {a} {u} into {v}", "how much is {a} {u} in {v}?", "give me {a} {u} as {v}",
    "{a} {u} to {v} please",
    "i have {a} {u}, how many {v} is that?", "what would {a} {u} be in {v}?", "how many {v} do i get for {a} {u}?",
    "in {v}, how much are {a} {u}?", "write {a} {u} in terms of {v}", "{a} {u} makes how many {v}?",
    "tell me {a} {u} in {v}",
    "the number of {v} in {a} {u}", "if i have {a} {u}, what is it in {v}?", "i want {v} for my {a} {u}",
    "{a} {u} = ? {v}",
    "from {a} {u} to {v}", "into {v}: {a} {u}", "how much {v} will {a} {u} give?", "put {a} {u} into {v}",
    "what do {a} {u} equal in {v}?", "we measured {a} {u} but need {v}", "someone gave me {a} {u}; say it in {v}",
]  # fmt: skip
UNSEEN_CONVERSIONS = [
    "if someone hands me {a} {u}, what do i hold in {v}?", "the recipe says {a} {u}, but i only know {v}",
    "how many {v} do {a} {u} make up?",
    "in {v}, what does {a} {u} come to?", "{a} {u} equals what amount in {v}?", "my form wants {v} and i know {a} {u}",
]  # fmt: skip
READINGS = {
    "tmax": "highest temperature", "tmin": "lowest temperature", "rain": "rainfall", "wind": "wind speed",
}  # fmt: skip
WEATHER = [
    "what was the {f} in {p} on {d}?", "{f} in {p} on {d}", "tell me the {f} of {p} for {d}",
    "on {d}, what was the {f} in {p}?",
    "give me the {f} recorded in {p} on {d}", "how was the {f} in {p} on {d}?", "find the {f} for {p}, {d}",
    "{p}, {d}: {f}?",
    "i need the {f} in {p} on {d}", "what {f} did {p} have on {d}?", "show me {p} on {d}: the {f}",
    "in {p} on {d} the {f} was?",
]  # fmt: skip
UNSEEN_WEATHER = [
    "i was in {p} on {d} and wonder about the {f}", "for {d} the {f} at {p} was what?",
    "look up {p} on {d}, i want the {f}",
]  # fmt: skip
PLACES = ("Ostermoor", "Kelby", "Nordhaven", "Pellworth", "Sandrick", "Tolm", "Vessing", "Wrayford")
CODES = ("EUR", "USD", "GBP", "JPY", "CHF", "SEK", "PLN", "CAD")
MONEY = (
    "euros",
    "dollars",
    "pounds sterling",
    "yen",
    "swiss francs",
    "EUR",
    "USD",
    "GBP",
    "JPY",
    "CHF",
    "SEK",
    "PLN",
    "CAD",
)
MEASURES = (
    ("miles", "kilometers", "meters", "feet", "inches", "yards", "centimeters"),
    ("pounds", "kilograms", "grams", "ounces", "stones"),
    ("liters", "gallons", "pints", "milliliters", "cups"),
)  # fmt: skip
KNOWN = Known("2022-05-02", places=PLACES, currencies=CODES, units=Units().forms())
TASKS = ("calculator", "units", "currency", "weather")


@dataclass(frozen=True)
class Pair:
    """A question, the items of its call, and the answer where it is arithmetic.

    `question`: masked in mode "slots", as asked in lower case otherwise. `pool`: "seen", "carrier" or "operator".
    """

    question: str
    items: tuple[str, ...]
    expert: str
    pool: str
    text: str
    answer: Fraction | None = None


def _number(rng, digits, words) -> tuple[int, str]:
    value = rng.randrange(10 ** (digits - 1) + (digits == 1), 10**digits)
    return value, in_words(value, hyphen=True) if words else str(value)


def arithmetic(
    count: int,
    seed: int,
    digits: tuple[int, ...] = (1, 2, 3),
    mode: str = "slots",
    pool: str = "seen",
    diverse: bool = True,
    words: bool | None = None,
    operations: int = 1,
) -> list[Pair]:
    """Questions that need `operations` (1 or 2) of + - * /.

    digits: lengths that operands are drawn from. mode: what is written: "slots" the expression in slot ids, "copy"
    the expression with the operands as they stand in the question, "alone" the answer itself. diverse: all phrases and
    openings of training instead of six phrases and one opening. words: operands in words, or in figures; None: either.
    """
    rng = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        spelled = rng.random() < 0.5 if words is None else words
        operands = [_number(rng, rng.choice(digits), spelled) for _ in range(operations + 1)]
        signs = [rng.choice("+-*/") for _ in range(operations)]
        text, tree = operands[0][1], [operands[0]]
        for sign, operand in zip(signs, operands[1:], strict=True):
            seen = PHRASES[sign] if diverse else PHRASES[sign][:6]
            phrase = rng.choice(UNSEEN_PHRASES[sign] if pool == "operator" else seen)
            text = phrase.format(a=text, b=operand[1])
            tree = [*tree, sign, operand]
        carrier = rng.choice(UNSEEN_CARRIERS if pool == "carrier" else CARRIERS if diverse else NARROW_CARRIERS)
        text = carrier.format(text)
        answer = Fraction(operands[0][0])
        for sign, (value, _) in zip(signs, operands[1:], strict=True):
            answer = {"+": answer + value, "-": answer - value, "*": answer * value, "/": answer / value}[sign]
        pair = _pair(text, tree, answer, mode, pool)
        if pair is not None:
            pairs.append(pair)
    return pairs


def _pair(text, tree, answer, mode, pool) -> Pair | None:
    """`tree`: operand, then sign and operand, computed from the left."""
    if mode == "alone":
        return Pair(text.lower(), (f" {exact_text(answer)}", " ;"), "calculator", pool, text, answer)
    if mode == "copy":
        items = [f" {part if isinstance(part, str) else part[1]}" for part in tree]
        question = text.lower()
    else:
        reading = read(text, KNOWN)
        ids = {}
        for name, slot in zip(reading.ids, reading.slots, strict=True):
            if slot.kind == "n":
                ids.setdefault(slot.value, []).append(name)
        items = []
        for part in tree:
            if isinstance(part, str):
                items.append(f" {part}")
            elif not ids.get(Fraction(part[0])):
                return None
            else:
                names = ids[Fraction(part[0])]
                items.append(f" <{names.pop(0) if len(names) > 1 else names[0]}>")
        question = reading.masked
    if len(tree) == 5 and tree[3] in "*/" and tree[1] in "+-":
        items = [" (", *items[:3], " )", *items[3:]]
    return Pair(question, (*items, " ;"), "calculator", pool, text, answer)


def conversions(count: int, seed: int, expert: str, pool: str = "seen") -> list[Pair]:
    """Questions for `units` or `currency`, in slots."""
    rng = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        group = MONEY if expert == "currency" else rng.choice(MEASURES)
        source, target = rng.sample(group, 2)
        value, said = _number(rng, rng.randint(1, 5), rng.random() < 0.3)
        template = rng.choice(CONVERSIONS if pool == "seen" else UNSEEN_CONVERSIONS)
        text = rng.choice(OPENINGS) * (pool == "seen") + template.format(a=said, u=source, v=target)
        reading = read(text, KNOWN)
        kind = "c" if expert == "currency" else "u"
        found = [(n, s) for n, s in zip(reading.ids, reading.slots, strict=True) if s.kind == kind]
        numbers = [n for n, s in zip(reading.ids, reading.slots, strict=True) if s.kind == "n"]
        order = [next((n for n, s in found if s.text.lower() == each.lower()), None) for each in (source, target)]
        if len(found) == 2 and len(numbers) == 1 and None not in order and found[0][1].value != found[1][1].value:
            parts = (numbers[0], *order)
            items = [item for name in parts for item in (f" <{name}>", " ;")]
            pairs.append(Pair(reading.masked, tuple(items), expert, pool, text))
    return pairs


def weather(count: int, seed: int, pool: str = "seen") -> list[Pair]:
    """Questions for `weather`, in slots."""
    rng = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        name, said = rng.choice(list(READINGS.items()))
        date = f"2022-0{rng.randint(1, 4)}-{rng.randint(1, 28):02d}"
        template = rng.choice(WEATHER if pool == "seen" else UNSEEN_WEATHER)
        text = rng.choice(OPENINGS) * (pool == "seen") + template.format(f=said, p=rng.choice(PLACES), d=date)
        reading = read(text, KNOWN)
        kinds = {slot.kind: slot_id for slot_id, slot in zip(reading.ids, reading.slots, strict=True)}
        if {"e", "d"} <= set(kinds):
            items = (f" <{kinds['e']}>", " ;", f" <{kinds['d']}>", " ;", f" {name}", " ;")
            pairs.append(Pair(reading.masked, items, "weather", pool, text))
    return pairs


def pairs_for(expert: str, count: int, seed: int, pool: str = "seen") -> list[Pair]:
    """Slot pairs of one expert of TASKS; of the calculator one fifth has two operations."""
    if expert == "calculator":
        two = count // 5
        return arithmetic(count - two, seed, tuple(range(1, 10)), pool=pool) + arithmetic(
            two, seed + 1, tuple(range(1, 10)), pool=pool, operations=2
        )
    if expert == "weather":
        return weather(count, seed, pool)
    return conversions(count, seed, expert, pool)


CHAT = (
    "write a short poem about {}", "what do you think of {}?", "tell me a story about {}", "who are you?",
    "thanks a lot",
    "explain {} to a child", "good morning", "why do people like {}?", "recommend a book about {}",
    "say something nice about {}",
    "how do i cook {}?", "draft an email about {}", "what rhymes with {}?", "summarise the idea of {}",
    "tell me a joke about {}",
)  # fmt: skip
TOPICS = (
    "autumn",
    "bread",
    "chess",
    "the sea",
    "trains",
    "old maps",
    "honey",
    "jazz",
    "snow",
    "friendship",
    "spiders",
)


def chat(count: int, seed: int) -> list[str]:
    """Questions that no expert answers."""
    rng = random.Random(seed)
    return [rng.choice(CHAT).format(rng.choice(TOPICS)) for _ in range(count)]


SKILLS = ("infix", "prefix", "first", "last", "operators", "echo")


def skills(count: int, seed: int, digits: tuple[int, ...] = (1, 2, 3)) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(tagged question, items): six small tasks over diverse wordings, learnt before any adapter."""
    rng = random.Random(seed)
    for pair in arithmetic(count, seed, digits):
        skill = rng.choice(SKILLS)
        left, sign, right = pair.items[:3]
        items = {
            "infix": pair.items,
            "prefix": (sign, left, right, " ;"),
            "first": (left, " ;"),
            "last": (right, " ;"),
            "operators": (sign, " ;"),
            "echo": (f" {pair.question}", " ;"),
        }[skill]
        yield f"{skill}: {pair.question}", items


# -- plans of gold calls


def plan_items(calls: Sequence[Mapping], reading: Reading, today: str) -> tuple[str, ...] | None:
    """The items that a plan of gold calls is written in; None where a value of theirs is no slot of the question."""
    if not calls:
        return (NOTHING,)
    free = list(zip(reading.ids, reading.slots, strict=True))

    def slot(value, kinds):
        for at, (name, each) in enumerate(free):
            same = value in [r[-1] for r in each.value] if each.kind == "e" else str(each.value) == str(value)
            if each.kind == "n":
                same = re.fullmatch(r"-?[\d.]+(?:/\d+)?", str(value)) and exact_text(each.value) == str(value)
            if each.kind in kinds and same:
                free.append(free.pop(at))
                return f" <{name}>"
        return None

    items: list = []
    for call in calls:
        name, arguments = call["expert"], {k: v for k, v in call["arguments"].items() if v is not None}
        items.append(f" {name}")
        if name == "calculator":
            parts = re.findall(r"\$\d+|[\d.]+|[-+*/()]", arguments["expression"])
            items += [
                (slot(p, "n") or (f" {p}" if f" {p}" in CONSTANTS else None)) if p[0].isdigit() else f" {p}"
                for p in parts
            ]
            items.append(" ;")
        elif name == "dates":
            items += _date_items(arguments, slot, today)
        elif name in ("units", "currency") and set(arguments) - {"date"} and "date" not in arguments:
            value = str(arguments.get("value", arguments.get("amount")))
            first = f" {value}" if value.startswith("$") else slot(value, "n")
            items += [first, " ;", slot(arguments["from"], "cu"), " ;", slot(arguments["to"], "cu"), " ;"]
        elif name == "weather":
            items += [
                slot(arguments["place"], "e"),
                " ;",
                slot(arguments["date"], "d"),
                " ;",
                f" {arguments['field']}",
                " ;",
            ]
        else:
            return None
    return (*items, DONE) if None not in items else None


def _date_items(arguments, slot, today) -> list:
    def day(value):
        return (
            f" {value}" if str(value).startswith("$") else slot(value, "d") or (" today" if value == today else None)
        )

    op = arguments["op"]
    items = [f" {op}", " ;"]
    if op != "shift":
        return items + [each for name in DATES[op] for each in (day(arguments[name]), " ;")]
    count = int(arguments["days"])
    whole, weeks = slot(str(abs(count)), "n"), slot(exact_text(abs(count) // 7), "n") if count % 7 == 0 else None
    items += [day(arguments["date"]), " ;", " +" if count > 0 else " -", " ;"]
    return [*items, whole or weeks, " ;", " days" if whole else " weeks", " ;"]
