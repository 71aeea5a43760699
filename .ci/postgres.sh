# A private PostgreSQL for the tests: loopback only, its own data folder, port chosen by the machine; stopped on exit.
# start_postgres sets TEST_DATABASE_URL, or says why the tests of PostgreSQL are going to be skipped.
# It needs the EXIT trap to call stop_postgres.
postgres_data=

postgres_tools() { # prints the newest folder that holds initdb, if there is one
  local initdb
  initdb=$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
  [ -z "$initdb" ] || dirname "$(readlink -f "$initdb")"
}

as_postgres() { # PostgreSQL refuses to run as root
  if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

start_postgres() {
  [ -z "${TEST_DATABASE_URL:-}" ] || return 0
  if [ -z "$(postgres_tools)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "== installing postgresql"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null 2>&1 ||
      { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql; } >/dev/null 2>&1 || true
  fi
  local tools port
  tools=$(postgres_tools)
  if [ -z "$tools" ]; then
    echo "== no PostgreSQL: it is not installed and cannot be (not root, or no packages); its tests are skipped"
    return 0
  fi
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  postgres_data=$(mktemp -d)
  [ "$(id -u)" != 0 ] || chown postgres "$postgres_data"
  (
    cd "$postgres_data"
    as_postgres "$tools/initdb" -D "$postgres_data/data" -U postgres --auth=trust --no-sync >/dev/null &&
      as_postgres "$tools/pg_ctl" -D "$postgres_data/data" -l "$postgres_data/log" -w -t 30 start \
        -o "-h 127.0.0.1 -p $port -c unix_socket_directories='' -c fsync=off" >/dev/null
  ) || {
    echo "== PostgreSQL did not start; its tests are skipped" >&2
    cat "$postgres_data/log" >&2 2>/dev/null || true
    return 0
  }
  export TEST_DATABASE_URL="postgresql://postgres@127.0.0.1:$port/postgres"
  echo "== PostgreSQL on port $port"
}

stop_postgres() {
  [ -n "$postgres_data" ] || return 0
  (cd / && as_postgres "$(postgres_tools)/pg_ctl" -D "$postgres_data/data" -m immediate stop >/dev/null 2>&1) || true
  rm -rf "$postgres_data"
}
