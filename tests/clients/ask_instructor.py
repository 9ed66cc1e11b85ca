"""instructor against the address given: prints what it made of the answers as one JSON object."""

import json
import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # else the schema is open, and a small model adds to it without end

    mood: Literal["good", "bad"]
    stars: Literal[1, 2]


class AnyObject(BaseModel):
    model_config = ConfigDict(extra="allow")


client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
tools = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
strict = instructor.from_openai(client, mode=instructor.Mode.TOOLS_STRICT)
schema = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
json_mode = instructor.from_openai(client, mode=instructor.Mode.JSON)

asked = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Judge this."}],
    "max_tokens": 120,
    "temperature": 0,
    "max_retries": 1,
}
verdict, completion = tools.create_with_completion(response_model=Verdict, **asked)

print(
    json.dumps(
        {
            "tools": verdict.model_dump(),
            "usage": completion.usage.model_dump(),
            "tools_strict": strict.create(response_model=Verdict, **asked).model_dump(),
            "schema": schema.create(response_model=Verdict, **asked).model_dump(),
            "json": json_mode.create(response_model=AnyObject, **asked).model_dump(),
            "partial": [part.model_dump() for part in tools.create_partial(response_model=Verdict, **asked)],
            "partial_schema": [part.model_dump() for part in schema.create_partial(response_model=Verdict, **asked)],
        }
    )
)
