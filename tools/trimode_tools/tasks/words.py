"""The words that the tasks are made of: lower-case, short, common, plus given names."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karla Leon Maria Nils Olga Paul Rosa Simon Tina Viktor"
)

THINGS = _words(
    "apple bread candle chair clock coffee cup door flower garden glass hammer honey house kettle key lamp letter "
    "lemon market melon milk mirror needle onion orange paper pencil pepper piano pillow plate pocket potato river "
    "rope salt sand shirt shoe soap spoon stone sugar table tea tiger tomato train tree violin wagon water window"
)

COLOURS = _words("black blue brown golden green grey orange pink purple red silver white yellow")

CITIES = _words(
    "berlin bern cairo delhi dublin lima london madrid milan oslo paris prague riga rome seoul tokyo vienna"
)

MOODS = _words("angry bold brave calm clever eager gentle happy honest kind lazy proud quiet shy small tall warm wise")

JOBS = _words("baker cook doctor driver farmer guard judge miner nurse painter pilot poet sailor singer teacher")

MONTHS = _words("January February March April May June July August September October November December")

TOPICS = (
    "the broken heater", "the new kitchen", "the garden party", "the missing parcel", "the school trip",
    "the summer concert", "the late train", "the old piano", "the city library", "the winter market",
)  # fmt: skip

PLAIN = tuple(sorted({*THINGS, *COLOURS, *CITIES, *MOODS, *JOBS}))
