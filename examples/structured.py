"""An answer that is held to a schema while it is generated, as an object of a class."""

from typing import Literal

from openai import OpenAI
from pydantic import BaseModel


class Verdict(BaseModel):
    mood: Literal["good", "bad", "mixed"]
    stars: Literal[1, 2, 3, 4, 5]


client = OpenAI(api_key="none", base_url="http://localhost:8000/v1")

completion = client.chat.completions.parse(
    model="mistral-7b",
    messages=[{"role": "user", "content": "Judge this review: 'A wonderful bridge, I would cross it again.'"}],
    response_format=Verdict,
    temperature=0,
    max_tokens=128,
)
print(completion.choices[0].message.parsed)
