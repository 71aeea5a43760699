#!/usr/bin/env bash
# Installs the strangers' packages into a folder: `bash tests/strangers/setup.sh FOLDER [NAME ...]`, all of them without
# a name. Then `STRANGERS=FOLDER pytest tests/strangers` plays them. PYTHON chooses the interpreter, python3 by default.
set -euo pipefail
folder=$1
shift
[ $# -gt 0 ] || set -- openai_sdk openai_agents agent_connect pipecat_bot livekit_agents node openapi_client
mkdir -p "$folder"

venv() { # name, packages
  local bin=$folder/$1/bin
  shift
  "${PYTHON:-python3}" -m venv "${bin%/bin}"
  "$bin/pip" install --quiet --disable-pip-version-check "$@"
}

for name in "$@"; do
  echo "-- $name"
  case $name in
  openai_sdk) venv "$name" 'openai>=3,<4' websockets twilio starlette uvicorn python-multipart ;;
  openai_agents) venv "$name" openai-agents websockets starlette uvicorn ;;
  agent_connect) venv "$name" twilio-agent-connect openai websockets fastapi uvicorn python-multipart ;;
  pipecat_bot) venv "$name" 'pipecat-ai[openai,websocket]' fastapi uvicorn websockets ;;
  livekit_agents)
    venv "$name" livekit-agents livekit-plugins-openai starlette uvicorn websockets
    "$folder/$name/bin/python" -c 'import audioop' 2>/dev/null || "$folder/$name/bin/pip" install --quiet audioop-lts
    ;;
  openapi_client) venv "$name" 'openapi-python-client>=0.29,<1' ;;
  node)
    command -v npm >/dev/null || { echo "npm is not on this machine" >&2; exit 1; }
    mkdir -p "$folder/node"
    (cd "$folder/node" && npm install --silent --no-audit --no-fund ws twilio fastify @fastify/formbody @fastify/websocket \
      openai @openai/agents @openai/agents-extensions)
    ;;
  *)
    echo "no stranger is called $name" >&2
    exit 2
    ;;
  esac
done
