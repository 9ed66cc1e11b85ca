#!/bin/sh
# One answer, one stream and the list of models with curl.
set -e

curl --silent --show-error --fail http://localhost:8000/v1/chat/completions \
  -H 'Content-Type: application/json' \
  -H 'Authorization: Bearer none' \
  -d '{
    "model": "mistral-7b",
    "messages": [{"role": "user", "content": "What is a truss bridge?"}],
    "max_tokens": 32
  }'
echo

curl --silent --show-error --fail --no-buffer http://localhost:8000/v1/chat/completions \
  -H 'Content-Type: application/json' \
  -H 'Authorization: Bearer none' \
  -d '{
    "model": "mistral-7b",
    "messages": [{"role": "user", "content": "What is a truss bridge?"}],
    "max_tokens": 16,
    "stream": true,
    "stream_options": {"include_usage": true}
  }'

curl --silent --show-error --fail http://localhost:8000/v1/models
