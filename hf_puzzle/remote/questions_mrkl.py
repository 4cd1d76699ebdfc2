"""One question about a database, read into one SELECT (the extractor of MRKL's database expert, arXiv 2205.00445).

Nothing here knows a table: columns and tables are linked through the words of their names, a lexicon of everyday
synonyms, and the values that the question mentions. The reader tries lookups, counts, aggregates, superlatives over
rows or groups, and joins, and prices each reading by the words that it leaves unexplained; the cheapest wins.
"""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from .slots_mrkl import Column, Schema, singular


# words that stand for each other, in questions and in names of columns and tables
CONCEPTS = [
    "salary pay wage earn earning earner paid income compensation make remuneration payroll stipend",
    "price cost costly charge fee expensive cheap pricey dear tariff pricing fare priced affordable",
    "rent rental monthly",
    "stock inventory available left hand warehouse stored remaining store shelf supply availability copy",
    "hired hire joined join joining started start employed recruited recruit onboarded employment tenure serving began enlisted enlist appointed appoint engaged taken aboard signed came begin",
    "department dept team division section unit branch part",
    "city town location based live living office site place located where municipality reside home village",
    "region area district county province state zone",
    "country nation land nationality",
    "customer client buyer purchaser shopper consumer",
    "employee staff worker people person colleague personnel workforce headcount staffer member teammate",
    "product item article goods merchandise thing good",
    "order purchase sale transaction ordering",
    "quantity amount unit number qty piece copy sold ordered volume bought purchased count",
    "category type kind class group genre sort line range",
    "status state condition stage",
    "name called title named label who person",
    "date when day dated time",
    "author writer wrote written penned",
    "book title volume novel publication",
    "published released publication issued out appeared release launch launched debut",
    "year when",
    "rating score star rated grade mark review",
    "age old young year aged",
    "weight weigh heavy mass light weighing",
    "height tall high elevation altitude short",
    "length long short",
    "population inhabitant people resident populous citizen dweller",
    "area size big surface large small extent",
    "capacity seat hold fit room space accommodate seating",
    "owner owned belongs own possess belong",
    "teacher instructor lecturer professor tutor taught teach teaches",
    "student pupil learner attendee participant enrolled",
    "course class subject lesson module",
    "patient", "doctor physician clinician gp", "visit appointment consultation session",
    "member subscriber", "loan borrowed lent borrowing checkout lend borrow borrower",
    "supplier vendor provider supplied manufacturer maker brand made producer",
    "budget fund funding money",
    "duration length long last lasts runtime minutes",
    "distance far range", "speed fast quick slow",
    "born birth birthday birthdate dob",
    "manager boss lead head supervisor leader run chief",
    "rent monthly lease", "guest visitor tourist", "room chamber suite", "ship vessel boat", "team club side", "player athlete",
    "artist painter musician band singer performer creator", "song track", "album record", "film movie picture", "director directed",
    "animal species creature pet", "vehicle car", "driver drove drive driven", "stop station", "farm field plot", "crop harvest yield",
    "tax duty levy", "discount reduction", "profit margin gain", "points score goal", "job role position occupation profession title work",
    "phone telephone", "email mail", "address street", "floor storey level", "color colour", "placed bought ordered purchased made date",
    "shipment delivery parcel consignment dispatch shipped delivered", "invoice bill", "payment paid", "account", "balance", "ticket booking reservation booked reserved",
    "destination bound heading going", "origin departure from depart", "arrival arrive", "contract deal agreement signed", "project",
    "hours time", "cents", "acquired bought purchased obtained", "opened founded established opening built", "joined registered signup enrolled since membership",
]  # fmt: skip
REVENUE = frozenset(
    str.split(
        "revenue turnover taking earning income proceed sales gross spend spent spending value worth brought "
        "earned generated generate bring made money raise raised receipt"
    )
)
PERSONAL = frozenset(
    str.split(
        "employee staff worker customer client member student teacher doctor patient person people player "
        "guest author driver keeper pilot artist volunteer tenant user sailor singer nurse agent crew visitor "
        "rider owner reader musician trainer coach technician"
    )
)
AMOUNT_NOUNS = {"unit", "piece", "copy", "item", "exemplar", "quantity", "amount"}
SOLD = {
    "sold",
    "ordered",
    "bought",
    "purchased",
    "shipped",
    "sell",
    "order",
    "buy",
    "purchase",
    "sale",
    "lent",
    "borrowed",
    "booked",
}
# superlative or superlative phrase: (direction, concepts of its column; empty: said by the noun beside it)
SUPERLATIVES = {
    "most expensive": ("max", "price"), "priciest": ("max", "price"), "dearest": ("max", "price"), "costliest": ("max", "price"), "most costly": ("max", "price"), "highest priced": ("max", "price"), "highest-priced": ("max", "price"),
    "least expensive": ("min", "price"), "cheapest": ("min", "price"), "most affordable": ("min", "price"), "least costly": ("min", "price"), "lowest priced": ("min", "price"), "lowest-priced": ("min", "price"), "most inexpensive": ("min", "price"),
    "best paid": ("max", "salary"), "best-paid": ("max", "salary"), "highest paid": ("max", "salary"), "highest-paid": ("max", "salary"), "top earner": ("max", "salary"), "top-earning": ("max", "salary"), "top earning": ("max", "salary"), "best earning": ("max", "salary"), "highest earning": ("max", "salary"), "highest-earning": ("max", "salary"), "biggest earner": ("max", "salary"), "highest earner": ("max", "salary"), "top paid": ("max", "salary"), "top-paid": ("max", "salary"), "best remunerated": ("max", "salary"), "earns the most": ("max", "salary"), "earns most": ("max", "salary"), "earn most": ("max", "salary"), "makes most": ("max", "salary"), "paid most": ("max", "salary"), "paid best": ("max", "salary"), "earns least": ("min", "salary"), "paid least": ("min", "salary"), "costs most": ("max", "price"), "costs least": ("min", "price"), "best earner": ("max", "salary"), "top salaried": ("max", "salary"), "best-earning": ("max", "salary"), "make the most": ("max", "salary"), "longest serving": ("min", "date"), "with the company the longest": ("min", "date"), "with the company longest": ("min", "date"), "with us the longest": ("min", "date"), "with us longest": ("min", "date"), "with the firm the longest": ("min", "date"), "here the longest": ("min", "date"), "here longest": ("min", "date"), "longest tenure": ("min", "date"), "shortest tenure": ("max", "date"), "employed the longest": ("min", "date"), "employed longest": ("min", "date"), "worked the longest": ("min", "date"), "served the longest": ("min", "date"), "served longest": ("min", "date"), "longest-tenured": ("min", "date"),  "earn the most": ("max", "salary"), "makes the most": ("max", "salary"), "paid the most": ("max", "salary"), "gets the most": ("max", "salary"),
    "worst paid": ("min", "salary"), "worst-paid": ("min", "salary"), "lowest paid": ("min", "salary"), "lowest-paid": ("min", "salary"), "least paid": ("min", "salary"), "lowest earning": ("min", "salary"), "earns the least": ("min", "salary"), "earn the least": ("min", "salary"), "makes the least": ("min", "salary"), "paid the least": ("min", "salary"), "lowest earner": ("min", "salary"), "poorest paid": ("min", "salary"),
    "costs the most": ("max", "price"), "cost the most": ("max", "price"), "costs the least": ("min", "price"), "cost the least": ("min", "price"),
    "newest": ("max", "date"), "latest": ("max", "date"), "most recent": ("max", "date"), "most recently": ("max", "date"), "last": ("max", "date"), "youngest": ("max", "born"),
    "longest-serving": ("min", "date"), "earliest": ("min", "date"), "first": ("min", "date"), "oldest": ("min", "born"), "most senior": ("min", "date"), "longest standing": ("min", "date"), "longest-standing": ("min", "date"),
    "heaviest": ("max", "weight"), "lightest": ("min", "weight"), "tallest": ("max", "height"), "shortest": ("min", "length"), "longest": ("max", "length"), "fastest": ("max", "speed"), "slowest": ("min", "speed"), "quickest": ("max", "speed"),
    "most populous": ("max", "population"), "largest": ("max", ""), "biggest": ("max", ""), "smallest": ("min", ""), "best rated": ("max", "rating"), "best-rated": ("max", "rating"), "top rated": ("max", "rating"), "top-rated": ("max", "rating"), "highest rated": ("max", "rating"), "highest-rated": ("max", "rating"), "worst rated": ("min", "rating"), "lowest rated": ("min", "rating"),
    "highest": ("max", ""), "greatest": ("max", ""), "maximum": ("max", ""), "max": ("max", ""), "top": ("max", ""), "most": ("max", ""), "peak": ("max", ""), "best": ("max", ""), "biggest-selling": ("max", "quantity"), "best selling": ("max", "quantity"), "best-selling": ("max", "quantity"), "bestselling": ("max", "quantity"), "most popular": ("max", "quantity"),
    "lowest": ("min", ""), "least": ("min", ""), "fewest": ("min", ""), "minimum": ("min", ""), "min": ("min", ""), "tiniest": ("min", ""), "worst": ("min", ""),
}  # fmt: skip
SUPERLATIVE = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, SUPERLATIVES), key=len, reverse=True)) + r")\b")
AGGREGATES = {
    "AVG": re.compile(r"\b(?:average|averages|averaged|mean|typical|typically|on average)\b"),
    "SUM": re.compile(r"\b(?:total|totals|totalling|sum|combined|altogether|overall|in all|in total|add up|adds up|aggregate|cumulative|together|summed|entire|whole|collectively|payroll|(?:wage|salary|salaries|pay|wages) bill|in sum)\b"),
}  # fmt: skip
COUNT = re.compile(
    r"\b(?:how many times|how often|how many|number of|count of|count(?: up)?|headcounts?|head counts?|how big|how large|size of|tally(?: of)?|quantity of|how numerous)\b"
)
REVENUE_PHRASE = re.compile(
    r"\b(?:"
    + "|".join(
        sorted(REVENUE - {"value", "worth", "made", "money", "raise", "bring", "gross", "earning", "income", "earned"})
    )
    + r"|proceeds|takings|receipts|earn(?:ed|ings|s)?|income|brought in|bring in|take in|took in|taken in|cash in|make|made|sales value|total value|worth|money)\b"
)
DATED = r"\b(?:when|date|day|since|year|month|how long|time|start|<t\d+>)(?!\w)"
COMPARE = [
    (r"(?:more than|over|above|greater than|exceed(?:s|ed|ing)?|higher than|larger than|bigger than|in excess of|upwards of|beyond|after|later than|following|heavier than|longer than|older than|dearer than|past|topping|tops)", ">"),
    (r"(?:less than|under|below|fewer than|lower than|smaller than|cheaper than|before|prior to|earlier than|lighter than|shorter than|ahead of|short of)", "<"),
    (r"(?:at least|no less than|no fewer than|not less than|a minimum of|minimum of|since|from|starting|as of|on or after|not before|no earlier than)", ">="),
    (r"(?:at most|no more than|not more than|a maximum of|maximum of|up to|until|till|through|on or before|by|no later than|not after)", "<="),
    (r"(?:exactly|equal to|equals|of exactly|precisely)", "="),
]  # fmt: skip
STOP = frozenset(
    str.split(
        "the a an of in on at to is are was were be been being do does did doing has have had having for by "
        "with and or what which who whom whose when where why how many much there that this these those it "
        "its our we us they their them he she his her i me my you your please tell give show find get let "
        "know can could would will shall should want need like say just now currently current present exactly "
        "actually all any every each per one ones single from as about into out up 's s ? . , ! : ; ' - ( ) "
        "also so far according records record database table data system books file files listed recorded "
        "there're company firm business shop organisation organization if not no than then name named called "
        "person people value entry entries rows row overall total thing things exist exists come comes came "
        "amount number figure look lookup check kindly quickly may might using use based got go gets goes "
        "working work works worked place placed places made make makes hold holds contain contains carry "
        "carries belong belongs under within inside among amongst between during after before over more less "
        "most least top i'd i'm hey hello hi say's query different distinct unique various whole sort kind "
        "information info details detail year years month date dates here still typical how's what's who's "
        "when's where's today right level levels worth ever"
    )
)


def stem(word: str) -> str:
    """A crude stem that joins hired/hire/hires, priced/price, categories/category."""
    word = singular(word)
    for end in ("ings", "ing", "ed", "est", "er", "ly"):
        if word.endswith(end) and len(word) - len(end) >= 3:
            word = word[: -len(end)]
            break
    word = re.sub(r"([^aeioulsz])\1$", r"\1", word)
    return word.removesuffix("e") if len(word) > 3 else word


_CONCEPTS = {}
for _line in CONCEPTS:
    _stems = frozenset(map(stem, _line.split()))
    for _stem in _stems:
        _CONCEPTS.setdefault(_stem, set()).update(_stems - {_stem})
CENTS = {"cents", "cent", "pence", "minor", "pennies", "centimes", "ore"}


@dataclass
class Select:
    """A reading: the SQL, what the result is ("number", "date", "text"), its column, and what was left unexplained.

    `unit` is the last word of the column's name (price_eur: "eur", weight_kg: "kg"), "" when it says none; `money`
    whether the number is an amount of money.
    """

    sql: str
    kind: str
    cost: float
    column: Column | None = None
    unit: str = ""
    money: bool = False


@dataclass
class _Filter:
    table: str
    sql: str
    tokens: tuple
    name: bool = False


def literal(value) -> str:
    """A SQL literal; quotes are doubled, so a value never leaves its string."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    value = Fraction(value)
    return str(value.numerator) if value.denominator == 1 else repr(float(value))


def identifier(name: str) -> str:
    """A SQL identifier, quoted where it must be."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


RESERVED = frozenset(
    str.split(
        "order group select from where by table index values join on and or not null in is as case when then "
        "else end limit having union all distinct default check to set references primary key add alter "
        "between like desc asc exists transaction commit column constraint create delete drop update insert "
        "into"
    )
)


class Reader:
    """Reads masked questions against a schema. `links` of words are cached; a Reader is safe to share for reading."""

    def __init__(self, schema: Schema):
        self.schema = schema
        self._links = {}

    # -- linking

    def links(self, word: str) -> list:
        """Columns and tables that `word` may mean: [(strength, table, column name or None)], strongest first."""
        if word not in self._links:
            self._links[word] = self._link(word)
        return self._links[word]

    def _link(self, word):
        found = []
        root = stem(word)
        for table, columns in self.schema.columns.items():
            parts = [singular(w) for w in re.findall(r"[a-z]+", table.lower())]
            strength = self._strength(word, root, parts, table=True)
            if strength:
                found.append((strength, table, None))
            for column in columns.values():
                words = [w for w in column.words if w != "id" and w not in CENTS and singular(w) not in CENTS]
                strength = self._strength(word, root, words, table=False)
                # employee_name: the name of the table adds nothing
                if strength and column.kind != "id":
                    found.append((strength, table, column.name))
        return sorted(found, key=lambda link: -link[0])

    @staticmethod
    def _strength(word, root, parts, table):
        if not parts:
            return 0
        if singular(word) in parts or word in parts:
            return 3 if len(parts) == 1 or parts[-1] == singular(word) else 2.5
        stems = [stem(p) for p in parts]
        if root in stems:
            return 2.4
        if any(root in _CONCEPTS.get(s, ()) for s in stems) and not (
            table and word in ("number", "unit", "name", "home", "hand")
        ):
            return 1.5
        return 0

    def name_column(self, table):
        """The text column that names a row of `table`, or None."""
        columns = [c for c in self.schema.columns[table].values() if c.kind == "text"]
        for want in ("name", "title", "label"):
            for column in columns:
                if column.words and column.words[-1] == want:
                    return column
        own = singular(table.lower())
        for column in columns:
            if own in column.words:
                return column
        if not columns:
            return None
        best = max(columns, key=lambda c: len(c.values))
        return best if best is columns[0] or len(best.values) > 2 * len(columns[0].values) else columns[0]

    def path(self, start, goals):
        """Joins that connect `start` with every table of `goals`: list of join rows, or None."""
        joins = []
        have = {start}
        for goal in goals:
            if goal in have:
                continue
            route = self._route(have, goal)
            if route is None:
                return None
            for join in route:
                joins.append(join)
                have |= {join[0], join[2]}
        return joins

    def _route(self, have, goal):
        queue = deque((table, ()) for table in have)
        seen = set(have)
        while queue:
            table, route = queue.popleft()
            for join in self.schema.joins:
                for here, there in ((join[0], join[2]), (join[2], join[0])):
                    if here == table and there not in seen:
                        if there == goal:
                            return [*route, join]
                        seen.add(there)
                        queue.append((there, (*route, join)))
        return None

    # -- reading

    def read(self, text: str, slots: dict) -> Select | None:
        """The best SELECT for masked `text`.

        Args: `slots` placeholder id -> (kind, value); entities carry their references, "x" unknown names their text.
        Returns: a Select, or None when nothing in the schema fits.
        """
        if not self.schema.columns or not text:
            return None
        return _Question(self, text, slots).best()


class _Question:
    def __init__(self, reader, text, slots):
        self.reader, self.schema, self.slots = reader, reader.schema, slots
        self.text = text
        self.tokens = re.findall(r"<\w+>|[a-z0-9]+(?:['-][a-z0-9]+)*|[^\w\s]", text)
        self.cents = any(token in CENTS for token in self.tokens)
        self.starts, at = [], 0
        for token in self.tokens:
            at = text.index(token, at)
            self.starts.append(at)
            at += len(token)

    def token_range(self, match) -> set:
        """Indices of tokens inside a regex match on the text."""
        return {i for i, start in enumerate(self.starts) if match.start() <= start < match.end()}

    def slot(self, token):
        return self.slots.get(token[1:-1]) if token.startswith("<") else None

    def best(self):
        found = [each for each in self.readings() if each]
        return min(found, key=lambda select: select.cost) if found else None

    def readings(self):
        tables = self.candidate_tables()
        for table in tables:
            yield from self.read_as(table)

    def candidate_tables(self):
        scores = {}
        for token in self.tokens:
            slot = self.slot(token)
            if slot and slot[0] == "e":
                for reference in slot[1]:
                    if reference[0] == "value":
                        scores[reference[1]] = max(scores.get(reference[1], 0), 2)
            elif not slot:
                for strength, table, _ in self.reader.links(token) if token not in ("the", "of") else ():
                    scores[table] = max(scores.get(table, 0), strength)
        near = {t: 0.5 for a, _, c, _ in self.schema.joins for t in (a, c) if (a in scores) != (c in scores)}
        return sorted({**near, **scores}, key=lambda table: -scores.get(table, 0))

    # -- filters

    def filters(self, table):
        """Conditions that values, comparisons and dates put on `table` or tables joined to it, or None if they clash."""
        found = []
        grouped = {}
        for i, token in enumerate(self.tokens):
            slot = self.slot(token)
            if slot and slot[0] == "e":
                options = [r for r in slot[1] if r[0] == "value"]
                pick = self.pick_value(table, options, i)
                if pick:
                    _, where, column, value = pick
                    grouped.setdefault((where, column), []).append((value, i))
            elif slot and slot[0] == "x" and self.unknown_name_fits(table, i):
                column = self.unknown_column(table, i)
                if column:
                    found.append(_Filter(column.table, f"{self.col(column)}={literal(slot[1])}", (i,), True))
        for (where, column), values in grouped.items():
            target = self.schema.columns[where][column]
            tokens = tuple(i for _, i in values) + self.column_word_near(target, [i for _, i in values])
            name = self.reader.name_column(where)
            negated = any(
                i
                and self.tokens[i - 1] in ("not", "except", "excluding", "outside", "without")
                or self.tokens[max(0, i - 2) : i] in (["not", "in"], ["other", "than"], ["not", "the"])
                for _, i in values
            )
            if len(values) == 1:
                sql = f"{self.col(target)}{'<>' if negated else '='}{literal(values[0][0])}"
            else:
                sql = f"{self.col(target)}{' NOT' if negated else ''} IN ({', '.join(literal(v) for v, _ in values)})"
            found.append(_Filter(where, sql, tokens, name is not None and name.name == column))
        found += self.comparisons(table)
        return found

    def pick_value(self, table, options, i):
        if not options:
            return None
        near = set(self.tokens[max(0, i - 3) : i + 3])

        def rank(option):
            _, where, column, _ = option
            spoken = any(
                where == t and column == c and s >= 2
                for word in near
                if not word.startswith("<")
                for s, t, c in self.reader.links(word)
            )
            distance = 0 if where == table else len(self.reader.path(table, [where]) or [0] * 9)
            return (distance - 2 * spoken, list(self.schema.columns[where]).index(column))

        best = min(options, key=rank)
        if best[1] != table and self.reader.path(table, [best[1]]) is None:
            return None
        return best

    def column_word_near(self, column, places):
        """Tokens beside a value that only say which column it is in: "the kitchen category"."""
        near = {j for i in places for j in (i - 2, i - 1, i + 1) if 0 <= j < len(self.tokens)}
        return tuple(
            j
            for j in near
            if not self.tokens[j].startswith("<")
            and any((t, c) == (column.table, column.name) and s >= 2 for s, t, c in self.reader.links(self.tokens[j]))
            and not (j and self.tokens[j - 1] in ("which", "what"))
        )

    def unknown_name_fits(self, table, i):
        return not (i and self.tokens[i - 1] in ("%",))

    def unknown_column(self, table, i):
        before = self.tokens[max(0, i - 3) : i] + self.tokens[i + 1 : i + 2]
        for word in before:
            for strength, where, column in self.reader.links(word) if not word.startswith("<") else ():
                if (
                    where == table
                    and column
                    and strength >= 2.5
                    and self.schema.columns[where][column].kind == "text"
                    and word not in ("name",)
                ):
                    return self.schema.columns[where][column]
        if i and self.tokens[i - 1] in ("in", "at", "from") or (i > 1 and self.tokens[i - 2] in ("in", "at", "from")):
            for column in self.schema.columns[table].values():
                if column.kind == "text" and column is not self.reader.name_column(table):
                    return column
        return self.reader.name_column(table)

    def col(self, column):
        return f"{identifier(column.table)}.{identifier(column.name)}"

    def scale(self, column, at):
        """Minor units: a price in cents is compared with amounts in whole units unless cents are said."""
        return 100 if set(column.words) & CENTS and not self.cents else 1

    def comparisons(self, table):
        found = []
        text = self.text
        used = set()

        def add(column, sql, match):
            tokens = self.token_range(match)
            used.update(tokens)
            found.append(_Filter(column.table, sql, tuple(tokens)))

        for m in re.finditer(
            r"\b(?:between|from)\s+(?:the\s+)?<([dnm]\d+)>(?:\s+<[cu]\d+>)?\s+(?:and|to|until|till|through|-)\s+(?:the\s+)?<([dnm]\d+)>",
            text,
        ):
            low, high = self.slots[m[1]], self.slots[m[2]]
            column = self.compared_column(table, m, low)
            if column and low[0] == high[0]:
                first, last = self.bound(low, column, m), self.bound(high, column, m)
                if low[0] == "m":
                    add(column, f"substr({self.col(column)},1,7) BETWEEN {first} AND {last}", m)
                else:
                    add(column, f"{self.col(column)} BETWEEN {first} AND {last}", m)
        for words, sign in COMPARE:
            for m in re.finditer(
                rf"\b{words}\s+(?:the\s+)?(?:(?:start|end|beginning) of\s+)?(?:year\s+)?(?:<c\d+>\s+)?<([dnm]\d+)>(?:\s+<[cu]\d+>)?",
                text,
            ):
                if self.token_range(m) & used:
                    continue
                slot = self.slots[m[1]]
                if re.match(r"by\b", m[0]) and slot[0] == "n" and not 1000 <= slot[1] <= 2999:
                    # "multiply by 7" is no condition
                    continue
                column = self.compared_column(table, m, slot)
                # "from March 2021" and "by 2021" without a date column are no comparison
                if column is None:
                    continue
                if column.kind == "date" and slot[0] == "n":
                    year = f"substr({self.col(column)},1,4)"
                    add(column, f"{year}{sign}'{int(slot[1]):04d}'", m)
                elif slot[0] == "m":
                    exact = re.match(r"from\b", m[0])
                    add(column, f"substr({self.col(column)},1,7){'=' if exact else sign}{literal(slot[1])}", m)
                elif slot[0] == "d" and re.match(r"from\b|as of\b", m[0]):
                    add(column, f"{self.col(column)}={literal(slot[1])}", m)
                else:
                    add(column, f"{self.col(column)}{sign}{self.bound(slot, column, m)}", m)
        for m in re.finditer(
            r"<([n]\d+)>(?:\s+<[cu]\d+>)?\s+or\s+(more|less|fewer|above|below|higher|lower|over|under|later|earlier)\b",
            text,
        ):
            column = self.compared_column(table, m, self.slots[m[1]])
            if column and not self.token_range(m) & used:
                sign = "<=" if m[2] in ("less", "fewer", "below", "lower", "under", "earlier") else ">="
                add(column, f"{self.col(column)}{sign}{self.bound(self.slots[m[1]], column, m)}", m)
        for m in re.finditer(
            r"(?:\b(?:in|during|of|on|for|throughout|within|over|dated)\s+)?(?:the\s+)?(?:year\s+|month of\s+)?<([dnm]\d+)>",
            text,
        ):
            if self.token_range(m) & used:
                continue
            kind, value = self.slots[m[1]]
            if kind == "n" and not (isinstance(value, Fraction) and value.denominator == 1 and 1000 <= value <= 2999):
                continue
            if not isinstance(value, str | Fraction):
                continue
            column = self.compared_column(table, m, (kind, value), equal=True)
            if column is None:
                continue
            if column.kind == "date":
                size = {"d": 10, "m": 7, "n": 4}[kind]
                add(
                    column,
                    f"substr({self.col(column)},1,{size})={literal(value if kind != 'n' else str(int(value)))}",
                    m,
                )
            elif kind == "n" and (
                set(column.words) & {"year", "published", "built", "founded", "released"} or 1000 < value < 2999
            ):
                add(column, f"{self.col(column)}={literal(value)}", m)
        return found

    def bound(self, slot, column, match):
        kind, value = slot
        if kind == "n":
            if column.kind == "date":
                return literal(str(int(value)))
            return literal(value * self.scale(column, match))
        return literal(value)

    def compared_column(self, table, match, slot, equal=False):
        """The column that a comparison at `match` is about: the nearest spoken one of the right kind, else the only one."""
        kind = slot[0]
        if not isinstance(slot[1], str | Fraction):
            return None
        year = kind == "n" and slot[1].denominator == 1 and 1000 <= slot[1] <= 2999
        kinds = ("date",) if kind in "dm" else ("date", "number") if year else ("number",)
        start = min(self.token_range(match), default=0)
        best = None
        tables = [table, *[t for t in self.schema.columns if t != table and self.reader.path(table, [t]) is not None]]
        for j, word in enumerate(self.tokens):
            if word.startswith("<"):
                continue
            for strength, where, name in self.reader.links(word):
                if name is None or where not in tables:
                    continue
                column = self.schema.columns[where][name]
                if column.kind not in kinds:
                    continue
                years = set(column.words) & {"year", "published", "built", "founded", "released", "opened", "since"}
                if (
                    year
                    and column.kind == "number"
                    and (equal or re.match(r"(?:after|before|since|until)", match[0]))
                    and not years
                ):
                    continue
                distance = abs(start - j) + (3 if j > start else 0) + (4 if where != table else 0) - strength
                if best is None or distance < best[0]:
                    best = (distance, column)
        if best:
            return best[1]
        own = [c for c in self.schema.columns[table].values() if c.kind in kinds]
        if year:
            dates = [c for c in own if c.kind == "date"] or [c for c in own if "year" in c.words]
            return dates[0] if len(dates) == 1 or dates and not equal else None
        return own[0] if len(own) == 1 else None

    # -- targets

    def linked(self, table, kinds=None, strength=1.5):
        """Spoken columns of `table`, strongest and then earliest first: [(strength, position, Column)]."""
        found = []
        # "what do people in Sales make" asks for pay; "make the best boss" does not
        people = bool(set(self.split(table)) & PERSONAL) and re.search(r"\bdo(?:es)?\b.*\bmakes?\W*$", self.text)
        for i, token in enumerate(self.tokens):
            if token.startswith("<") or (
                token in STOP
                and not (people and token in ("make", "makes"))
                and token
                not in (
                    "date",
                    "year",
                    "number",
                    "worth",
                    "who",
                    "when",
                    "where",
                    "named",
                    "name",
                    "amount",
                    "placed",
                    "made",
                    "total",
                    "value",
                    "level",
                    "place",
                    "hours",
                    "work",
                    "months",
                )
            ):
                continue
            for s, where, name in self.reader.links(token):
                # "orders" names the table, not its order_date
                own = s < 3 and any(t == table and c is None and s3 >= 3 for s3, t, c in self.reader.links(token))
                if where == table and name and s >= strength and not own:
                    column = self.schema.columns[where][name]
                    if kinds is None or column.kind in kinds:
                        found.append((s, i, column))
        return sorted(found, key=lambda f: (-f[0], f[1]))

    def read_as(self, table):
        filters = self.filters(table)
        base = self.text
        superlative = self.superlative(table)
        aggregate = next((name for name, form in AGGREGATES.items() if form.search(base)), None)
        count = COUNT.search(base)
        readings = []
        readings += self.revenue(table, filters)
        if superlative:
            readings += self.superlative_rows(table, filters, superlative, aggregate)
            readings += self.groups(table, filters, superlative, aggregate)
        if count:
            readings += self.counts(table, filters, count)
        if aggregate:
            readings += self.aggregates(table, filters, aggregate)
        readings += self.lookups(table, filters)
        return readings

    def superlative(self, table):
        m = SUPERLATIVE.search(self.text)
        if not m or re.search(r"\bat $", self.text[: m.start()]):
            return None
        direction, concept = SUPERLATIVES[m[0]]
        return direction, concept, self.token_range(m)

    def superlative_column(self, table, superlative):
        """(Column, tokens that say it) ordered by the superlative, over `table` only."""
        direction, concept, tokens = superlative
        last = max(tokens)
        if concept:
            if concept in ("date", "born"):
                dates = [
                    c
                    for c in self.schema.columns[table].values()
                    if c.kind == "date" or set(c.words) & {"year", "published", "founded", "built", "opened"}
                ]
                spoken = [(s, i, c) for s, i, c in self.linked(table) if c in dates]
                if spoken:
                    return spoken[0][2], {spoken[0][1]}, direction
                ages = [c for c in self.schema.columns[table].values() if "age" in c.words]
                if concept == "born" and ages:
                    return ages[0], set(), "min" if direction == "max" else "max"
                return (dates[0], set(), direction) if dates else None
            for column in self.schema.columns[table].values():
                if column.kind in ("number",) and any(
                    concept in (w, *_CONCEPTS.get(stem(w), ()))
                    or stem(concept) in ({stem(w)} | _CONCEPTS.get(stem(w), set()))
                    for w in column.words
                ):
                    return column, {i for _, i, c in self.linked(table) if c is column}, direction
            return None
        spoken = [
            (abs(i - last) + (2 if i < last else 0) - s, i, c)
            for s, i, c in self.linked(table, ("number", "date"))
            if i not in tokens
        ]
        if spoken:
            column = min(spoken, key=lambda f: f[0])[2]
            return column, {i for _, i, c in spoken if c is column}, direction
        return None

    def superlative_rows(self, table, filters, superlative, aggregate):
        hit = self.superlative_column(table, superlative)
        if not hit or aggregate == "AVG":
            return
        column, tokens, direction = hit
        used = superlative[2] | tokens
        way = "DESC" if direction == "max" else "ASC"
        targets = [(s, i, c) for s, i, c in self.linked(table) if c is not column and i not in used]
        wants_name = re.search(r"\b(?:who|whose|which|name|whom|name of)\b", self.text) or self.mentions_table(table)
        name = self.reader.name_column(table)
        # "what part has the lowest price" asks for the part
        what_row = any(i and self.tokens[i - 1] in ("what", "which") for i in self.table_tokens(table))
        order = f" ORDER BY {self.col(column)} {way}, {self.tiebreak(table)} LIMIT 1"
        asks_value = (
            re.search(
                r"\bhow (?:much|many|high|low|old|long|heavy|big|large)\b|^(?:what|tell|give|find|show|state)?\W*(?:is|was|'s)?\s*(?:me )?(?:the )?(?:\w+ )?$",
                self.text[: self.starts[min(superlative[2])]],
            )
            or tokens
            and min(tokens) < min(superlative[2])
            # "what is the top salary": the noun beside the superlative is what is asked for
            or max(superlative[2]) + 1 in tokens
            and not re.search(r"\b(?:who|whose|which|whom|name)\b", self.text)
        )
        for strength, i, target in targets[:4]:
            if target.kind != "id" and not self.only_filter_word(i, filters):
                yield self.build(
                    table,
                    self.value_sql(target),
                    filters,
                    used | {i},
                    target,
                    tail=order,
                    penalty=0.3 if strength < 2 else 0.1,
                )
        if name and wants_name and name is not column:
            spoken = {i for i, t in enumerate(self.tokens) if t in ("who", "name")} | self.table_tokens(table)
            value_first = bool(tokens) and min(tokens) < min(superlative[2])
            row = bool(superlative[1]) and not value_first and not re.search(r"\bhow much\b", self.text)
            asked = (what_row or bool(re.search(r"\b(?:who|which|name|whom)\b", self.text))) and not re.search(
                r"\bhow much\b", self.text
            )
            yield self.build(
                table,
                self.col(name),
                filters,
                used | spoken,
                name,
                tail=order,
                penalty=0.05 if asked and not value_first or row else 0.45 if value_first else 0.25,
            )
        if (asks_value or tokens) and not (
            superlative[1] and not tokens and not re.search(r"\bhow much\b", self.text)
        ):
            who = what_row or re.search(r"\b(?:who|which|whose)\b", self.text)
            yield self.build(
                table, f"{'MAX' if direction == 'max' else 'MIN'}({self.value_sql(column)})", filters, used | self.table_tokens(table), column,
                penalty=0.1 if asks_value and not who else 0.9 if who else 0.3,
            )  # fmt: skip

    def tiebreak(self, table):
        key = next((c for c in self.schema.columns[table].values() if c.name.lower() == "id" or c.kind == "id"), None)
        return self.col(key) if key else "1"

    def mentions_table(self, table):
        return bool(self.table_tokens(table))

    def table_tokens(self, table):
        return {
            i
            for i, token in enumerate(self.tokens)
            if not token.startswith("<")
            and any(t == table and c is None and s >= 1.5 for s, t, c in self.reader.links(token))
        }

    def only_filter_word(self, i, filters):
        return any(i in f.tokens for f in filters)

    def groups(self, table, filters, superlative, aggregate):
        """Which department has the most employees, the highest average salary?"""
        direction, concept, tokens = superlative
        way = "DESC" if direction == "max" else "ASC"
        first = min(tokens)
        for other in [table, *[t for t in self.schema.columns if t != table and self.reader.path(table, [t])]]:
            keys = [
                (s, i, c) for s, i, c in self.linked(other, ("text",)) if i < first or re.search(r"\bby\b", self.text)
            ]
            if other != table:
                named = self.reader.name_column(other)
                keys += [(2, i, named) for i in self.table_tokens(other) if named and i < first]
            elif re.search(r"\bwho\b", self.text) and not keys:
                keys = [
                    (1.5, i, c)
                    for i, t in enumerate(self.tokens)
                    if t == "who"
                    for c in self.schema.columns[table].values()
                    if set(c.words) & PERSONAL and c.kind == "text"
                ]
            for strength, i, key in keys[:2]:
                if self.only_filter_word(i, filters):
                    continue
                nouns = {j for j in self.table_tokens(table) if j > max(tokens)}
                tail = f" GROUP BY {self.col(key)} ORDER BY {{}} {way}, {self.col(key)} LIMIT 1"
                weak = 0.2 if strength < 2 else 0.0
                if nouns and not concept and aggregate != "AVG":
                    yield self.build(
                        table,
                        self.col(key),
                        filters,
                        tokens | {i} | nouns,
                        key,
                        tail=tail.format("COUNT(*)"),
                        penalty=0.1 + weak,
                    )
                columns = [(s, j, c) for s, j, c in self.linked(table, ("number",)) if j != i]
                if concept == "quantity":
                    columns = [
                        (2, i, c)
                        for c in self.schema.columns[table].values()
                        if c.kind == "number" and set(c.words) & {"quantity", "qty", "amount", "unit", "copy", "piece"}
                    ]
                if columns and (
                    aggregate
                    or concept == "quantity"
                    or set(columns[0][2].words) & {"quantity", "qty", "amount", "unit", "copy", "piece"}
                ):
                    agg = aggregate or "SUM"
                    said = {j for _, j, c in columns if c is columns[0][2]}
                    form = AGGREGATES[agg].search(self.text)
                    said |= self.token_range(form) if form else set()
                    yield self.build(
                        table,
                        self.col(key),
                        filters,
                        tokens | {i} | said | self.table_tokens(table),
                        key,
                        tail=tail.format(f"{agg}({self.col(columns[0][2])})"),
                        penalty=0.1 + weak,
                    )

    def counts(self, table, filters, match):
        used = self.token_range(match)
        after = list(range(max(used) + 1, len(self.tokens)))
        head = [i for i in after[:5] if not self.tokens[i].startswith("<")]
        own = self.table_tokens(table)
        others = (
            set().union(*(self.table_tokens(t) for t in self.schema.columns if t != table))
            if len(self.schema.columns) > 1
            else set()
        )
        if re.match(r"how (?:big|large)|size", match[0]) and self.linked(table, ("number",)):
            return
        headcount = any(self.tokens[i] in ("headcount", "head", "big", "large", "size") for i in used)
        numeric = [(s, i, c) for s, i, c in self.linked(table, ("number",))]
        near = [i for i in head if i in own]
        # one row has the name: what is counted is what its columns count
        name = self.reader.name_column(table)
        own_name = name is not None and name.words[-1] in ("name", "title", "label")
        named = own_name and any(f.name and f.table == table for f in filters)
        hires = [
            i
            for i in head[:1]
            for strength, t, c in self.reader.links(self.tokens[i])
            if t == table and c and self.schema.columns[t][c].kind == "date" and strength >= 2 and i not in own
        ]
        if hires:
            yield self.build(table, "COUNT(*)", filters, used | set(hires), None, penalty=0.3)
        # "how many items come from Norvik" counts rows where nothing is sold or stored
        rows = any(not f.name for f in filters) and not any(f.name for f in filters) and bool(near)
        moved = set(self.tokens) & (SOLD | {"stock", "left", "available", "remaining", "inventory", "unit", "units"})
        if not self.only_number_asked(head, table) or (rows and not moved):
            exact = {
                i
                for i in own
                if any(t == table and c is None and s >= 2.4 for s, t, c in self.reader.links(self.tokens[i]))
            }
            if near:
                strong = any(i in exact for i in near)
                penalty = 0.0 if strong else 0.15 if not exact else 0.3
                rival = [i for i in head if i in others and i not in own and i < near[0]]
                yield self.build(
                    table, "COUNT(*)", filters, used | own, None, penalty=penalty + 0.5 * bool(rival) + named
                )
            elif own or headcount:
                people = set(self.split(table)) & PERSONAL
                yield self.build(
                    table, "COUNT(*)", filters, used | own, None, penalty=0.35 if headcount and people else 0.8
                )
            elif filters:
                yield self.build(table, "COUNT(*)", filters, used, None, penalty=0.9 + named)
        for i in head[:3]:
            for strength, where, name in self.reader.links(self.tokens[i]):
                if (
                    where == table
                    and name
                    and self.schema.columns[where][name].kind == "text"
                    and strength >= 2.4
                    and i not in own
                    and not self.only_filter_word(i, filters)
                ):
                    distinct = bool({"different", "distinct", "unique"} & set(self.tokens))
                    if not distinct and self.tokens[max(used) + 1].startswith("<e"):
                        # "how many oak stools have customers bought": the name is what is counted
                        continue
                    yield self.build(
                        table,
                        f"COUNT(DISTINCT {self.col(self.schema.columns[where][name])})",
                        filters,
                        used | {i},
                        None,
                        penalty=0.1 if distinct else 0.2 if i == head[0] else 0.4,
                    )
        yield from self.amounts(table, filters, used, head, numeric)

    def only_number_asked(self, head, table):
        """Whether the noun after "how many" counts pieces and not rows: "how many units of X"."""
        for i in head[:2]:
            if singular(self.tokens[i]) in AMOUNT_NOUNS and not any(
                t == table and c is None and s >= 2.4 for s, t, c in self.reader.links(self.tokens[i])
            ):
                return True
        return False

    def split(self, name):
        return [singular(w) for w in re.findall(r"[a-z]+", name.lower())]

    def amounts(self, table, filters, used, head, numeric):
        """Numbers that a column holds: stock of a product, pieces ordered."""
        words = set(self.tokens)
        pieces = {i for i in head[:3] if singular(self.tokens[i]) in AMOUNT_NOUNS}
        sold = {i for i, t in enumerate(self.tokens) if t in SOLD}
        quantities = [
            c
            for c in self.schema.columns[table].values()
            if c.kind == "number"
            and set(c.words) & {"quantity", "qty", "amount", "unit", "piece", "count", "number", "copy"}
        ]
        name = self.reader.name_column(table)
        # a customer of orders has several rows, the name of a product has one
        own_name = name is not None and name.words[-1] in ("name", "title", "label")
        single = own_name and any(f.name and f.table == table for f in filters)
        stocky = words & frozenset(
            str.split(
                "still stock inventory left available remain remaining hand warehouse shelf shelves store storage "
                "spare"
            )
        )
        if not sold:
            stocky = stocky | words & {"have", "got", "hold", "keep"}
        total = {i for form in (AGGREGATES["SUM"],) for m in form.finditer(self.text) for i in self.token_range(m)}
        for column in quantities:
            if sold and not stocky and (any(f.table != table for f in filters) or not single):
                said = {i for _, i, c in numeric if c is column}
                penalty = 0.1 if pieces or said - sold else 0.55
                yield self.build(
                    table,
                    f"SUM({self.col(column)})",
                    filters,
                    used | pieces | sold | said | total | self.table_tokens(table),
                    column,
                    penalty=penalty,
                )
        if stocky and single:
            for column in self.schema.columns[table].values():
                if column.kind == "number" and self.stocked(column):
                    yield self.build(
                        table,
                        self.value_sql(column),
                        filters,
                        used | pieces | self.table_tokens(table),
                        column,
                        penalty=0.2,
                    )
        for strength, i, column in numeric:
            # what a thing's own table counts, under whatever name, is asked for by "units left"
            if column in quantities and (sold and not stocky or any(f.table != table for f in filters)):
                continue
            near = i in head[:3]
            said = {j for _, j, c in numeric if c is column}
            if strength < 2 and not (pieces or stocky):
                continue
            plain = self.value_sql(column) if single else f"SUM({self.value_sql(column)})"
            yield self.build(
                table,
                plain,
                filters,
                used | pieces | said | (total if not single else set()) | self.table_tokens(table),
                column,
                penalty=(0.1 if near or pieces else 0.25) + 0.6 * bool(sold and not stocky and self.stocked(column)),
            )

    def aggregates(self, table, filters, aggregate):
        form = AGGREGATES[aggregate]
        said = {i for m in form.finditer(self.text) for i in self.token_range(m)}
        columns = self.linked(table, ("number",), 1.5)
        for strength, i, column in columns[:3]:
            if self.superlative(table):
                continue
            every = {j for _, j, c in columns if c is column}
            elsewhere = any(t in SOLD for t in self.tokens) and self.stocked(column)
            yield self.build(
                table,
                f"{aggregate}({self.value_sql(column)})",
                filters,
                said | every | {i} | self.table_tokens(table),
                column,
                penalty=(0.05 if strength >= 2 else 0.2) + 0.6 * elsewhere,
            )
        payroll = {i for i, t in enumerate(self.tokens) if t in ("payroll", "bill")}
        if not columns and payroll:
            pays = [
                c
                for c in self.schema.columns[table].values()
                if "salary" in c.words or "wage" in c.words or "pay" in c.words
            ]
            for column in pays[:1]:
                yield self.build(table, f"SUM({self.value_sql(column)})", filters, said | payroll, column, penalty=0.1)

    def revenue(self, table, filters):
        m = REVENUE_PHRASE.search(self.text)
        if not m:
            return
        said = {i for r in REVENUE_PHRASE.finditer(self.text) for i in self.token_range(r)}
        said |= {i for r in AGGREGATES["SUM"].finditer(self.text) for i in self.token_range(r)} | {
            i for i, t in enumerate(self.tokens) if t in CENTS or t in SOLD
        }
        quantities = [
            c
            for c in self.schema.columns[table].values()
            if c.kind == "number"
            and set(c.words)
            & frozenset(
                str.split("quantity qty unit units copies copy pieces amount night hour number ticket seat count")
            )
        ]
        for quantity in quantities:
            for other in self.schema.columns:
                if other != table and self.reader.path(table, [other]) is None:
                    continue
                prices = [
                    c
                    for c in self.schema.columns[other].values()
                    if c.kind == "number"
                    and c is not quantity
                    and ({stem(w) for w in c.words} & ({stem("price"), stem("rate")} | _CONCEPTS[stem("price")]))
                ]
                for price in prices[:1]:
                    product = f"{self.col(quantity)}*{self.col(price)}"
                    scaled = f"SUM({product})" if self.scale(price, None) == 1 else f"SUM({product})/100.0"
                    yield self.build(
                        table,
                        scaled,
                        filters,
                        said | self.table_tokens(table) | self.table_tokens(other),
                        price,
                        extra=(other,),
                        penalty=0.1,
                    )

    def lookups(self, table, filters):
        """A column of the row, or rows, that the filters leave."""
        if not filters:
            return
        wh = {
            "who": lambda c: c is self.reader.name_column(table),
            r"when|(?:what|which) (?:date|<t\d+>)|date": lambda c: c.kind == "date" or "year" in c.words,
            "where": lambda c: (
                bool({stem(w) for w in c.words} & ({stem("city")} | _CONCEPTS[stem("city")])) and c.kind == "text"
            ),
            "how much": lambda c: (
                c.kind == "number"
                and bool(
                    {stem(w) for w in c.words}
                    & ({stem("price"), stem("salary")} | _CONCEPTS[stem("price")] | _CONCEPTS[stem("salary")])
                )
            ),
        }
        single = any(f.name and f.table == table for f in filters)
        counted = COUNT.search(self.text) is not None
        stocky = bool({"stock", "left", "available", "inventory", "remaining"} & set(self.tokens))
        seen = set()
        for strength, i, column in self.linked(table):
            if column.kind == "id" or column.name in seen or self.only_filter_word(i, filters):
                continue
            if any(f.sql.startswith((self.col(column) + "=", f"substr({self.col(column)},1,10)=")) for f in filters):
                continue
            seen.add(column.name)
            said = {j for _, j, c in self.linked(table) if c is column}
            elsewhere = not stocky and any(t in SOLD for t in self.tokens) and self.stocked(column)
            penalty = (
                (0.0 if strength >= 2 else 0.15)
                + (0 if single else 0.4)
                + 0.6 * elsewhere
                + (0.6 if counted and column.kind != "number" else 0)
            )
            if column.kind == "date" and strength < 2 and not re.search(DATED, self.text):
                # "in what part is she employed" asks for no date
                penalty += 0.4
            for word, fits in wh.items():
                if re.search(rf"\b(?:{word})(?!\w)", self.text):
                    penalty += 0 if fits(column) else 0.35
            yield self.build(
                table, self.value_sql(column), filters, said | self.table_tokens(table), column, penalty=penalty
            )
        for word, fits in wh.items():
            m = re.search(rf"\b(?:{word})(?!\w)", self.text)
            if not m:
                continue
            fitting = [c for c in self.schema.columns[table].values() if fits(c) and c.name not in seen]
            for column in fitting[:2]:
                if not any(f.sql.startswith(self.col(column) + "=") for f in filters):
                    yield self.build(
                        table,
                        self.value_sql(column),
                        filters,
                        self.token_range(m) | self.table_tokens(table),
                        column,
                        penalty=0.3,
                    )
        name = self.reader.name_column(table)
        if (
            name
            and re.search(r"\b(?:which|list|name|names|show)\b", self.text)
            and not any(f.name and f.table == table for f in filters)
            and self.table_tokens(table)
            and not counted
        ):
            yield self.build(table, self.col(name), filters, self.table_tokens(table), name, penalty=0.2)

    @staticmethod
    def stocked(column) -> bool:
        """Whether a column counts what is there, and not what went out."""
        stems = {stem(w) for w in column.words}
        return stem("stock") in stems.union(*(_CONCEPTS.get(s, set()) for s in stems))

    def value_sql(self, column):
        """The column in whole units: cents are divided by 100 unless cents are asked for."""
        return f"{self.col(column)}/100.0" if set(column.words) & CENTS and not self.cents else self.col(column)

    # -- writing

    def build(self, table, select, filters, used, column, tail="", extra=(), penalty=0.0):
        needed = [*dict.fromkeys([*(f.table for f in filters), *extra, *re.findall(r"\b(\w+)\.", select + tail)])]
        needed = [t for t in needed if t in self.schema.columns and t != table]
        joins = self.reader.path(table, needed)
        if joins is None:
            return None
        source = identifier(table)
        have = {table}
        for a, b, c, d in joins:
            new = c if a in have else a
            source += f" JOIN {identifier(new)} ON {identifier(a)}.{identifier(b)}={identifier(c)}.{identifier(d)}"
            have.add(new)
        conditions = list(dict.fromkeys(f.sql for f in filters))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"SELECT {select} FROM {source}{where}{tail}"
        if not joins:
            sql = sql.replace(f"{identifier(table)}.", "")
        explained = set(used)
        for f in filters:
            explained |= set(f.tokens)
        # two names in one question are usually asked about one by one, unless they are alternatives
        cost = (
            penalty
            + 0.35 * len(joins)
            + 0.45 * (" IN (" in sql and " or " not in self.text)
            + self.unexplained(explained, have)
        )
        kind = "number" if column is None or column.kind in ("number", "id") else column.kind
        words = column.words if column is not None else ()
        money = (
            bool(words)
            and kind == "number"
            and bool(
                {stem(w) for w in words}
                & (
                    {
                        stem(w)
                        for w in (
                            "price",
                            "salary",
                            "budget",
                            "revenue",
                            "balance",
                            "rent",
                            "profit",
                            "payment",
                            "tax",
                        )
                    }
                    | _CONCEPTS[stem("price")]
                    | _CONCEPTS[stem("salary")]
                )
            )
        )
        unit = words[-1] if len(words) > 1 and words[-1] not in CENTS else ""
        return Select(sql, kind, cost, column, unit, money)

    def unexplained(self, explained, tables):
        """Words that no part of the SELECT accounts for; a number, date or name left over weighs three words."""
        total = 0.0
        for i, token in enumerate(self.tokens):
            if i in explained:
                continue
            if token.startswith("<"):
                total += {"c": 0.5, "u": 0.5, "t": 0.3}.get(token[1], 3.0)
            elif token in STOP or singular(token) in AMOUNT_NOUNS or not token[0].isalnum() or token in CENTS:
                continue
            elif any(t in tables and s >= 1.5 for s, t, _ in self.reader.links(token)):
                total += 0.15
            else:
                total += 0.8
        return total
