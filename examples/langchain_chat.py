"""LangChain, plain and streamed: pip install langchain-openai"""

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

model = ChatOpenAI(
    model="mistral-7b", base_url="http://localhost:8000/v1", api_key=SecretStr("none"), max_completion_tokens=32
)

print(model.invoke("What is a truss bridge?").content)
for chunk in model.stream("Name three famous bridges."):
    print(chunk.content, end="", flush=True)
print()
