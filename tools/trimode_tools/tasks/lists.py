"""Short lists of words or numbers: repeat, reverse, sort; and finding one fact in a sentence."""

from random import Random

from trimode_tools.tasks.sample import Sample
from trimode_tools.tasks.words import CITIES, COLOURS, JOBS, NAMES, PLAIN, THINGS

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


def repeat(rng: Random) -> Sample:
    phrase = " ".join(rng.sample(PLAIN, rng.randint(1, 3)))
    times = rng.randint(2, 5)
    return Sample("repeat", f"repeat {_COUNTS[times]} times: {phrase}", "\n".join([phrase] * times))


def reverse(rng: Random) -> Sample:
    words = rng.sample(PLAIN, rng.randint(2, 5))
    return Sample("reverse", f"reverse the order: {' '.join(words)}", " ".join(reversed(words)))


def sort_numbers(rng: Random) -> Sample:
    numbers = rng.sample(range(10, 100), rng.randint(3, 5))
    listed = " ".join(str(n) for n in numbers)
    return Sample("sort_numbers", f"sort: {listed}", " ".join(str(n) for n in sorted(numbers)))


def extract(rng: Random) -> Sample:
    """A sentence with five facts, and a question for one of them."""
    name = rng.choice(NAMES)
    facts = {
        "city": rng.choice(CITIES),
        "job": rng.choice(JOBS),
        "colour": rng.choice(COLOURS),
        "thing": rng.choice(THINGS),
    }
    asked = rng.choice([*sorted(facts), "name"])
    told = "{name} is a {job} from {city} who bought a {colour} {thing}".format(name=name, **facts)
    answer = name if asked == "name" else facts[asked]
    return Sample("extract", f"find the {asked}: {told}", f"The {asked} is {answer}.")
