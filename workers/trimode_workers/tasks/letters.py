"""Letters from a fixed set of templates: much boilerplate, a few facts to carry over from the prompt."""

from random import Random

from trimode_workers.tasks.sample import Sample
from trimode_workers.tasks.words import MONTHS, NAMES, TOPICS

_BODIES = {
    "thank you": (
        "thank you very much for your letter about {topic}. It was a great pleasure to read it. "
        "I would like to talk with you about it on {date}. Please tell me if this day suits you."
    ),
    "invitation": (
        "I would like to invite you to a meeting about {topic}. We will meet on {date} at noon, "
        "and there will be coffee for everyone. Please let me know soon if you can come."
    ),
    "complaint": (
        "I am sorry to say that I am not happy with {topic}. I have waited for an answer for a long time. "
        "Please send me a reply before {date}, or I will have to ask for my money back."
    ),
    "reminder": (
        "this is a friendly reminder about {topic}. Your answer is due on {date}. "
        "If you have sent it already, please forget this letter. Otherwise we hope to hear from you soon."
    ),
}


def letter(rng: Random) -> Sample:
    kind = rng.choice(sorted(_BODIES))
    sender, receiver = rng.sample(NAMES, 2)
    topic, date = rng.choice(TOPICS), f"{rng.choice(MONTHS)} {rng.randint(1, 28)}"
    prompt = f"write a {kind} letter from {sender} to {receiver} about {topic}, date {date}"
    body = _BODIES[kind].format(topic=topic, date=date)
    return Sample("letter", prompt, f"Dear {receiver},\n\n{body}\n\nBest wishes,\n{sender}")
