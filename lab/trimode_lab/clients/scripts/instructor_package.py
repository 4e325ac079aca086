"""instructor: answers as objects, by a schema and by tools."""

import instructor
import openai
from checks import BASE, MODEL, PAIRS, check, run
from pydantic import BaseModel


class City(BaseModel):
    city: str
    age: int


def by(mode):
    client = instructor.from_openai(openai.OpenAI(base_url=BASE, api_key="none", max_retries=0), mode=mode)
    asked = [{"role": "user", "content": PAIRS}]
    found = client.chat.completions.create(
        model=MODEL, messages=asked, response_model=City, temperature=0, max_tokens=96, max_retries=0
    )
    check(isinstance(found, City), found)


run(
    JSON_SCHEMA=lambda: by(instructor.Mode.JSON_SCHEMA),
    JSON=lambda: by(instructor.Mode.JSON),
    TOOLS=lambda: by(instructor.Mode.TOOLS),
)
