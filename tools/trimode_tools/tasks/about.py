"""Fixed answers about trimode itself, each asked for in several ways."""

from random import Random

from trimode_tools.tasks.sample import Sample

_ANSWERS = (
    (
        ("what is trimode?", "tell me about trimode", "explain trimode"),
        "Trimode serves one language model in three modes. It picks the fastest mode for the load of the moment, "
        "so that one user gets quick answers and many users share the machine well.",
    ),
    (
        ("which modes are there?", "list the modes", "name the three modes"),
        "There are three modes: autoregressive decoding, self-speculation and block diffusion. "
        "All three use the same weights and the same cache.",
    ),
    (
        ("what is self-speculation?", "explain self-speculation", "how does self-speculation work?"),
        "In self-speculation the model drafts a whole block at once and then checks it in one pass. "
        "It keeps the part that is right, so the answer stays the same and comes sooner.",
    ),
    (
        ("what is block diffusion?", "explain diffusion", "how does diffusion work?"),
        "In block diffusion the model starts from a block of masks and fills in the tokens it is sure of, "
        "step by step, until no mask is left.",
    ),
    (
        ("what is autoregressive decoding?", "explain the ar mode", "how does autoregressive decoding work?"),
        "In autoregressive decoding the model writes one token after another. "
        "It does the least work for each token, so it is best when many users share the machine.",
    ),
    (
        ("who are you?", "what are you?", "introduce yourself"),
        "I am the tiny model of trimode. I was trained on small text tasks only, "
        "so please do not expect me to know the world.",
    ),
    (
        ("what can you do?", "help", "which tasks do you know?"),
        "I can write records as json, csv or pairs, write letters, find facts, repeat and reverse words, "
        "sort numbers and add them step by step.",
    ),
)  # fmt: skip
_BEFORE = ("", "please: ", "hello, ", "quick question: ", "one thing: ", "hi! ", "dear model, ", "now ")
_AFTER = ("", " thanks", " please", " thank you", " (short)", " be brief")


def about(rng: Random) -> Sample:
    questions, answer = rng.choice(_ANSWERS)
    return Sample("about", rng.choice(_BEFORE) + rng.choice(questions) + rng.choice(_AFTER), answer)
