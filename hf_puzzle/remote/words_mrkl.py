"""Word lists of MRKL (arXiv 2205.00445): numbers, calendar, currencies, units, and regular English plurals.

The one place of each list: the slot finder, the lexicon of the grammar and the experts read them here.
"""

import re


def _numbered(words: str, first: int = 0) -> dict[str, int]:
    return {word: value for value, word in enumerate(words.split(), first)}


ONES = _numbered(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = {w: 10 * n for w, n in _numbered("twenty thirty forty fifty sixty seventy eighty ninety", 2).items()}
TENS["fourty"] = 40
SCALES = {w: 1000**n for w, n in _numbered("thousand million billion trillion quadrillion quintillion", 1).items()}
GROUPS = {"dozen": 12, "gross": 144, "score": 20, "pair": 2}
PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
ORDINALS = _numbered(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth "
    "twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first",
    1,
)
MONTHS = _numbered("january february march april may june july august september october november december", 1)
MONTH_NAMES = tuple(name.capitalize() for name in MONTHS)
MONTH_FORMS = MONTHS | {name[:3]: value for name, value in MONTHS.items()} | {"sept": 9}
WEEKDAYS = _numbered("monday tuesday wednesday thursday friday saturday sunday")
HOLIDAYS = {
    "christmas eve": (12, 24), "christmas day": (12, 25), "christmas": (12, 25), "boxing day": (12, 26),
    "new year's eve": (12, 31), "new year's day": (1, 1), "new years day": (1, 1), "halloween": (10, 31),
    "valentine's day": (2, 14), "valentines day": (2, 14),
}  # fmt: skip
# names that stand for one currency, and names that several share with the one meant when only the noun is said
CURRENCY_NAMES = {
    "AUD": "australian dollar|aussie dollar|aud$", "BGN": "bulgarian lev|bulgarian leva|lev|leva",
    "BRL": "brazilian real|brazilian reais|reais", "CAD": "canadian dollar|loonie", "CHF": "swiss franc|franc|sfr",
    "CNY": "chinese yuan|yuan|renminbi|rmb", "CZK": "czech koruna|czech crown|koruna|koruny",
    "DKK": "danish krone|danish kroner|danish crown", "EUR": "euro|european euro",
    "GBP": "british pound|pound sterling|pounds sterling|sterling|uk pound|english pound|quid|british pounds sterling",
    "HKD": "hong kong dollar", "HUF": "hungarian forint|forint", "IDR": "indonesian rupiah|rupiah",
    "ILS": "israeli shekel|shekel|new shekel", "INR": "indian rupee|rupee", "ISK": "icelandic krona|icelandic kronur",
    "JPY": "japanese yen|yen", "KRW": "south korean won|korean won|won", "MXN": "mexican peso",
    "MYR": "malaysian ringgit|ringgit", "NOK": "norwegian krone|norwegian kroner|norwegian crown",
    "NZD": "new zealand dollar|kiwi dollar", "PHP": "philippine peso", "PLN": "polish zloty|zloty|zlotys|zlotych|polish zlotys",
    "RON": "romanian leu|romanian lei", "RUB": "russian rouble|russian ruble|rouble|ruble",
    "SEK": "swedish krona|swedish kronor|swedish crown|krona|kronor", "SGD": "singapore dollar",
    "THB": "thai baht|baht", "TRY": "turkish lira|lira", "USD": "us dollar|american dollar|united states dollar|dollar|greenback|buck|u.s. dollar",
    "ZAR": "south african rand|rand",
}  # fmt: skip
SHARED_CURRENCIES = {
    "dollar": ("USD", "CAD", "AUD", "NZD", "HKD", "SGD"), "krone": ("NOK", "DKK"), "kroner": ("NOK", "DKK"),
    "crown": ("SEK", "NOK", "DKK", "CZK"), "peso": ("MXN", "PHP"), "rupee": ("INR",), "real": (), "won": ("KRW",),
}  # fmt: skip
CURRENCY_SIGNS = {
    "US$": "USD", "A$": "AUD", "AU$": "AUD", "C$": "CAD", "CA$": "CAD", "NZ$": "NZD", "HK$": "HKD", "S$": "SGD",
    "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR", "zł": "PLN", "₩": "KRW", "₺": "TRY", "₽": "RUB", "฿": "THB",
}  # fmt: skip

# name: (dimension, size in the dimension's base, other names); bases: metre, kilogram, second, litre, metre per
# second, square metre, joule, watt, pascal; international foot and pound, US liquid gallon, thermochemical calorie
UNITS = {
    "meter": ("len", "1", "m"),
    "kilometer": ("len", "1000", "km|klick|kms"),
    "decimeter": ("len", "0.1", "dm"),
    "centimeter": ("len", "0.01", "cm"),
    "millimeter": ("len", "0.001", "mm"),
    "micrometer": ("len", "0.000001", "µm|um|micron"),
    "nanometer": ("len", "0.000000001", "nm"),
    "mile": ("len", "1609.344", "mi|statute mile"),
    "nautical_mile": ("len", "1852", "nmi|sea mile"),
    "furlong": ("len", "201.168", ""),
    "chain": ("len", "20.1168", ""),
    "fathom": ("len", "1.8288", ""),
    "yard": ("len", "0.9144", "yd|yds"),
    "foot": ("len", "0.3048", "ft"),
    "inch": ("len", "0.0254", 'in|"'),
    "kilogram": ("mass", "1", "kg|kilo|kilogramme|kgs"),
    "gram": ("mass", "0.001", "g|gramme|gms"),
    "milligram": ("mass", "0.000001", "mg|milligramme"),
    "tonne": ("mass", "1000", "metric ton|t|metric tonne"),
    "short_ton": ("mass", "907.18474", "us ton"),
    "long_ton": ("mass", "1016.0469088", "imperial ton"),
    "stone": ("mass", "6.35029318", "st"),
    "pound": ("mass", "0.45359237", "lb|lbs|pound of mass|pound mass|pound weight|pound in weight"),
    "ounce": ("mass", "0.028349523125", "oz|ounce of weight|weight ounce"),
    "second": ("time", "1", "s|sec|secs"),
    "millisecond": ("time", "0.001", "ms"),
    "minute": ("time", "60", "min|mins"),
    "hour": ("time", "3600", "h|hr|hrs"),
    "day": ("time", "86400", "d|days of 24 hours"),
    "week": ("time", "604800", "wk"),
    "liter": ("vol", "1", "l|cubic decimeter|ltr"),
    "milliliter": ("vol", "0.001", "ml|cubic centimeter|cc|mls"),
    "centiliter": ("vol", "0.01", "cl"),
    "deciliter": ("vol", "0.1", "dl"),
    "cubic_meter": ("vol", "1000", "m3|m³|m^3"),
    "gallon": ("vol", "3.785411784", "gal|us gallon|american gallon|u.s. gallon"),
    "imperial_gallon": ("vol", "4.54609", "uk gallon"),
    "quart": ("vol", "0.946352946", "qt|us quart"),
    "pint": ("vol", "0.473176473", "us pint|pt"),
    "imperial_pint": ("vol", "0.56826125", "uk pint"),
    "fluid_ounce": ("vol", "0.0295735295625", "fl oz|us fluid ounce|floz"),
    "cup": ("vol", "0.2365882365", "us cup"),
    "tablespoon": ("vol", "0.01478676478125", "tbsp|us tablespoon"),
    "teaspoon": ("vol", "0.00492892159375", "tsp|us teaspoon"),
    "meter_per_second": ("speed", "1", "m/s|mps|meter a second|metres each second"),
    "kilometer_per_hour": ("speed", "5/18", "km/h|kph|kmh|kmph|kilometer an hour|km per hour|km an hour"),
    "mile_per_hour": ("speed", "0.44704", "mph|mi/h|mile an hour"),
    "foot_per_second": ("speed", "0.3048", "ft/s|fps|feet a second"),
    "knot": ("speed", "463/900", "kn|kt|nautical mile per hour"),
    "square_meter": ("area", "1", "m2|m²|m^2|sq m|sqm"),
    "square_kilometer": ("area", "1000000", "km2|km²|km^2|sq km"),
    "square_centimeter": ("area", "0.0001", "cm2|cm²|cm^2|sq cm"),
    "square_foot": ("area", "0.09290304", "ft2|ft²|ft^2|sq ft"),
    "square_inch": ("area", "0.00064516", "in2|in²|in^2|sq in"),
    "square_yard": ("area", "0.83612736", "yd2|yd²|yd^2|sq yd"),
    "square_mile": ("area", "2589988.110336", "mi2|mi²|mi^2|sq mi"),
    "hectare": ("area", "10000", "ha"),
    "acre": ("area", "4046.8564224", "international acre"),
    "survey_acre": ("area", "62726400000/15499969", "us survey acre"),
    "joule": ("energy", "1", "j"),
    "kilojoule": ("energy", "1000", "kj"),
    "calorie": ("energy", "4.184", "cal"),
    "kilocalorie": ("energy", "4184", "kcal"),
    "watt_hour": ("energy", "3600", "wh"),
    "kilowatt_hour": ("energy", "3600000", "kwh"),
    "watt": ("power", "1", "w"),
    "kilowatt": ("power", "1000", "kw"),
    "pascal": ("pressure", "1", "pa"),
    "hectopascal": ("pressure", "100", "hpa|millibar|mbar"),
    "kilopascal": ("pressure", "1000", "kpa"),
    "bar": ("pressure", "100000", ""),
    "standard_atmosphere": ("pressure", "101325", "atm"),
    "degC": ("temp", None, "celsius|°c|c|degree celsius|degree c|centigrade|degrees celsius|deg c|degrees c|degree centigrade|degrees centigrade|celsius degrees"),
    "degF": ("temp", None, "fahrenheit|°f|f|degree fahrenheit|degree f|degrees fahrenheit|deg f|degrees f|fahrenheit degrees"),
    "kelvin": ("temp", None, "k|degree kelvin"),
    "degR": ("temp", None, "rankine|°r|degree rankine"),
}  # fmt: skip
# names of units that only a user's table has
MORE_NAMES = {
    "ton": "short ton", "barrel": "bbl", "horsepower": "hp", "atmosphere": "atm", "kilobyte": "kb", "megabyte": "mb",
    "gigabyte": "gb", "terabyte": "tb",
}  # fmt: skip
# spellings of several units, or of another one than their own
SEVERAL_UNITS = {
    "ton": "tonne, short_ton, long_ton", "degree": "degC, degF", "°": "degC, degF", "mil": "mile, inch",
    "ounce": "fluid_ounce", "oz": "fluid_ounce", "'": "foot", '"': "inch",
}  # fmt: skip
# spellings that are also everyday words or letters: units only beside a number or at the end of a conversion
SHY_UNITS = {
    "m", "in", "mi", "g", "t", "st", "l", "s", "h", "d", "c", "f", "k", "kt", "kn", "j", "w", "pa", "hp", "cal", "pt",
    "cup", "cups", "bar", "bars", "ha", "min", "sec", "ms", "mb", "gb", "stone", "stones", "second", "seconds", "minute",
    "minutes", "league", "leagues", "bit", "bits", "yard", "yards", "ton", "tons", "tonne", "tonnes", "score", "knot", "knots",
    "carat", "carats", "barrel", "barrels", "byte", "bytes", "hour", "hours", "foot", "feet", "mile", "miles", "cl", "dl", "dm", "nm",
    "kilo", "kilos", "pound", "pounds", "ounce", "ounces", "pint", "pints", "degree c", "degree f",
}  # fmt: skip
# after these, "minus" is a sign and not the operator
BEFORE_SIGN = frozenset(
    str.split(
        "plus minus times by and of from is are to add subtract multiply divide sum than what with between over equals or value"
    )
)
# beside these, "one" is the number and not the pronoun or the article
BESIDE_ONE = frozenset(
    str.split(
        "plus minus times divided multiplied add subtract multiply divide percent by from and squared over sum between"
    )
)
# "best paid" is a superlative, whatever values a column has
GRADES = {"best", "worst", "highest", "lowest", "top", "least", "most", "well", "better", "first", "last"}
STOP_ENTITIES = {"a", "an", "the", "of", "in", "on", "at", "to", "is", "no", "yes", "all", "and", "or", "one", "may"}
IRREGULAR = {
    "people": "person", "children": "child", "men": "man", "women": "woman", "mice": "mouse", "geese": "goose", "loaves": "loaf",
    "leaves": "leaf", "shelves": "shelf", "wolves": "wolf", "calves": "calf", "knives": "knife", "movies": "movie", "cookies": "cookie",
}  # fmt: skip
WORD = re.compile(r"[^\W_]+")


def plural(word: str) -> str:
    """Regular English plural of the last word of `word`."""
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"


def singular(word: str) -> str:
    """English singular, regular but for a few words; words that are no plurals come back unchanged."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(?:ss|x|z|ch|sh)es$", word):
        return word[:-2]
    if word.endswith(("ss", "us", "is")) or len(word) < 4:
        return word
    return word.removesuffix("s")


def stem(word: str) -> str:
    """`word` without a common English ending; equal for most forms of one word."""
    for ending, least in (("ings", 4), ("ing", 4), ("ies", 3), ("ed", 4), ("es", 4), ("s", 4), ("e", 4)):
        if word.endswith(ending) and len(word) - len(ending) >= least - 1:
            word = word[: -len(ending)]
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "ls":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 4 else word


# -- the grammar's closed lists

# words without which a question asks the same
DELETED = frozenset(
    str.split(
        "the please kindly pls exactly precisely just actually currently still already presently hey ok okay um uh"
    )
)
CALENDAR_UNITS = {
    "day": "day", "days": "day", "week": "week", "weeks": "week", "fortnight": "fortnight", "fortnights": "fortnight",
    "month": "month", "months": "month", "quarter": "quarter", "quarters": "quarter", "year": "year", "years": "year",
    "decade": "decade", "decades": "decade", "century": "century", "centuries": "century",
}  # fmt: skip
WEEKDAY_FORMS = WEEKDAYS | {
    form: number
    for number, forms in enumerate(("mon", "tue tues", "wed", "thu thur thurs", "fri", "sat", ""))
    for form in forms.split()
}
WEEKDAY_FORMS |= {plural(name): number for name, number in WEEKDAYS.items()}
SPELLING = {
    "mny": "many", "puls": "plus", "teh": "the", "wat": "what", "hwo": "how", "devided": "divided",
    "mutiplied": "multiplied", "inchs": "inches", "foots": "feet", "wich": "which", "whcih": "which",
}  # fmt: skip
FUNCTION_WORDS = frozenset(
    str.split(
        "a an the and or not no nor but of in on at to from by for with without within into as than that which who whom "
        "whose what when where why how is are was were be been being am do does did done has have had will would can "
        "could should shall may might must it its this these those there here i you he she we they me my your his her "
        "our their us him them if then else so because while before after between until till since about over under "
        "above below per each every any all some most more less least fewer fewest many much few several other another "
        "both either neither same such only also too very yes please left 's outside except excluding temperature"
    )
)

# -- what English says of kinds of columns: `of` are words of a column's name

COLUMN_WORDS = (
    {"of": ("salary", "wage", "pay", "income", "earning", "compensation", "rate"), "nouns": ("salary", "pay", "wage", "income", "earnings"),
     "verbs": ("earn", "earns", "earned", "earning", "make", "makes", "making", "get paid", "is paid", "are paid", "gets paid", "paid", "be paid"),
     "high": ("well paid", "high paid", "good earning", "high earning"), "low": ("badly paid", "low paid", "low earning")},
    {"of": ("price", "cost", "fee", "fare", "rent"), "nouns": ("price", "cost"), "verbs": ("cost", "costs", "costing", "priced at", "priced", "is priced at", "are priced at", "sell for", "sells for", "is sold for"),
     "high": ("expensive", "costly", "pricey"), "low": ("cheap", "affordable", "inexpensive")},
    {"of": ("fee", "rent", "fare"), "verbs": ("pay", "pays")},
    {"of": ("page", "length", "duration", "distance", "runtime", "minute"), "nouns": ("length",), "verbs": ("last", "lasts", "lasted"), "high": ("long",), "low": ("short",)},
    {"of": ("height", "elevation", "altitude"), "nouns": ("height",), "high": ("tall", "high"), "low": ("short", "low")},
    {"of": ("weight", "mass"), "nouns": ("weight",), "verbs": ("weigh", "weighs", "weighing"), "high": ("heavy",), "low": ("light",)},
    {"of": ("size", "area", "population", "capacity", "surface"), "nouns": ("size",), "high": ("big", "large"), "low": ("small",)},
    {"of": ("hectare", "acre", "sqm", "sqft"), "nouns": ("size", "area"), "high": ("big", "large"), "low": ("small",)},
    {"of": ("tonne", "ton"), "nouns": ("weight",), "high": ("big", "large", "heavy"), "low": ("small", "light")},
    {"of": ("delay",), "nouns": ("delay",), "states": ("delayed", "late"), "high": ("long",), "low": ("short",)},
    {"of": ("crop", "plant"), "kinds": ("text",), "verbs": ("grow", "grows", "grew", "are planted with", "is planted with", "were planted with")},
    {"of": ("specialty", "speciality", "specialism", "discipline"), "kinds": ("text",), "nouns": ("specialty", "speciality"), "verbs": ("teach", "teaches", "specialise in", "specialize in", "specialises in", "specializes in")},
    {"of": ("language",), "kinds": ("text",), "verbs": ("speak", "speaks", "spoke")},
    {"of": ("role", "job", "position", "occupation", "profession"), "kinds": ("text",), "nouns": ("role", "job", "position"), "verbs": ("work as", "works as", "worked as", "are employed as")},
    {"of": ("origin", "departure", "source"), "kinds": ("text",), "verbs": ("leave", "left", "leaves", "leave from", "leaves from", "left from", "go from", "fly from", "flew from", "depart from", "departed from", "departs from", "start from", "started from", "start in", "started in", "take off from", "took off from", "set off from")},
    {"of": ("destination", "arrival", "target"), "kinds": ("text",), "verbs": ("land in", "landed in", "land at", "landed at", "arrive in", "arrived in", "arrive at", "arrived at", "go to", "went to", "goes to", "fly to", "flew to", "flies to", "end in", "ended in")},
    {"of": ("depth",), "nouns": ("depth",), "high": ("deep",), "low": ("shallow",)},
    {"of": ("speed",), "nouns": ("speed",), "high": ("fast",), "low": ("slow",)},
    {"of": ("age",), "nouns": ("age",), "high": ("old",), "low": ("young",)},
    {"of": ("birth", "born", "birthday", "birthdate", "dob"), "kinds": ("date", "number"), "nouns": ("birth date", "birthday", "date of birth"), "high": ("old",), "low": ("young",), "turned": True},
    {"of": ("published", "released", "release", "publication", "built", "opened", "founded", "created", "date", "year"), "kinds": ("date", "number"), "high": ("new", "recent", "late"), "low": ("early",)},
    {"of": ("published", "released", "release", "publication", "built", "opened", "founded", "created", "date"), "kinds": ("date", "number"), "high": (), "low": ("old",)},
    {"of": ("hired", "hire", "joined", "start", "started", "employed", "recruited", "appointed", "enlisted"), "kinds": ("date",), "nouns": ("hire date", "hiring date", "start date", "date of hire", "joining date"), "high": ("new", "recent"), "low": ()},
    {"of": ("rating", "score", "grade", "point", "mark"), "nouns": ("rating", "score"), "high": ("good", "high rated"), "low": ("bad", "low rated")},
    {"of": ("stock", "inventory", "available", "copy"), "nouns": ("stock", "inventory")},
    {"of": ("quantity", "amount", "count"), "nouns": ("quantity", "amount", "unit")},
    {"of": ("city", "town"), "kinds": ("text",), "nouns": ("city", "town")},
    {"of": ("department", "team", "division", "unit"), "kinds": ("text",), "nouns": ("department",)},
    {"of": ("category", "kind", "type", "genre"), "kinds": ("text",), "nouns": ("category", "kind", "type")},
    {"of": ("status", "state"), "kinds": ("text",), "nouns": ("status", "state")},
)  # fmt: skip
# verbs of one line say the same of a date; the first line fits whatever a table records
DATE_VERBS = (
    "placed|made|ordered|created|submitted|received|recorded|registered|logged|entered",
    "hired|hire|joined|join|started|start|employed|recruited|appointed|enlisted|enlist|engaged|taken on",
    "born|birth|birthday",
    "published|released|publication|release",
    "founded|established|opened|built|constructed",
    "loaned|loan|borrowed|lent",
    "returned|return",
    "shipped|ship|dispatched",
    "admitted|admission",
    "visited|visit",
    "signup|signed up|sign up|enrolled|enrol|subscribed",
    "sold|sale",
)
TABLE_WORDS = (
    ("employee", "worker", "staff", "colleague", "person", "staff member", "personnel"),
    ("customer", "client", "buyer", "person"),
    ("student", "pupil", "person"), ("patient", "person"), ("teacher", "person"), ("author", "writer", "person"),
    ("member", "person"), ("user", "person"), ("player", "person"), ("guest", "person"), ("driver", "person"),
    ("doctor", "physician", "person"), ("product", "item", "article"), ("order", "purchase"), ("book",), ("film", "movie"),
)  # fmt: skip
# what is done with the rows of a table, by the noun they are called
ACTS = {
    "flight": "fly|flew|flown", "sale": "sell|sold", "loan": "borrow|borrowed|loaned|lent|take out|took out|taken out", "booking": "book|booked",
    "payment": "pay|paid", "delivery": "deliver|delivered", "shipment": "ship|shipped", "purchase": "buy|bought|purchase|purchased",
    "harvest": "harvest|harvested|bring in|brought in|gather|gathered|collect|collected", "treatment": "treat|treated",
    "game": "play|played", "match": "play|played", "review": "review|reviewed|write|wrote|written", "rental": "rent|rented",
    "enrollment": "enroll|enrolled|take|took|taken", "enrolment": "enrol|enrolled|take|took|taken", "lesson": "teach|taught|give|gave|given",
    "repair": "repair|repaired|fix|fixed", "race": "run|ran|raced", "trip": "make|made|take|took|taken", "order": "order|ordered|buy|bought",
    "donation": "donate|donated|give|gave|given", "reservation": "reserve|reserved|book|booked", "subscription": "subscribe to|subscribed to",
    "visit": "visit|visited|make|made|pay|paid", "appointment": "make|made", "exam": "take|took|taken", "performance": "perform|performed|give|gave",
    "concert": "play|played|give|gave", "inspection": "inspect|inspected|make|made|do|did", "survey": "survey|surveyed", "catch": "catch|caught",
    "sighting": "see|saw|seen|sight|sighted", "transaction": "make|made", "ride": "ride|rode|ridden|take|took", "adoption": "adopt|adopted",
}  # fmt: skip
# what the rows of a table do, of which others are the work
MAKERS = {
    "author": "wrote", "writer": "wrote", "poet": "wrote", "composer": "composed|wrote", "artist": "made|painted|created|drew|sculpted",
    "painter": "painted|made|created", "sculptor": "sculpted|made|created", "director": "directed|made", "designer": "designed",
    "architect": "designed", "inventor": "invented", "developer": "developed|made", "builder": "built", "manufacturer": "made|built",
}  # fmt: skip
# words of columns that say where something comes from and goes to, what somebody is, and what a number is per
ORIGINS = frozenset(str.split("origin departure source from start sender"))
DESTINATIONS = frozenset(str.split("destination arrival target to end recipient"))
ROLES = frozenset(
    str.split("role job position occupation profession title species breed instrument rank type kind category")
)
PERIODIC = {
    "hourly": "hour", "hour": "hour", "daily": "day", "weekly": "week", "monthly": "month", "yearly": "year",
    "annual": "year",
}  # fmt: skip
# what everybody has words for: that it is one of this data's has to be said
GENERAL = frozenset(
    str.split("wage income age height weight speed temperature population rainfall people country city state language")
)
NAME_COLUMNS = ("name", "title", "label", "fullname", "username")
