# The image of an agent. In this repository, name one of the examples:
#     docker build -t agents . && docker run --env-file .env -p 8000:8000 agents phoneagent serve examples/receptionist.py
# For your own agent, copy this file and .dockerignore beside your main.py and requirements.txt:
#     docker build -t my-agent . && docker run --env-file .env -p 8000:8000 my-agent
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PORT=8000 \
    DATABASE_URL=sqlite:////data/phoneagent.db

RUN useradd --uid 10001 --create-home agent && install --directory --owner=agent /data

WORKDIR /app
COPY . .
RUN pip install -r requirements.txt

USER 10001
VOLUME /data
EXPOSE 8000
# Not through a proxy, whatever the environment says.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
# Process 1 is phoneagent itself, so that SIGTERM reaches it. `docker stop` waits 10 s: give it DRAIN_SECONDS and 5 s more.
CMD ["phoneagent", "serve"]
